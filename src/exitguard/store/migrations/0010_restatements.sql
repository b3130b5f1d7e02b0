-- Splits, new symbols and adjusted contracts restate a position: its row remembers what did, its fills stay as they came.

ALTER TABLE active_positions ADD COLUMN restatements jsonb NOT NULL DEFAULT '[]'
    CHECK (jsonb_typeof(restatements) = 'array');
ALTER TABLE position_events DROP CONSTRAINT position_events_event_type_check;
ALTER TABLE position_events ADD CONSTRAINT position_events_event_type_check CHECK (
    event_type IN (
        'created', 'adopted', 'price_update', 'partial_fill', 'fill', 'exit_triggered', 'exit_held', 'exit_pending',
        'close_submitted', 'close_failed', 'closed', 'reduced', 'reconciled', 'protection_changed',
        'bracket_restored', 'bracket_failed', 'alarm_raised', 'alarm_cleared', 'foreign_order', 'manager_started',
        'manager_stopped', 'account_bound', 'command', 'entry_submitted', 'entry_refused', 'recorded', 'split',
        'symbol_changed', 'contract_adjusted'
    )
);

CREATE OR REPLACE FUNCTION exitguard.put_position(p_row jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO active_positions AS t (
        account_name, id, uid, execution_id, symbol, ticker, option_symbol, instrument_type, strategy_type, side,
        quantity, original_quantity, entry_price, entry_time, stop_loss, take_profit, max_hold_deadline,
        expiration_date, strike_price, multiplier, policy_name, status, protection, protection_since,
        bracket_order_accepted, stop_order_id, target_order_id, current_price, current_pnl_dollars,
        current_pnl_percent, marked_at, last_checked_at, best_price, worst_price, scaled_out, adopted, close_reason,
        close_attempt, close_client_order_id, close_started_at, close_deadline, exit_price, realised_pnl, closed_at,
        features, restatements, created_at, check_recorded_at
    )
    SELECT r.account_name, r.id, r.uid, r.execution_id, r.symbol, r.ticker, r.option_symbol, r.instrument_type,
        r.strategy_type, r.side, r.quantity, r.original_quantity, r.entry_price, r.entry_time, r.stop_loss,
        r.take_profit, r.max_hold_deadline, r.expiration_date, r.strike_price, r.multiplier, r.policy_name, r.status,
        r.protection, r.protection_since, r.bracket_order_accepted, r.stop_order_id, r.target_order_id,
        r.current_price, r.current_pnl_dollars, r.current_pnl_percent, r.marked_at, r.last_checked_at, r.best_price,
        r.worst_price, r.scaled_out, r.adopted, r.close_reason, r.close_attempt, r.close_client_order_id,
        r.close_started_at, r.close_deadline, r.exit_price, r.realised_pnl, r.closed_at, r.features,
        coalesce(r.restatements, '[]'),
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
        restatements = EXCLUDED.restatements,
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

--! SELECT EXISTS (SELECT FROM information_schema.columns
--!     WHERE table_schema = 'public' AND table_name = 'active_positions' AND column_name = 'restatements')
