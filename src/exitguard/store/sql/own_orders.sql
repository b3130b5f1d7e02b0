-- What our books know of these order ids and client order ids, of orders that ended too.
SELECT client_order_id, broker_order_id AS order_id, status IN ('intended', 'unknown', 'working') AS wanted
FROM order_intents
WHERE account_name = $1 AND (client_order_id = ANY ($2::text[]) OR broker_order_id = ANY ($2))
UNION ALL
SELECT e.client_order_id, o.order_id, e.status IN ('intended', 'unknown', 'accepted', 'partially_filled')
FROM dispatch_executions e
CROSS JOIN LATERAL (VALUES (e.broker_order_id), (e.stop_order_id), (e.target_order_id)) AS o (order_id)
WHERE e.account_name = $1 AND (e.client_order_id = ANY ($2) OR o.order_id = ANY ($2))
UNION ALL
SELECT NULL, o.order_id, false
FROM active_positions p
CROSS JOIN LATERAL (VALUES (p.stop_order_id), (p.target_order_id)) AS o (order_id)
WHERE p.account_name = $1 AND o.order_id = ANY ($2)
