SELECT account_name, seq, id, at, created_at, event_type, position_id, event_data
FROM position_events
WHERE ($1::text IS NULL OR account_name = $1) AND ($2::bigint IS NULL OR position_id = $2)
    AND ($3::text[] IS NULL OR event_type = ANY ($3)) AND id > $4
ORDER BY id DESC
LIMIT $5
