-- Events carry what they changed, so that the tables can be derived from them again (I10), and operators may ask for
-- repairs.

-- `changes` are the operations of the same batch that the event stands for, as `apply_batch` took them. NULL in events
-- that an older schema wrote; from then on it is in the hash, and so is created_at.
ALTER TABLE position_events ADD COLUMN changes jsonb;
-- `recorded`: rows changed and nobody told a story of it, for example an order's progress.
ALTER TABLE position_events DROP CONSTRAINT position_events_event_type_check;
ALTER TABLE position_events ADD CONSTRAINT position_events_event_type_check CHECK (
    event_type IN (
        'created', 'adopted', 'price_update', 'partial_fill', 'fill', 'exit_triggered', 'exit_held', 'exit_pending',
        'close_submitted', 'close_failed', 'closed', 'reduced', 'reconciled', 'protection_changed',
        'bracket_restored', 'bracket_failed', 'alarm_raised', 'alarm_cleared', 'foreign_order', 'manager_started',
        'manager_stopped', 'account_bound', 'command', 'entry_submitted', 'entry_refused', 'recorded'
    )
);

DROP FUNCTION exitguard.broken_event(text);
DROP FUNCTION exitguard.event_hash(text, text, bigint, text, bigint, timestamptz, jsonb);

-- concat_ws leaves NULLs out: an event without changes has the hash that it had before this version. No part contains
-- a line feed, so that no two contents have the same text.
CREATE FUNCTION exitguard.event_hash(
    p_previous text, p_account text, p_seq bigint, p_type text, p_position bigint, p_at timestamptz, p_data jsonb,
    p_changes jsonb, p_created timestamptz
) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT encode(sha256(convert_to(
        concat_ws(E'\n', p_previous, p_account, p_seq, p_type, coalesce(p_position::text, '-'),
            (extract(epoch FROM p_at) * 1000000)::bigint, p_data::text, p_changes::text,
            CASE WHEN p_changes IS NOT NULL THEN (extract(epoch FROM p_created) * 1000000)::bigint END),
        'UTF8')), 'hex')
$$;

-- The first sequence number at which the chain of an account is broken, NULL when it verifies (I6).
CREATE FUNCTION exitguard.broken_event(p_account text) RETURNS bigint LANGUAGE sql STABLE AS $$
    WITH chain AS (
        SELECT e.*, lag(e.hash, 1, repeat('0', 64)) OVER (ORDER BY e.seq) AS expected_previous,
            row_number() OVER (ORDER BY e.seq) AS expected_seq
        FROM public.position_events e WHERE e.account_name = p_account
    ), broken AS (
        SELECT seq FROM chain
        WHERE seq <> expected_seq OR previous_hash <> expected_previous
            OR hash <> exitguard.event_hash(
                previous_hash, account_name, seq, event_type, position_id, at, event_data, changes, created_at)
        UNION ALL
        SELECT h.seq FROM public.event_heads h
        WHERE h.account_name = p_account AND h.seq <> (SELECT count(*) FROM chain)
    )
    SELECT min(seq) FROM broken
$$;

-- What a person may ask a manager for, with what the request needs, and an answer that programs can read.
ALTER TABLE commands DROP CONSTRAINT commands_verb_check;
ALTER TABLE commands ADD CONSTRAINT commands_verb_check CHECK (
    verb IN ('close', 'kill_switch', 'sync_repair', 'adopt', 'forget')
);
ALTER TABLE commands ADD COLUMN arguments jsonb NOT NULL DEFAULT '{}'
    CONSTRAINT commands_arguments_size CHECK (pg_column_size(arguments) <= 65536);
ALTER TABLE commands ADD COLUMN answer jsonb;

CREATE OR REPLACE FUNCTION exitguard.finish_command(p_account text, p_op jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- The first answer stands; a second one for the same request changes nothing.
    UPDATE commands SET ok = (p_op ->> 'ok')::boolean, result = left(p_op ->> 'result', 8000),
        answer = nullif(p_op -> 'answer', 'null'), finished_at = (p_op ->> 'at')::timestamptz
        WHERE account_name = p_account AND id = (p_op ->> 'id')::bigint AND finished_at IS NULL;
    IF NOT FOUND AND NOT EXISTS (
        SELECT FROM commands WHERE account_name = p_account AND id = (p_op ->> 'id')::bigint
    ) THEN
        RAISE EXCEPTION 'account % has no command %', p_account, p_op ->> 'id' USING ERRCODE = 'XG010';
    END IF;
END
$$;

-- Writes one event after the one that p_previous is the hash of; returns the hash of the new one.
CREATE FUNCTION exitguard.append_event(p_account text, p_seq bigint, p_previous text, p_op jsonb, p_changes jsonb)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_data jsonb := (p_op -> 'data') || jsonb_build_object('account_name', p_account);
    v_hash text;
BEGIN
    v_hash := exitguard.event_hash(p_previous, p_account, p_seq, p_op ->> 'type', (p_op ->> 'position_id')::bigint,
        (p_op ->> 'at')::timestamptz, v_data, p_changes, v_now);
    INSERT INTO position_events (
        account_name, seq, event_type, position_id, at, event_data, changes, created_at, previous_hash, hash
    ) VALUES (
        p_account, p_seq, p_op ->> 'type', (p_op ->> 'position_id')::bigint, (p_op ->> 'at')::timestamptz, v_data,
        p_changes, v_now, p_previous, v_hash
    );
    RETURN v_hash;
END
$$;

-- As before, and: an event carries the operations between the event before it and itself; the last event of a batch
-- also those that follow it, and a batch without events gets one. It is written when the rows are.
CREATE OR REPLACE FUNCTION exitguard.apply_batch(
    p_account text, p_epoch bigint, p_batch uuid, p_at timestamptz, p_operations jsonb,
    p_journaled_epoch bigint DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    v_component text;
    v_op jsonb;
    v_seq bigint;
    v_hash text;
    v_event jsonb;
    v_carried jsonb[] := '{}';
    v_changes jsonb[] := '{}';
BEGIN
    v_component := exitguard.fenced_component(p_account, p_epoch);
    INSERT INTO applied_batches (account_name, batch_id, epoch, component, at)
        VALUES (p_account, p_batch, coalesce(p_journaled_epoch, p_epoch), v_component, p_at) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF p_journaled_epoch <> p_epoch AND EXISTS (
        SELECT FROM applied_batches
        WHERE account_name = p_account AND component = v_component AND epoch > p_journaled_epoch
    ) THEN
        RAISE EXCEPTION 'batch % was journaled under epoch % of account %, and a later holder has written since',
            p_batch, p_journaled_epoch, p_account USING ERRCODE = 'XG011';
    END IF;
    IF jsonb_array_length(p_operations) > 0 THEN
        SELECT seq, hash INTO v_seq, v_hash FROM event_heads WHERE account_name = p_account FOR UPDATE;
        IF NOT FOUND THEN
            -- The first event of the account; two components may be writing it at the same time.
            INSERT INTO event_heads (account_name, seq, hash) VALUES (p_account, 0, repeat('0', 64))
                ON CONFLICT DO NOTHING;
            SELECT seq, hash INTO v_seq, v_hash FROM event_heads WHERE account_name = p_account FOR UPDATE;
        END IF;
    END IF;
    FOR v_op IN SELECT value FROM jsonb_array_elements(p_operations) LOOP
        IF v_op ->> 'op' = 'append_event' THEN
            IF v_event IS NOT NULL THEN
                v_seq := v_seq + 1;
                v_hash := exitguard.append_event(p_account, v_seq, v_hash, v_event, to_jsonb(v_carried));
            END IF;
            v_event := v_op;
            v_carried := v_changes;
            v_changes := '{}';
            CONTINUE;
        END IF;
        CASE v_op ->> 'op'
            WHEN 'put_position' THEN
                PERFORM exitguard.put_position(v_op -> 'row');
            WHEN 'put_intent' THEN
                PERFORM exitguard.put_intent(v_op -> 'row');
            WHEN 'put_fill' THEN
                PERFORM exitguard.put_fill(p_account, v_op);
            WHEN 'put_history' THEN
                PERFORM exitguard.put_history(v_op -> 'row');
            WHEN 'put_execution' THEN
                PERFORM exitguard.put_execution(v_op -> 'row');
            WHEN 'set_recommendation' THEN
                PERFORM exitguard.set_recommendation(p_account, v_op);
            WHEN 'raise_alarm' THEN
                PERFORM exitguard.raise_alarm(p_account, v_op);
            WHEN 'clear_alarm' THEN
                UPDATE alarms SET cleared_at = (v_op ->> 'at')::timestamptz
                    WHERE account_name = p_account AND key = v_op ->> 'key' AND cleared_at IS NULL;
            WHEN 'finish_command' THEN
                PERFORM exitguard.finish_command(p_account, v_op);
            WHEN 'set_aside' THEN
                INSERT INTO set_aside (account_name, kind, reason, payload, at) VALUES (
                    p_account, left(v_op ->> 'kind', 200), left(v_op ->> 'reason', 8000), v_op -> 'payload',
                    (v_op ->> 'at')::timestamptz
                );
            ELSE
                RAISE EXCEPTION 'batch % has an unknown operation %', p_batch, left(v_op ->> 'op', 100)
                    USING ERRCODE = 'XG010';
        END CASE;
        v_changes := array_append(v_changes, v_op);
    END LOOP;
    IF v_event IS NULL AND cardinality(v_changes) > 0 THEN
        v_event := jsonb_build_object('op', 'append_event', 'type', 'recorded', 'at', p_at, 'data', '{}'::jsonb);
    END IF;
    IF v_event IS NOT NULL THEN
        v_seq := v_seq + 1;
        v_hash := exitguard.append_event(p_account, v_seq, v_hash, v_event, to_jsonb(v_carried || v_changes));
        UPDATE event_heads SET seq = v_seq, hash = v_hash WHERE account_name = p_account;
    END IF;
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION exitguard.append_event(text, bigint, text, jsonb, jsonb) FROM PUBLIC;
GRANT CREATE ON SCHEMA exitguard TO exitguard_writer;
ALTER FUNCTION exitguard.append_event(text, bigint, text, jsonb, jsonb) OWNER TO exitguard_writer;
REVOKE CREATE ON SCHEMA exitguard FROM exitguard_writer;

--! SELECT count(*) = 3 FROM pg_proc WHERE pronamespace = 'exitguard'::regnamespace
--!     AND proname IN ('append_event', 'event_hash', 'apply_batch') AND (prosecdef OR proname <> 'apply_batch')
--!     AND (proowner = 'exitguard_writer'::regrole OR proname = 'event_hash')
