SELECT * FROM v_position_performance WHERE $1::text IS NULL OR account_name = $1 ORDER BY closed_at DESC LIMIT $2
