SELECT key FROM alarms WHERE account_name = $1 AND cleared_at IS NULL
