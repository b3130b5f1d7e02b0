SELECT f.order_id, sum(f.qty) AS qty, sum(f.qty * f.price) AS value FROM position_fills f
WHERE f.account_name = $1
    AND f.at > (SELECT max(l.at) - INTERVAL '30 days' FROM position_fills l WHERE l.account_name = f.account_name)
GROUP BY f.order_id
