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

CREATE FUNCTION audit.hold("from" timestamptz, "to" timestamptz, reason text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'hold_wrapper';
COMMENT ON FUNCTION audit.hold(timestamptz, timestamptz, text) IS 'Legal hold: keeps what was recorded, or began, in that time from being dropped; returns its id; recorded';

CREATE FUNCTION audit.release(hold bigint, reason text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'release_wrapper';
COMMENT ON FUNCTION audit.release(bigint, text) IS 'Releases a legal hold; recorded';

CREATE VIEW audit.holds AS SELECT * FROM audit.hold;
COMMENT ON VIEW audit.holds IS 'Legal holds, released ones included';
COMMENT ON COLUMN audit.holds.id IS 'Number of the hold';
COMMENT ON COLUMN audit.holds.held_from IS 'Begin of what is held, inclusive';
COMMENT ON COLUMN audit.holds.held_to IS 'End of what is held, inclusive';
COMMENT ON COLUMN audit.holds.reason IS 'What for';
COMMENT ON COLUMN audit.holds.held_by IS 'Who made it';
COMMENT ON COLUMN audit.holds.held_at IS 'When it was made';
COMMENT ON COLUMN audit.holds.released_at IS 'When it was released; NULL while it holds';
COMMENT ON COLUMN audit.holds.released_by IS 'Who released it';
COMMENT ON COLUMN audit.holds.release_reason IS 'Why it was released';

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
