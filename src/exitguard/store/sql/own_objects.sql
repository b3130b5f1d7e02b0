SELECT format('DROP %s IF EXISTS public.%I CASCADE', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, relname)
    AS statement
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') AND relname IN (
    'accounts', 'leases', 'heartbeats', 'policies', 'dispatch_recommendations', 'dispatch_executions',
    'active_positions', 'position_fills', 'event_heads', 'position_events', 'order_intents', 'position_history',
    'alarms', 'commands', 'set_aside', 'applied_batches', 'v_account_clocks', 'v_open_positions_summary',
    'v_position_performance', 'v_position_health_check')
ORDER BY relkind = 'r'
