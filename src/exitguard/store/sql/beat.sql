SELECT exitguard.beat($1, $2, $3::jsonb)
