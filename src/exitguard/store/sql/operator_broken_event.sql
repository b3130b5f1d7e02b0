SELECT exitguard.broken_event($1)
