SELECT to_jsonb(t)::text AS body FROM position_history t WHERE account_name = $1 ORDER BY position_id
