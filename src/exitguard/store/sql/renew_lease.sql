SELECT expires_at, locked FROM exitguard.renew_lease($1, $2, $3, $4, $5)
