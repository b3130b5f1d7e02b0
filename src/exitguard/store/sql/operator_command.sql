SELECT id, account_name, verb, requested_at, finished_at, ok, result FROM commands WHERE id = $1
