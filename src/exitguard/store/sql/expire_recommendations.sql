UPDATE dispatch_recommendations SET status = 'expired', reason = 'expired before it was claimed', updated_at = $2
WHERE account_name = $1 AND status = 'pending' AND expires_at <= $2
