-- A row that a batch is changing at this moment is left to it: the batch writes the whole row, and a sweep that waited
-- for one batch while it holds rows that another waits for would be a deadlock.
WITH m AS MATERIALIZED (
    SELECT given.* FROM unnest(
        $3::bigint[], $4::numeric[], $5::numeric[], $6::numeric[], $7::numeric[], $8::numeric[], $9::timestamptz[],
        $10::timestamptz[], $11::text[], $12::timestamptz[]
    ) AS given (
        id, price, pnl_dollars, pnl_percent, best_price, worst_price, marked_at, checked_at, protection,
        protection_since
    )
    JOIN active_positions p ON p.account_name = $1 AND p.id = given.id AND p.status IN ('open', 'closing')
    FOR NO KEY UPDATE OF p SKIP LOCKED
)
UPDATE active_positions p SET
    -- Without a usable quote the last mark stays, with the time at which it was true.
    current_price = coalesce(m.price, p.current_price),
    current_pnl_dollars = coalesce(m.pnl_dollars, p.current_pnl_dollars),
    current_pnl_percent = coalesce(m.pnl_percent, p.current_pnl_percent),
    marked_at = coalesce(m.marked_at, p.marked_at),
    -- A batch may have been faster, with a later look: an extreme never falls back (F55).
    best_price = CASE WHEN m.checked_at < p.last_checked_at THEN p.best_price ELSE m.best_price END,
    worst_price = CASE WHEN m.checked_at < p.last_checked_at THEN p.worst_price ELSE m.worst_price END,
    last_checked_at = m.checked_at,
    protection = m.protection, protection_since = m.protection_since,
    check_recorded_at = clock_timestamp(), updated_at = clock_timestamp()
FROM m
WHERE p.account_name = $1 AND p.id = m.id
    AND EXISTS (SELECT FROM leases l WHERE l.account_name = $1 AND l.epoch = $2 AND l.released_at IS NULL)
