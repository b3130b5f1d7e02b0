SELECT e.* FROM dispatch_executions e
WHERE e.account_name = $1 AND (e.filled_qty > 0 OR e.status IN ('intended', 'unknown', 'accepted', 'partially_filled', 'filled'))
    AND NOT EXISTS (
        SELECT FROM active_positions p WHERE p.account_name = e.account_name AND p.execution_id = e.execution_id
    )
    -- An entry that added to a position has its fills there.
    AND NOT EXISTS (
        SELECT FROM position_fills f WHERE f.account_name = e.account_name AND f.order_id = e.broker_order_id
    )
ORDER BY e.simulated_ts, e.execution_id
LIMIT $2
