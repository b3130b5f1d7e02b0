SELECT * FROM dispatch_executions
WHERE account_name = $1 AND status IN ('intended', 'unknown', 'accepted', 'partially_filled')
ORDER BY simulated_ts, execution_id
