INSERT INTO set_aside (account_name, kind, reason, payload, at) VALUES ($1, $2, $3, $4::jsonb, $5)
