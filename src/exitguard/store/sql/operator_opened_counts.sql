SELECT account_name, count(*) AS n FROM active_positions GROUP BY account_name
