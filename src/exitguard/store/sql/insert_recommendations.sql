INSERT INTO dispatch_recommendations (
    account_name, ticker, option_symbol, action, strategy_type, qty, stop_loss, take_profit, max_hold_minutes,
    confidence, features, created_at, expires_at
)
SELECT r.account_name, r.ticker, r.option_symbol, r.action, r.strategy_type, r.qty, r.stop_loss, r.take_profit,
    r.max_hold_minutes, r.confidence, r.features, coalesce(r.created_at, clock_timestamp()), r.expires_at
FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS given (value, place),
    jsonb_populate_record(NULL::dispatch_recommendations, given.value) r
ORDER BY given.place
RETURNING id
