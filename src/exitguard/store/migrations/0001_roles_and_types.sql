-- Roles without a login: whoever connects becomes one of them. They are shared by all databases of a server.
--   exitguard_app       one account's processes: row-level security shows them the rows of app.account only
--   exitguard_writer    owns the functions that write; the same row-level security holds inside them
--   exitguard_operator  reads all accounts, changes nothing
--   exitguard_desk      an operator who may also ask: insert commands and signals
DO $$
DECLARE
    v_role text;
    -- Whoever creates a role is a member that may not become it, on servers that make the difference.
    v_membership text := CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['exitguard_app', 'exitguard_writer', 'exitguard_operator', 'exitguard_desk'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOBYPASSRLS', v_role);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN
                    NULL;  -- a migration of another database of this server was faster
            END;
        END IF;
        IF NOT pg_has_role(current_user, v_role, v_membership) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', v_role);
        END IF;
    END LOOP;
    IF NOT EXISTS (
        SELECT FROM pg_auth_members
        WHERE roleid = 'exitguard_operator'::regrole AND member = 'exitguard_desk'::regrole
    ) THEN
        GRANT exitguard_operator TO exitguard_desk;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA public TO exitguard_app, exitguard_writer, exitguard_operator, exitguard_desk;
GRANT USAGE ON SCHEMA exitguard TO exitguard_app, exitguard_writer, exitguard_operator, exitguard_desk;
-- An owner of functions must be able to create in their schema.
GRANT CREATE ON SCHEMA exitguard TO exitguard_writer;

CREATE TABLE exitguard.migrations (
    version integer PRIMARY KEY CHECK (version > 0),
    name text NOT NULL,
    checksum text NOT NULL CHECK (length(checksum) = 64),
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by text NOT NULL DEFAULT current_user
);
GRANT SELECT ON exitguard.migrations TO exitguard_app, exitguard_operator;

-- Money, prices and quantities: exact, of any size, never NaN or infinite.
CREATE DOMAIN exitguard.amount AS numeric
    CHECK (VALUE NOT IN ('NaN'::numeric, 'Infinity'::numeric, '-Infinity'::numeric));
CREATE DOMAIN exitguard.price AS numeric
    CHECK (VALUE >= 0 AND VALUE NOT IN ('NaN'::numeric, 'Infinity'::numeric));
CREATE DOMAIN exitguard.account_name AS text
    CHECK (VALUE ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$');
-- Text from outside is bounded; nothing that identifies an order or a contract comes near these lengths.
CREATE DOMAIN exitguard.symbol AS text CHECK (length(VALUE) BETWEEN 1 AND 32);
CREATE DOMAIN exitguard.label AS text CHECK (length(VALUE) BETWEEN 1 AND 200);
CREATE DOMAIN exitguard.note AS text CHECK (length(VALUE) <= 8000);

--! SELECT count(*) = 4 FROM pg_roles WHERE rolname IN
--!     ('exitguard_app', 'exitguard_writer', 'exitguard_operator', 'exitguard_desk') AND NOT rolbypassrls
