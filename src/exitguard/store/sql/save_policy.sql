SELECT exitguard.save_policy($1, $2, $3::jsonb)
