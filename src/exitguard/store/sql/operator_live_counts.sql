SELECT account_name, count(*) AS n FROM active_positions WHERE status IN ('open', 'closing') GROUP BY account_name
