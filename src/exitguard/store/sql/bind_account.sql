SELECT exitguard.bind_account($1, $2, $3, $4)
