SELECT EXISTS (SELECT FROM leases WHERE account_name = $1 AND epoch = $2 AND released_at IS NULL)
