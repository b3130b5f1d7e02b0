SELECT exitguard.release_lease($1, $2, $3)
