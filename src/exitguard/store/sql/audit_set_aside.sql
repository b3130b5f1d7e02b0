SELECT to_jsonb(t)::text AS body FROM set_aside t WHERE account_name = $1 ORDER BY id
