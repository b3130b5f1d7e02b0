SELECT exitguard.apply_batch($1, $2, $3, $4, $5::jsonb)
