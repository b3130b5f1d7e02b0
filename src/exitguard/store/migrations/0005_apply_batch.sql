-- The one way in which an account's processes change the ledger: a batch of operations, in one call and one
-- transaction, applied once, fenced by the epoch of the lease.

CREATE FUNCTION exitguard.event_hash(
    p_previous text, p_account text, p_seq bigint, p_type text, p_position bigint, p_at timestamptz, p_data jsonb
) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT encode(sha256(convert_to(
        concat_ws(E'\n', p_previous, p_account, p_seq, p_type, coalesce(p_position::text, '-'),
            (extract(epoch FROM p_at) * 1000000)::bigint, p_data::text),
        'UTF8')), 'hex')
$$;

-- The first sequence number at which the chain of an account is broken, NULL when it verifies (I6).
CREATE FUNCTION exitguard.broken_event(p_account text) RETURNS bigint LANGUAGE sql STABLE AS $$
    WITH chain AS (
        SELECT e.*, lag(e.hash, 1, repeat('0', 64)) OVER (ORDER BY e.seq) AS expected_previous,
            row_number() OVER (ORDER BY e.seq) AS expected_seq
        FROM public.position_events e WHERE e.account_name = p_account
    ), broken AS (
        SELECT seq FROM chain
        WHERE seq <> expected_seq OR previous_hash <> expected_previous
            OR hash <> exitguard.event_hash(previous_hash, account_name, seq, event_type, position_id, at, event_data)
        UNION ALL
        SELECT h.seq FROM public.event_heads h
        WHERE h.account_name = p_account AND h.seq <> (SELECT count(*) FROM chain)
    )
    SELECT min(seq) FROM broken
$$;

-- The parts of apply_batch, one for each operation. They run with its search path and its rights; plpgsql, because only
-- there the plans are kept for the next call on every supported server.

CREATE FUNCTION exitguard.put_position(p_row jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO active_positions AS t (
        account_name, id, uid, execution_id, symbol, ticker, option_symbol, instrument_type, strategy_type, side,
        quantity, original_quantity, entry_price, entry_time, stop_loss, take_profit, max_hold_deadline,
        expiration_date, strike_price, multiplier, policy_name, status, protection, protection_since,
        bracket_order_accepted, stop_order_id, target_order_id, current_price, current_pnl_dollars,
        current_pnl_percent, marked_at, last_checked_at, best_price, worst_price, scaled_out, adopted, close_reason,
        close_attempt, close_client_order_id, close_started_at, close_deadline, exit_price, realised_pnl, closed_at,
        features, created_at, check_recorded_at
    )
    SELECT r.account_name, r.id, r.uid, r.execution_id, r.symbol, r.ticker, r.option_symbol, r.instrument_type,
        r.strategy_type, r.side, r.quantity, r.original_quantity, r.entry_price, r.entry_time, r.stop_loss,
        r.take_profit, r.max_hold_deadline, r.expiration_date, r.strike_price, r.multiplier, r.policy_name, r.status,
        r.protection, r.protection_since, r.bracket_order_accepted, r.stop_order_id, r.target_order_id,
        r.current_price, r.current_pnl_dollars, r.current_pnl_percent, r.marked_at, r.last_checked_at, r.best_price,
        r.worst_price, r.scaled_out, r.adopted, r.close_reason, r.close_attempt, r.close_client_order_id,
        r.close_started_at, r.close_deadline, r.exit_price, r.realised_pnl, r.closed_at, r.features,
        coalesce(r.created_at, clock_timestamp()),
        CASE WHEN r.last_checked_at IS NOT NULL THEN clock_timestamp() END
    FROM jsonb_populate_record(NULL::active_positions, p_row) r
    ON CONFLICT (account_name, id) DO UPDATE SET
        uid = EXCLUDED.uid, execution_id = EXCLUDED.execution_id, symbol = EXCLUDED.symbol, ticker = EXCLUDED.ticker,
        option_symbol = EXCLUDED.option_symbol, instrument_type = EXCLUDED.instrument_type,
        strategy_type = EXCLUDED.strategy_type, side = EXCLUDED.side, quantity = EXCLUDED.quantity,
        original_quantity = EXCLUDED.original_quantity, entry_price = EXCLUDED.entry_price,
        entry_time = EXCLUDED.entry_time, stop_loss = EXCLUDED.stop_loss, take_profit = EXCLUDED.take_profit,
        max_hold_deadline = EXCLUDED.max_hold_deadline, expiration_date = EXCLUDED.expiration_date,
        strike_price = EXCLUDED.strike_price, multiplier = EXCLUDED.multiplier, policy_name = EXCLUDED.policy_name,
        status = EXCLUDED.status, protection = EXCLUDED.protection, protection_since = EXCLUDED.protection_since,
        bracket_order_accepted = EXCLUDED.bracket_order_accepted, stop_order_id = EXCLUDED.stop_order_id,
        target_order_id = EXCLUDED.target_order_id, current_price = EXCLUDED.current_price,
        current_pnl_dollars = EXCLUDED.current_pnl_dollars, current_pnl_percent = EXCLUDED.current_pnl_percent,
        marked_at = EXCLUDED.marked_at, last_checked_at = EXCLUDED.last_checked_at, best_price = EXCLUDED.best_price,
        worst_price = EXCLUDED.worst_price, scaled_out = EXCLUDED.scaled_out, adopted = EXCLUDED.adopted,
        close_reason = EXCLUDED.close_reason, close_attempt = EXCLUDED.close_attempt,
        close_client_order_id = EXCLUDED.close_client_order_id, close_started_at = EXCLUDED.close_started_at,
        close_deadline = EXCLUDED.close_deadline, exit_price = EXCLUDED.exit_price,
        realised_pnl = EXCLUDED.realised_pnl, closed_at = EXCLUDED.closed_at, features = EXCLUDED.features,
        updated_at = clock_timestamp(),
        check_recorded_at = CASE WHEN EXCLUDED.last_checked_at IS DISTINCT FROM t.last_checked_at
            THEN clock_timestamp() ELSE t.check_recorded_at END
    WHERE t.status <> 'closed' OR EXCLUDED.status = 'closed';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'position % of account % is closed for good', p_row ->> 'id', p_row ->> 'account_name'
            USING ERRCODE = 'XG010';
    END IF;
END
$$;

CREATE FUNCTION exitguard.put_execution(p_row jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dispatch_executions (
        account_name, execution_id, recommendation_id, symbol, ticker, option_symbol, instrument_type, strategy_type,
        action, side, qty, execution_mode, status, client_order_id, simulated_ts, stop_loss, take_profit,
        max_hold_minutes, broker_order_id, stop_order_id, target_order_id, filled_qty, avg_fill_price, executed_at,
        reason, features
    )
    SELECT r.account_name, r.execution_id, r.recommendation_id, r.symbol, r.ticker, r.option_symbol, r.instrument_type,
        r.strategy_type, r.action, r.side, r.qty, r.execution_mode, r.status, r.client_order_id, r.simulated_ts,
        r.stop_loss, r.take_profit, r.max_hold_minutes, r.broker_order_id, r.stop_order_id, r.target_order_id,
        r.filled_qty, r.avg_fill_price, r.executed_at, left(r.reason, 8000), r.features
    FROM jsonb_populate_record(NULL::dispatch_executions, p_row) r
    ON CONFLICT (account_name, execution_id) DO UPDATE SET
        recommendation_id = EXCLUDED.recommendation_id, symbol = EXCLUDED.symbol, ticker = EXCLUDED.ticker,
        option_symbol = EXCLUDED.option_symbol, instrument_type = EXCLUDED.instrument_type,
        strategy_type = EXCLUDED.strategy_type, action = EXCLUDED.action, side = EXCLUDED.side, qty = EXCLUDED.qty,
        execution_mode = EXCLUDED.execution_mode, status = EXCLUDED.status, client_order_id = EXCLUDED.client_order_id,
        simulated_ts = EXCLUDED.simulated_ts, stop_loss = EXCLUDED.stop_loss, take_profit = EXCLUDED.take_profit,
        max_hold_minutes = EXCLUDED.max_hold_minutes, broker_order_id = EXCLUDED.broker_order_id,
        stop_order_id = EXCLUDED.stop_order_id, target_order_id = EXCLUDED.target_order_id,
        filled_qty = EXCLUDED.filled_qty, avg_fill_price = EXCLUDED.avg_fill_price, executed_at = EXCLUDED.executed_at,
        reason = EXCLUDED.reason, features = EXCLUDED.features, updated_at = clock_timestamp();
END
$$;

CREATE FUNCTION exitguard.put_intent(p_row jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO order_intents (
        account_name, client_order_id, purpose, symbol, side, qty, status, attempt, created_at, position_id,
        execution_id, broker_order_id, request, detail
    )
    SELECT r.account_name, r.client_order_id, r.purpose, r.symbol, r.side, r.qty, r.status, r.attempt, r.created_at,
        r.position_id, r.execution_id, r.broker_order_id, r.request, left(r.detail, 8000)
    FROM jsonb_populate_record(NULL::order_intents, p_row) r
    ON CONFLICT (account_name, client_order_id) DO UPDATE SET
        purpose = EXCLUDED.purpose, symbol = EXCLUDED.symbol, side = EXCLUDED.side, qty = EXCLUDED.qty,
        status = EXCLUDED.status, attempt = EXCLUDED.attempt, created_at = EXCLUDED.created_at,
        position_id = EXCLUDED.position_id, execution_id = EXCLUDED.execution_id,
        broker_order_id = EXCLUDED.broker_order_id, request = EXCLUDED.request, detail = EXCLUDED.detail,
        updated_at = clock_timestamp();
END
$$;

CREATE FUNCTION exitguard.put_fill(p_account text, p_op jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO position_fills (
        account_name, execution_id, position_id, order_id, client_order_id, symbol, side, qty, price, at, source
    )
    SELECT p_account, r.execution_id, (p_op ->> 'position_id')::bigint, r.order_id, r.client_order_id, r.symbol, r.side,
        r.qty, r.price, r.at, p_op ->> 'source'
    FROM jsonb_populate_record(NULL::position_fills, p_op -> 'fill') r
    ON CONFLICT (account_name, execution_id) DO NOTHING;
END
$$;

CREATE FUNCTION exitguard.put_history(p_row jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO position_history (
        account_name, position_id, execution_id, symbol, ticker, option_symbol, instrument_type, strategy_type, side,
        quantity, multiplier, entry_price, exit_price, entry_time, closed_at, realised_pnl, realised_pnl_percent,
        outcome, close_reason, hold_minutes, best_price, worst_price, trigger_price, trigger_at, build, policy_hash,
        features
    )
    SELECT r.account_name, r.position_id, r.execution_id, r.symbol, r.ticker, r.option_symbol, r.instrument_type,
        r.strategy_type, r.side, r.quantity, r.multiplier, r.entry_price, r.exit_price, r.entry_time, r.closed_at,
        r.realised_pnl, r.realised_pnl_percent, r.outcome, r.close_reason, r.hold_minutes, r.best_price, r.worst_price,
        r.trigger_price, r.trigger_at, r.build, r.policy_hash, r.features
    FROM jsonb_populate_record(NULL::position_history, p_row) r;
END
$$;

CREATE FUNCTION exitguard.set_recommendation(p_account text, p_op jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE dispatch_recommendations SET status = p_op ->> 'status', reason = left(p_op ->> 'reason', 8000),
        updated_at = (p_op ->> 'at')::timestamptz
        WHERE account_name = p_account AND id = (p_op ->> 'id')::bigint;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'account % has no recommendation %', p_account, p_op ->> 'id' USING ERRCODE = 'XG010';
    END IF;
END
$$;

CREATE FUNCTION exitguard.raise_alarm(p_account text, p_op jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO alarms AS a (account_name, key, kind, message, position_id, details, raised_at, refreshed_at)
    VALUES (p_account, p_op ->> 'key', p_op ->> 'kind', left(p_op ->> 'message', 8000),
        (p_op ->> 'position_id')::bigint, p_op -> 'details', (p_op ->> 'at')::timestamptz, (p_op ->> 'at')::timestamptz)
    ON CONFLICT (account_name, key) WHERE cleared_at IS NULL DO UPDATE SET kind = EXCLUDED.kind,
        message = EXCLUDED.message, position_id = EXCLUDED.position_id, details = EXCLUDED.details,
        refreshed_at = EXCLUDED.refreshed_at, times = a.times + 1;
END
$$;

CREATE FUNCTION exitguard.finish_command(p_account text, p_op jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- The first answer stands; a second one for the same request changes nothing.
    UPDATE commands SET ok = coalesce(ok, (p_op ->> 'ok')::boolean), result = coalesce(result, left(p_op ->> 'result', 8000)),
        finished_at = coalesce(finished_at, (p_op ->> 'at')::timestamptz)
        WHERE account_name = p_account AND id = (p_op ->> 'id')::bigint;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'account % has no command %', p_account, p_op ->> 'id' USING ERRCODE = 'XG010';
    END IF;
END
$$;

-- Returns whether the batch was applied now; false when it had been applied before.
-- p_journaled_epoch: the epoch under which the batch was written to a journal, when its writer is gone and the holder
-- of p_epoch writes it for him. Refused when somebody else wrote in between: the journal's view is then too old.
CREATE FUNCTION exitguard.apply_batch(
    p_account text, p_epoch bigint, p_batch uuid, p_at timestamptz, p_operations jsonb,
    p_journaled_epoch bigint DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    v_component text;
    v_op jsonb;
    v_seq bigint;
    v_hash text;
    v_previous text;
    v_data jsonb;
BEGIN
    v_component := exitguard.fenced_component(p_account, p_epoch);
    INSERT INTO applied_batches (account_name, batch_id, epoch, component, at)
        VALUES (p_account, p_batch, coalesce(p_journaled_epoch, p_epoch), v_component, p_at) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF p_journaled_epoch <> p_epoch AND EXISTS (
        SELECT FROM applied_batches
        WHERE account_name = p_account AND component = v_component AND epoch > p_journaled_epoch
    ) THEN
        RAISE EXCEPTION 'batch % was journaled under epoch % of account %, and a later holder has written since',
            p_batch, p_journaled_epoch, p_account USING ERRCODE = 'XG011';
    END IF;
    FOR v_op IN SELECT value FROM jsonb_array_elements(p_operations) LOOP
        CASE v_op ->> 'op'
            WHEN 'put_position' THEN
                PERFORM exitguard.put_position(v_op -> 'row');
            WHEN 'append_event' THEN
                IF v_seq IS NULL THEN
                    SELECT seq, hash INTO v_seq, v_hash FROM event_heads WHERE account_name = p_account FOR UPDATE;
                    IF NOT FOUND THEN
                        -- The first event of the account; two components may be writing it at the same time.
                        INSERT INTO event_heads (account_name, seq, hash) VALUES (p_account, 0, repeat('0', 64))
                            ON CONFLICT DO NOTHING;
                        SELECT seq, hash INTO v_seq, v_hash FROM event_heads WHERE account_name = p_account FOR UPDATE;
                    END IF;
                END IF;
                v_seq := v_seq + 1;
                v_previous := v_hash;
                v_data := (v_op -> 'data') || jsonb_build_object('account_name', p_account);
                v_hash := exitguard.event_hash(v_previous, p_account, v_seq, v_op ->> 'type',
                    (v_op ->> 'position_id')::bigint, (v_op ->> 'at')::timestamptz, v_data);
                INSERT INTO position_events (
                    account_name, seq, event_type, position_id, at, event_data, previous_hash, hash
                ) VALUES (
                    p_account, v_seq, v_op ->> 'type', (v_op ->> 'position_id')::bigint, (v_op ->> 'at')::timestamptz,
                    v_data, v_previous, v_hash
                );
            WHEN 'put_intent' THEN
                PERFORM exitguard.put_intent(v_op -> 'row');
            WHEN 'put_fill' THEN
                PERFORM exitguard.put_fill(p_account, v_op);
            WHEN 'put_history' THEN
                PERFORM exitguard.put_history(v_op -> 'row');
            WHEN 'put_execution' THEN
                PERFORM exitguard.put_execution(v_op -> 'row');
            WHEN 'set_recommendation' THEN
                PERFORM exitguard.set_recommendation(p_account, v_op);
            WHEN 'raise_alarm' THEN
                PERFORM exitguard.raise_alarm(p_account, v_op);
            WHEN 'clear_alarm' THEN
                UPDATE alarms SET cleared_at = (v_op ->> 'at')::timestamptz
                    WHERE account_name = p_account AND key = v_op ->> 'key' AND cleared_at IS NULL;
            WHEN 'finish_command' THEN
                PERFORM exitguard.finish_command(p_account, v_op);
            WHEN 'set_aside' THEN
                INSERT INTO set_aside (account_name, kind, reason, payload, at) VALUES (
                    p_account, left(v_op ->> 'kind', 200), left(v_op ->> 'reason', 8000), v_op -> 'payload',
                    (v_op ->> 'at')::timestamptz
                );
            ELSE
                RAISE EXCEPTION 'batch % has an unknown operation %', p_batch, left(v_op ->> 'op', 100)
                    USING ERRCODE = 'XG010';
        END CASE;
    END LOOP;
    IF v_seq IS NOT NULL THEN
        UPDATE event_heads SET seq = v_seq, hash = v_hash WHERE account_name = p_account;
    END IF;
    RETURN true;
END
$$;

-- The writing functions belong to a role that row-level security holds for, and only it may call their parts.
DO $$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT oid FROM pg_proc WHERE pronamespace = 'exitguard'::regnamespace AND (
            prosecdef OR proname IN ('put_position', 'put_execution', 'put_intent', 'put_fill', 'put_history',
                'set_recommendation', 'raise_alarm', 'finish_command')
        )
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', v_function);
        EXECUTE format('ALTER FUNCTION %s OWNER TO exitguard_writer', v_function);
    END LOOP;
    FOR v_function IN
        SELECT oid FROM pg_proc WHERE pronamespace = 'exitguard'::regnamespace AND prosecdef
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO exitguard_app', v_function);
    END LOOP;
END
$$;
REVOKE CREATE ON SCHEMA exitguard FROM exitguard_writer;

--! SELECT count(*) = 8 FROM pg_proc WHERE pronamespace = 'exitguard'::regnamespace AND prosecdef
--!     AND proowner = 'exitguard_writer'::regrole AND NOT has_function_privilege('exitguard_operator', oid, 'EXECUTE')
