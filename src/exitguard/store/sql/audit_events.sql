-- The texts are those that the hash was made of.
SELECT account_name, seq, id, event_type, position_id, at, event_data::text AS data, changes::text AS changes,
    created_at, previous_hash, hash
FROM position_events WHERE account_name = $1 ORDER BY seq
