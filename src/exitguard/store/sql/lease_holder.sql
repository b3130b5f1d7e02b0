-- Who keeps others from the lease: no row when nobody does. A dead holder's lock is free, a hung one's time runs out;
-- the lock that is tried here is given back when the statement ends.
SELECT holder, epoch, expires_at FROM leases
WHERE account_name = $1 AND component = $2 AND released_at IS NULL AND expires_at > clock_timestamp()
    AND NOT pg_try_advisory_xact_lock_shared(exitguard.lease_key(account_name, component, epoch))
