SELECT to_jsonb(t)::text AS body FROM commands t WHERE account_name = $1 ORDER BY id
