SELECT to_jsonb(t)::text AS body FROM order_intents t WHERE account_name = $1 ORDER BY client_order_id
