-- Leases: one live process for each account and component, fenced by an epoch.
--
-- Whether a holder lives is seen by an advisory lock that its session holds, one lock for each epoch: the server frees
-- it the moment the holder dies. A holder that hangs keeps its lock and loses the lease when its time is up.

CREATE FUNCTION exitguard.fence_key(p_account text) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT hashtextextended('exitguard fence ' || p_account, 0)
$$;
CREATE FUNCTION exitguard.lease_key(p_account text, p_component text, p_epoch bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT hashtextextended('exitguard lease ' || p_account || ' ' || p_component || ' ' || p_epoch, 0)
$$;

CREATE FUNCTION exitguard.require_own_account(p_account text) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_account IS DISTINCT FROM current_setting('app.account') THEN
        RAISE EXCEPTION 'account % is not the account of this session (%)', p_account, current_setting('app.account')
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END
$$;

CREATE FUNCTION exitguard.acquire_lease(p_account text, p_component text, p_holder text, p_ttl interval)
RETURNS TABLE (epoch bigint, expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_lease leases%ROWTYPE;
    v_epoch bigint;
    v_until timestamptz;
BEGIN
    PERFORM exitguard.require_own_account(p_account);
    INSERT INTO accounts (account_name) VALUES (p_account) ON CONFLICT DO NOTHING;
    -- Waits for batches of the holder before that are being written, and keeps new ones out until the epoch is set.
    PERFORM pg_advisory_xact_lock(exitguard.fence_key(p_account));
    SELECT * INTO v_lease FROM leases WHERE account_name = p_account AND component = p_component FOR UPDATE;
    IF FOUND AND v_lease.released_at IS NULL AND v_lease.expires_at > clock_timestamp()
        AND NOT pg_try_advisory_xact_lock(exitguard.lease_key(p_account, p_component, v_lease.epoch))
    THEN
        RAISE EXCEPTION 'another process (%) is the % of account % until %',
            v_lease.holder, p_component, p_account, v_lease.expires_at USING ERRCODE = 'XG002';
    END IF;
    UPDATE accounts SET last_epoch = last_epoch + 1 WHERE account_name = p_account RETURNING last_epoch INTO v_epoch;
    PERFORM pg_advisory_lock(exitguard.lease_key(p_account, p_component, v_epoch));
    v_until := clock_timestamp() + p_ttl;
    INSERT INTO leases (account_name, component, epoch, holder, acquired_at, expires_at)
        VALUES (p_account, p_component, v_epoch, left(p_holder, 200), clock_timestamp(), v_until)
        ON CONFLICT (account_name, component) DO UPDATE SET epoch = EXCLUDED.epoch, holder = EXCLUDED.holder,
            acquired_at = EXCLUDED.acquired_at, expires_at = EXCLUDED.expires_at, released_at = NULL;
    DELETE FROM applied_batches
        WHERE account_name = p_account AND component = p_component AND applied_at < clock_timestamp() - interval '30 days';
    RETURN QUERY SELECT v_epoch, v_until;
END
$$;

-- p_relock: the session is a new one and has to take the advisory lock of its epoch again. `locked` says whether it did.
CREATE FUNCTION exitguard.renew_lease(
    p_account text, p_component text, p_epoch bigint, p_ttl interval, p_relock boolean
) RETURNS TABLE (expires_at timestamptz, locked boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_until timestamptz := clock_timestamp() + p_ttl;
    v_locked boolean := true;
BEGIN
    PERFORM exitguard.require_own_account(p_account);
    UPDATE leases SET expires_at = v_until
        WHERE account_name = p_account AND component = p_component AND epoch = p_epoch AND released_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'epoch % is not the % of account % any longer', p_epoch, p_component, p_account
            USING ERRCODE = 'XG001';
    END IF;
    IF p_relock THEN
        v_locked := pg_try_advisory_lock(exitguard.lease_key(p_account, p_component, p_epoch));
    END IF;
    RETURN QUERY SELECT v_until, v_locked;
END
$$;

CREATE FUNCTION exitguard.release_lease(p_account text, p_component text, p_epoch bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    v_changed boolean;
BEGIN
    PERFORM exitguard.require_own_account(p_account);
    PERFORM pg_advisory_xact_lock(exitguard.fence_key(p_account));
    UPDATE leases SET released_at = clock_timestamp()
        WHERE account_name = p_account AND component = p_component AND epoch = p_epoch AND released_at IS NULL;
    v_changed := FOUND;
    IF v_changed THEN
        PERFORM pg_advisory_unlock(exitguard.lease_key(p_account, p_component, p_epoch));
    END IF;
    RETURN v_changed;
END
$$;

-- The component that an epoch stands for, or an error when it is not the newest of its component.
CREATE FUNCTION exitguard.fenced_component(p_account text, p_epoch bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    v_component text;
BEGIN
    PERFORM exitguard.require_own_account(p_account);
    PERFORM pg_advisory_xact_lock_shared(exitguard.fence_key(p_account));
    SELECT component INTO v_component FROM leases
        WHERE account_name = p_account AND epoch = p_epoch AND released_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'epoch % does not hold account % any longer: nothing was written', p_epoch, p_account
            USING ERRCODE = 'XG001';
    END IF;
    RETURN v_component;
END
$$;

CREATE FUNCTION exitguard.bind_account(p_account text, p_number text, p_tier text, p_mode text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    v_bound text;
BEGIN
    PERFORM exitguard.require_own_account(p_account);
    INSERT INTO accounts (account_name) VALUES (p_account) ON CONFLICT DO NOTHING;
    SELECT account_number INTO v_bound FROM accounts WHERE account_name = p_account FOR UPDATE;
    IF v_bound IS NOT NULL AND v_bound <> p_number THEN
        RAISE EXCEPTION 'account % is bound to broker account number %, but the credentials belong to %: wrong keys?',
            p_account, v_bound, p_number USING ERRCODE = 'XG003';
    END IF;
    UPDATE accounts SET account_number = p_number, tier = p_tier, mode = p_mode,
        bound_at = coalesce(bound_at, clock_timestamp()) WHERE account_name = p_account;
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION 'broker account number % is bound to another account name than %: wrong keys?',
            p_number, p_account USING ERRCODE = 'XG003';
END
$$;

CREATE FUNCTION exitguard.beat(p_account text, p_epoch bigint, p_heartbeat jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM exitguard.fenced_component(p_account, p_epoch);
    INSERT INTO heartbeats (
        account_name, component, build, policy_hash, config_hash, broker_account_number, venue_time, open_positions,
        closing_positions, details, epoch, beaten_at
    )
    SELECT r.account_name, r.component, r.build, r.policy_hash, r.config_hash, r.broker_account_number, r.venue_time,
        r.open_positions, r.closing_positions, r.details, p_epoch, clock_timestamp()
    FROM jsonb_populate_record(NULL::heartbeats, p_heartbeat) r
    ON CONFLICT (account_name, component) DO UPDATE SET build = EXCLUDED.build, policy_hash = EXCLUDED.policy_hash,
        config_hash = EXCLUDED.config_hash, broker_account_number = EXCLUDED.broker_account_number,
        venue_time = EXCLUDED.venue_time, open_positions = EXCLUDED.open_positions,
        closing_positions = EXCLUDED.closing_positions, details = EXCLUDED.details, epoch = EXCLUDED.epoch,
        beaten_at = EXCLUDED.beaten_at;
END
$$;

CREATE FUNCTION exitguard.save_policy(p_hash text, p_name text, p_body jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    INSERT INTO policies (hash, name, body) VALUES (p_hash, p_name, p_body) ON CONFLICT (hash) DO NOTHING
$$;

--! SELECT count(*) = 7 FROM pg_proc WHERE pronamespace = 'exitguard'::regnamespace AND proname IN
--!     ('acquire_lease', 'renew_lease', 'release_lease', 'fenced_component', 'bind_account', 'beat', 'save_policy')
