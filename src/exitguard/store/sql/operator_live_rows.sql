SELECT account_name, id, symbol, ticker, instrument_type, side, quantity, original_quantity, multiplier, entry_price, current_price,
    current_pnl_dollars, current_pnl_percent, realised_pnl, status, protection, stop_loss, take_profit,
    max_hold_deadline, strategy_type, expiration_date, entry_time, close_reason
FROM active_positions
WHERE status IN ('open', 'closing') AND ($1::text IS NULL OR account_name = $1)
ORDER BY account_name, id
