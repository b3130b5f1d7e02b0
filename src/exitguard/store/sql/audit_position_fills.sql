SELECT to_jsonb(t)::text AS body FROM position_fills t WHERE account_name = $1 ORDER BY execution_id
