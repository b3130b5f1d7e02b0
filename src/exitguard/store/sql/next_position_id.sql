SELECT coalesce(max(id), 0) + 1 FROM active_positions WHERE account_name = $1
