SELECT to_jsonb(t)::text AS body FROM accounts t WHERE account_name = $1 ORDER BY account_name
