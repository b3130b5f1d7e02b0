-- Row-level security, append-only events, wake-up calls.

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'accounts', 'leases', 'heartbeats', 'dispatch_recommendations', 'dispatch_executions', 'active_positions',
        'position_fills', 'event_heads', 'position_events', 'order_intents', 'position_history', 'alarms', 'commands',
        'set_aside', 'applied_batches'
    ] LOOP
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_table);
        -- A session without app.account gets an error, not an empty answer. The sub-select is evaluated once.
        EXECUTE format(
            'CREATE POLICY own_account ON public.%I TO exitguard_app, exitguard_writer '
            'USING (account_name = (SELECT current_setting(''app.account'')))', v_table
        );
        EXECUTE format(
            'CREATE POLICY read_all ON public.%I FOR SELECT TO exitguard_operator USING (true)', v_table
        );
        EXECUTE format('GRANT SELECT ON public.%I TO exitguard_app, exitguard_operator', v_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON public.%I TO exitguard_writer', v_table);
    END LOOP;
END
$$;

REVOKE UPDATE ON position_events, position_fills, position_history, set_aside, applied_batches FROM exitguard_writer;
GRANT DELETE ON applied_batches TO exitguard_writer;
GRANT SELECT ON policies TO exitguard_app, exitguard_operator;
GRANT SELECT, INSERT ON policies TO exitguard_writer;

-- The only columns that an account's process writes by statement: marks of a sweep, and claims of signals.
GRANT UPDATE (
    current_price, current_pnl_dollars, current_pnl_percent, best_price, worst_price, marked_at, last_checked_at,
    protection, protection_since, check_recorded_at, updated_at
) ON active_positions TO exitguard_app;
GRANT UPDATE (status, reason, claimed_at, claimed_epoch, updated_at) ON dispatch_recommendations TO exitguard_app;
GRANT INSERT ON set_aside TO exitguard_app;

-- What a person may ask for.
GRANT INSERT ON dispatch_recommendations, commands TO exitguard_desk;
CREATE POLICY ask ON dispatch_recommendations FOR INSERT TO exitguard_desk WITH CHECK (true);
CREATE POLICY ask ON commands FOR INSERT TO exitguard_desk WITH CHECK (finished_at IS NULL);

CREATE FUNCTION exitguard.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: the table is append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'XG020';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON position_events
    FOR EACH ROW EXECUTE FUNCTION exitguard.refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON position_events
    FOR EACH STATEMENT EXECUTE FUNCTION exitguard.refuse_change();

-- The channel on which an account's processes listen.
CREATE FUNCTION exitguard.channel(p_account text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT 'exitguard_' || md5(p_account)
$$;

CREATE FUNCTION exitguard.wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(exitguard.channel(NEW.account_name), TG_ARGV[0]);
    RETURN NULL;
END
$$;
CREATE TRIGGER wake AFTER INSERT ON dispatch_recommendations
    FOR EACH ROW EXECUTE FUNCTION exitguard.wake('recommendations');
CREATE TRIGGER wake AFTER INSERT ON commands FOR EACH ROW EXECUTE FUNCTION exitguard.wake('commands');

-- Signals come from outside: their text is bounded, whatever it holds.
CREATE FUNCTION exitguard.bound_recommendation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.ticker := left(NEW.ticker, 200);
    NEW.option_symbol := left(NEW.option_symbol, 200);
    NEW.action := left(NEW.action, 200);
    NEW.strategy_type := left(NEW.strategy_type, 200);
    NEW.qty := left(NEW.qty, 200);
    NEW.stop_loss := left(NEW.stop_loss, 200);
    NEW.take_profit := left(NEW.take_profit, 200);
    NEW.max_hold_minutes := left(NEW.max_hold_minutes, 200);
    NEW.confidence := left(NEW.confidence, 200);
    IF pg_column_size(NEW.features) > 65536 THEN
        NEW.features := jsonb_build_object('dropped', 'features were larger than 64 KiB');
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER bound BEFORE INSERT ON dispatch_recommendations
    FOR EACH ROW EXECUTE FUNCTION exitguard.bound_recommendation();

--! SELECT bool_and(relrowsecurity) AND count(*) = 15 FROM pg_class
--!     WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'policies'
