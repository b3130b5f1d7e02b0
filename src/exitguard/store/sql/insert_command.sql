INSERT INTO commands (account_name, verb, position_id, symbol, requested_by) VALUES ($1, $2, $3, $4, $5) RETURNING id
