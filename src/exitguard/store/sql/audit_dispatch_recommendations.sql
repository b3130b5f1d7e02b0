SELECT to_jsonb(t)::text AS body FROM dispatch_recommendations t WHERE account_name = $1 ORDER BY id
