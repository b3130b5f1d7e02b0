-- What operators look at. The views show what the reader's role may see.

-- Time as an account's venue has it: the server's clock, unless the venue's clock is moved from outside (replay, demo),
-- which shows in a heartbeat that is far from the server's clock.
CREATE VIEW v_account_clocks WITH (security_invoker = true) AS
SELECT DISTINCT ON (account_name) account_name,
    CASE WHEN abs(extract(epoch FROM venue_time - beaten_at)) < 3600 THEN now() ELSE venue_time END AS venue_now
FROM heartbeats
ORDER BY account_name, beaten_at DESC;

CREATE VIEW v_open_positions_summary WITH (security_invoker = true) AS
SELECT p.account_name, p.id, p.ticker, p.option_symbol, p.symbol, p.instrument_type, p.strategy_type, p.side, p.status,
    p.protection, p.protection_since, p.quantity, p.entry_price, p.current_price,
    round(p.current_pnl_dollars, 2) AS current_pnl_dollars, round(p.current_pnl_percent, 4) AS current_pnl_percent,
    round((extract(epoch FROM coalesce(c.venue_now, now()) - p.entry_time) / 60)::numeric, 1) AS hold_minutes,
    round((extract(epoch FROM (p.expiration_date + time '16:00') AT TIME ZONE 'America/New_York'
        - coalesce(c.venue_now, now())) / 3600)::numeric, 2) AS hours_to_expiration,
    p.bracket_order_accepted, p.stop_loss, p.take_profit, p.max_hold_deadline, p.close_reason, p.close_attempt,
    p.close_deadline, p.entry_time, p.marked_at, p.last_checked_at, p.execution_id, p.created_at
FROM active_positions p
LEFT JOIN v_account_clocks c USING (account_name)
WHERE p.status IN ('open', 'closing');

CREATE VIEW v_position_performance WITH (security_invoker = true) AS
SELECT h.account_name, h.position_id, h.ticker, h.option_symbol, h.symbol, h.instrument_type, h.strategy_type, h.side,
    h.quantity, h.entry_price, h.exit_price,
    CASE sign(h.realised_pnl) WHEN 1 THEN 'win' WHEN -1 THEN 'loss' ELSE 'flat' END AS outcome,
    round(h.realised_pnl, 2) AS final_pnl_dollars, round(h.realised_pnl_percent, 4) AS final_pnl_percent,
    round(h.hold_minutes, 1) AS hold_minutes, h.close_reason, h.entry_time, h.closed_at, h.execution_id, h.build
FROM position_history h;

-- One row, also when there are no positions. Nothing that is unknown counts as healthy (F132): a position that was
-- never checked is stale once it is five minutes old, and a bracket that nobody confirmed is missing.
CREATE VIEW v_position_health_check WITH (security_invoker = true) AS
SELECT
    count(*) FILTER (WHERE p.status = 'open') AS open_positions,
    count(*) FILTER (WHERE p.status = 'closing') AS closing_positions,
    count(*) FILTER (
        WHERE coalesce(p.check_recorded_at, p.created_at) <= now() - interval '5 minutes'
            OR coalesce(p.last_checked_at <= c.venue_now - interval '5 minutes', false)
    ) AS stale_positions,
    count(*) FILTER (
        WHERE p.status = 'open' AND p.instrument_type = 'STOCK' AND p.bracket_order_accepted IS NOT TRUE
    ) AS missing_brackets,
    count(*) FILTER (WHERE p.strategy_type = 'day_trade') AS open_day_trades,
    count(*) FILTER (
        WHERE (p.expiration_date + time '16:00') AT TIME ZONE 'America/New_York'
            < coalesce(c.venue_now, now()) + interval '24 hours'
    ) AS expiring_soon
FROM active_positions p
LEFT JOIN v_account_clocks c USING (account_name)
WHERE p.status IN ('open', 'closing');

GRANT SELECT ON v_account_clocks, v_open_positions_summary, v_position_performance, v_position_health_check
    TO exitguard_app, exitguard_operator;

--! SELECT count(*) = 4 FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'
--!     AND reloptions @> ARRAY['security_invoker=true']
