SELECT * FROM commands WHERE account_name = $1 AND finished_at IS NULL ORDER BY id
