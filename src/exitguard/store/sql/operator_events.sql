SELECT id, account_name, seq, event_type, position_id, at, event_data, created_at FROM position_events
WHERE $1::text IS NULL OR account_name = $1 ORDER BY created_at DESC, id DESC LIMIT $2
