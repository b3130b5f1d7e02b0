SELECT * FROM order_intents WHERE account_name = $1 AND client_order_id = $2
