-- A session without an account gets an error from every table, however the statement is executed.
--
-- The policies of 0003 compare with a sub-select, which is evaluated when the first row is met: on a table that is
-- empty by the statistics PostgreSQL chooses a sequential scan, meets none, and answers with nothing. The plain call
-- of a stable function is evaluated by the planner already, for its estimate, and so whatever it then chooses.

CREATE FUNCTION exitguard.session_account() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    v_account text := current_setting('app.account');
BEGIN
    -- What SET LOCAL and RESET leave behind of a setting that the server does not know itself.
    IF v_account = '' THEN
        RAISE EXCEPTION 'app.account is empty: this session belongs to no account' USING ERRCODE = 'undefined_object';
    END IF;
    RETURN v_account;
END
$$;

DO $$
DECLARE
    v_table text;
BEGIN
    FOR v_table IN
        SELECT tablename FROM pg_policies WHERE schemaname = 'public' AND policyname = 'own_account'
    LOOP
        -- Rows that are written are compared one by one: there the sub-select is enough, and evaluated once.
        EXECUTE format(
            'ALTER POLICY own_account ON public.%I USING (account_name = exitguard.session_account()) '
            'WITH CHECK (account_name = (SELECT exitguard.session_account()))', v_table
        );
    END LOOP;
END
$$;

--! SELECT count(*) = 15 FROM pg_policies
--!     WHERE schemaname = 'public' AND policyname = 'own_account' AND qual LIKE '%session_account()%'
