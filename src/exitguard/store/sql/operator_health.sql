SELECT * FROM v_position_health_check
