UPDATE dispatch_recommendations SET status = 'set_aside', reason = $3, updated_at = $4
WHERE account_name = $1 AND id = $2
