SELECT account_name, position_id, symbol, ticker, side, quantity, multiplier, entry_price, exit_price, entry_time,
    closed_at, realised_pnl, close_reason, trigger_price, trigger_at
FROM position_history
ORDER BY closed_at
