SELECT account_name, status AS kind, count(*) AS n FROM dispatch_recommendations GROUP BY account_name, status
ORDER BY account_name, status
