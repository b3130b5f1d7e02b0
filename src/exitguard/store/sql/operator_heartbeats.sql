SELECT h.*, extract(epoch FROM clock_timestamp() - h.beaten_at)::float8 AS age_seconds FROM heartbeats h
ORDER BY account_name, component
