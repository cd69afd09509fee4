-- The guard (src/hooks/guard.rs). What the hooks can't see, logical replication, is stopped by
-- triggers that no session_replication_role switches off. Partitions inherit those on rows; the
-- worker gives them the one on TRUNCATE.

CREATE FUNCTION audit.guard() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'audit_guard_trigger';
COMMENT ON FUNCTION audit.guard() IS 'Trigger of the trail''s tables: refuses whoever is not its worker and has not unlocked it';

CREATE FUNCTION audit.unlock(reason text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'unlock_wrapper';
COMMENT ON FUNCTION audit.unlock(text) IS 'Superusers: opens the trail for this session until audit.lock(), RESET ALL, DISCARD ALL or its end; recorded, and on disk before it returns';

CREATE FUNCTION audit.lock() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'lock_wrapper';
COMMENT ON FUNCTION audit.lock() IS 'Closes the trail again for this session';

DO $guard$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class c
        WHERE c.relnamespace = 'audit'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p')
        ORDER BY 1
    LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION audit.guard()', name);
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER guard', name);
        EXECUTE pg_catalog.format('CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION audit.guard()', name);
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER guard_truncate', name);
    END LOOP;
END
$guard$;
