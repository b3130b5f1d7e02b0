SELECT account_name, event_type AS kind, count(*) AS n FROM position_events GROUP BY account_name, event_type
ORDER BY account_name, event_type
