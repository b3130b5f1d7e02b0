SELECT account_name, 'execution' AS kind, client_order_id AS name, status FROM dispatch_executions
WHERE status IN ('intended', 'unknown', 'accepted', 'partially_filled')
UNION ALL
SELECT account_name, 'intent', client_order_id, status FROM order_intents
WHERE status IN ('intended', 'unknown', 'working')
UNION ALL
SELECT account_name, 'signal', id::text, status FROM dispatch_recommendations WHERE status IN ('pending', 'claimed')
