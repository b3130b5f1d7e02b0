SELECT to_jsonb(t)::text AS body FROM active_positions t WHERE account_name = $1 ORDER BY id
