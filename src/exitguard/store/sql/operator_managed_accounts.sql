SELECT account_name FROM leases
WHERE component = 'manager' AND released_at IS NULL AND expires_at > clock_timestamp()
ORDER BY account_name
