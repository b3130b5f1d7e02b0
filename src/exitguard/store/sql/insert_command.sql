INSERT INTO commands (account_name, verb, position_id, symbol, requested_by, arguments)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING id
