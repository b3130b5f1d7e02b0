SELECT account_name FROM accounts
UNION SELECT account_name FROM event_heads
UNION SELECT account_name FROM position_events
UNION SELECT account_name FROM active_positions
ORDER BY account_name
