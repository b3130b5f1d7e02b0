SELECT account_name, kind, message, position_id, raised_at, times FROM alarms WHERE cleared_at IS NULL
ORDER BY account_name, raised_at, id
