SELECT * FROM v_open_positions_summary WHERE $1::text IS NULL OR account_name = $1 ORDER BY account_name, entry_time, id
