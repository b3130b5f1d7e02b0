SELECT * FROM order_intents WHERE account_name = $1 AND status IN ('armed', 'intended', 'unknown', 'working')
ORDER BY created_at, client_order_id
