SELECT to_jsonb(t)::text AS body FROM alarms t WHERE account_name = $1 ORDER BY id
