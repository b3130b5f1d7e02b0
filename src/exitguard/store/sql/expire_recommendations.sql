UPDATE dispatch_recommendations r SET status = 'expired', reason = 'expired before an order was made', updated_at = $2
WHERE account_name = $1 AND expires_at <= $2
    AND (
        status = 'pending'
        OR (
            status = 'claimed' AND $3::bigint IS NOT NULL AND (claimed_epoch IS NULL OR claimed_epoch < $3)
            AND NOT EXISTS (
                SELECT FROM dispatch_executions e
                WHERE e.account_name = r.account_name AND e.recommendation_id = r.id
            )
        )
    )
