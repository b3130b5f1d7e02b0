SELECT account_name, id, verb, position_id, symbol, ok, result, answer FROM commands
WHERE id = ANY ($1::bigint[]) ORDER BY id
