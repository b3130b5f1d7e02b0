SELECT h.account_name, h.component, h.build, h.policy_hash, h.config_hash, h.broker_account_number, h.venue_time,
    h.open_positions, h.closing_positions, h.beaten_at, l.holder,
    extract(epoch FROM clock_timestamp() - h.beaten_at)::float8 AS age_seconds,
    l.released_at IS NOT NULL AS stopped,
    coalesce(l.expires_at > clock_timestamp() AND l.released_at IS NULL, false) AS leased,
    h.details
FROM heartbeats h
LEFT JOIN leases l USING (account_name, component)
ORDER BY h.account_name, h.component
