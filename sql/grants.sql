-- Who may do what: readers read the views, nobody else anything. What the views call must be
-- executable for their reader.

REVOKE ALL ON SCHEMA audit FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA audit FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit FROM PUBLIC;
-- Nor what default privileges gave to whomever.
DO $defaults$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT DISTINCT 'REVOKE ALL ON ' || o.name || ' FROM '
            || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee))
        FROM (SELECT 'SCHEMA audit' AS name, n.nspowner AS owner, n.nspacl AS acl
              FROM pg_catalog.pg_namespace n WHERE n.nspname = 'audit'
              UNION ALL
              SELECT 'TABLE ' || c.oid::pg_catalog.regclass::text, c.relowner, c.relacl
              FROM pg_catalog.pg_class c WHERE c.relnamespace = 'audit'::pg_catalog.regnamespace
              UNION ALL
              SELECT 'FUNCTION ' || p.oid::pg_catalog.regprocedure::text, p.proowner, p.proacl
              FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'audit'::pg_catalog.regnamespace) o,
            pg_catalog.aclexplode(o.acl) a
        WHERE a.grantee NOT IN (0, o.owner)
    LOOP
        EXECUTE statement;
    END LOOP;
END
$defaults$;
GRANT USAGE ON SCHEMA audit TO audit_reader;
GRANT SELECT ON audit.log, audit.failures, audit.sessions, audit.status, audit.holds TO audit_reader;
GRANT EXECUTE ON FUNCTION
    audit.event_outcome(bytea), audit.event_fate(bytea), audit.event_no(bytea),
    audit.event_statement_id(bytea), audit.event_substatement_id(bytea), audit.event_depth(bytea),
    audit.event_duration(bytea), audit.event_rows(bytea), audit.event_transaction_id(bytea),
    audit.event_sqlstate(bytea), audit.event_statement_length(bytea),
    audit.event_erased(bytea, bytea, bytea),
    audit.worker_status(), audit.flush(), audit.verify(bigint, bigint), audit.checkpoint(),
    audit.inclusion_proof(bigint, bigint), audit.consistency_proof(bigint, bigint), audit.evidence(bigint, bigint)
    TO audit_reader;
GRANT EXECUTE ON FUNCTION audit.hold(timestamptz, timestamptz, text), audit.release(bigint, text)
    TO audit_admin;

-- Administrators choose what is recorded, for a session, a role, a database or the cluster. Before
-- 15 the server can't grant that: there only superusers can.
DO $parameters$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE 'GRANT SET, ALTER SYSTEM ON PARAMETER audit.level, audit.catalog, audit.nested,'
             || ' audit.role, audit.parameters, audit.parameter_max_size, audit.statement_max_size TO audit_admin';
        -- Of the server as a whole: they take effect with the next reload.
        EXECUTE 'GRANT ALTER SYSTEM ON PARAMETER audit.retention, audit.partition_interval,'
             || ' audit.max_size, audit.on_max_size TO audit_admin';
    END IF;
END
$parameters$;
