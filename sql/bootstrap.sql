-- Checks and schema. Everything in sql/ is run as one script by CREATE EXTENSION, in the order
-- given in src/api/mod.rs, in one transaction: an error leaves nothing behind.

\echo Use "CREATE EXTENSION audit_ext" to load this file. \quit

DO $check$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'audit') THEN
        RAISE EXCEPTION 'schema "audit" already exists and is not part of audit_ext'
            USING ERRCODE = 'duplicate_schema',
                  HINT = 'Rename or drop that schema, then run CREATE EXTENSION audit_ext again.';
    END IF;
END
$check$;

CREATE SCHEMA audit;
COMMENT ON SCHEMA audit IS 'Audit trail of the whole cluster (audit_ext): who did what, when, from where, and how it ended';

CREATE FUNCTION audit.is_preloaded() RETURNS boolean
    LANGUAGE c STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_preloaded_wrapper';
COMMENT ON FUNCTION audit.is_preloaded() IS 'Whether the server loaded audit_ext at start (shared_preload_libraries)';

-- Two CREATE EXTENSION in two databases at once must not both find that there is no home yet.
LOCK TABLE pg_catalog.pg_shseclabel IN SHARE ROW EXCLUSIVE MODE;

DO $check$
DECLARE
    home text;
    pinned text := nullif(pg_catalog.current_setting('audit.database', true), '');
    restart constant text := 'Add audit_ext to shared_preload_libraries in postgresql.conf, restart the server, then run CREATE EXTENSION audit_ext again.';
BEGIN
    IF NOT audit.is_preloaded() THEN
        RAISE EXCEPTION 'audit_ext must be loaded via shared_preload_libraries'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = restart;
    END IF;
    SELECT d.datname INTO home
        FROM pg_catalog.pg_shseclabel l
        JOIN pg_catalog.pg_database d ON d.oid = l.objoid
        WHERE l.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass
          AND l.provider = 'audit_ext' AND l.label = 'home'
          AND d.datname <> pg_catalog.current_database();
    IF FOUND THEN
        RAISE EXCEPTION 'database "%" already holds the audit trail of this cluster', home
            USING ERRCODE = 'duplicate_object',
                  DETAIL = 'There is one trail per cluster; it holds the statements of every database.',
                  HINT = pg_catalog.format('Connect to database %I and read audit.log there.', home);
    END IF;
    IF pinned <> pg_catalog.current_database() THEN
        RAISE EXCEPTION 'the setting audit.database allows the audit trail only in database "%"', pinned
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = pg_catalog.format('Run CREATE EXTENSION audit_ext in database %I, or change audit.database and restart the server.', pinned);
    END IF;
END
$check$;
