SELECT to_jsonb(t)::text AS body FROM dispatch_executions t WHERE account_name = $1 ORDER BY execution_id
