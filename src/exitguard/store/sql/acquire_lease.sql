SELECT epoch, expires_at FROM exitguard.acquire_lease($1, $2, $3, $4)
