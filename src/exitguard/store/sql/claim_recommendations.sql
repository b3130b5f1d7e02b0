WITH waiting AS (
    SELECT id FROM dispatch_recommendations r
    WHERE account_name = $1
        AND (
            status = 'pending'
            -- Claimed by a holder of the lease before us, and nothing came of it.
            OR (
                status = 'claimed' AND $4::bigint IS NOT NULL AND (claimed_epoch IS NULL OR claimed_epoch < $4)
                AND NOT EXISTS (
                    SELECT FROM dispatch_executions e
                    WHERE e.account_name = r.account_name AND e.recommendation_id = r.id
                )
            )
        )
        AND (expires_at IS NULL OR expires_at > $2)
        AND ($4::bigint IS NULL OR EXISTS (
            SELECT FROM leases l WHERE l.account_name = $1 AND l.epoch = $4 AND l.released_at IS NULL
        ))
    ORDER BY created_at DESC, id DESC
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE dispatch_recommendations r
SET status = 'claimed', claimed_at = $2, claimed_epoch = $4, updated_at = $2
FROM waiting WHERE r.account_name = $1 AND r.id = waiting.id
RETURNING r.*
