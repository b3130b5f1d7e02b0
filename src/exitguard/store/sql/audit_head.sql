SELECT seq, hash FROM event_heads WHERE account_name = $1
