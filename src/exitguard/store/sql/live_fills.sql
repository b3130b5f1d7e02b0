SELECT f.* FROM position_fills f JOIN active_positions p ON p.account_name = f.account_name AND p.id = f.position_id
WHERE f.account_name = $1 AND p.status IN ('open', 'closing') ORDER BY f.position_id, f.at, f.execution_id
