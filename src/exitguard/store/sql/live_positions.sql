SELECT * FROM active_positions WHERE account_name = $1 AND status IN ('open', 'closing') ORDER BY id
