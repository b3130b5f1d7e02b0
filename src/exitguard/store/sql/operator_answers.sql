SELECT account_name, id, position_id, symbol, ok, result FROM commands WHERE id = ANY ($1::bigint[]) ORDER BY id
