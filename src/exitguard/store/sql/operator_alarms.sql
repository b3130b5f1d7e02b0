SELECT * FROM alarms WHERE NOT $1::boolean OR cleared_at IS NULL ORDER BY raised_at DESC, id DESC LIMIT 1000
