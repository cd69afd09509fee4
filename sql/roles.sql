-- The two roles. They belong to the cluster, not to the extension: DROP EXTENSION leaves them.
-- A role that somebody can log on with, or that already has members, would hand the trail to
-- them; so it is refused. audit_admin as a member of audit_reader is our own doing.

DO $roles$
DECLARE
    name text;
    existing pg_catalog.pg_roles;
    members text;
BEGIN
    FOREACH name IN ARRAY ARRAY['audit_reader', 'audit_admin'] LOOP
        SELECT * INTO existing FROM pg_catalog.pg_roles WHERE rolname = name;
        IF NOT FOUND THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
            CONTINUE;
        END IF;
        IF existing.rolcanlogin OR existing.rolsuper OR existing.rolcreaterole OR existing.rolreplication THEN
            RAISE EXCEPTION 'role "%" already exists and is more than a group', name
                USING ERRCODE = 'duplicate_object',
                      DETAIL = 'It has LOGIN, SUPERUSER, CREATEROLE or REPLICATION.',
                      HINT = pg_catalog.format('Rename that role (ALTER ROLE %I RENAME TO ...), or take these attributes away, then run CREATE EXTENSION audit_ext again.', name);
        END IF;
        SELECT pg_catalog.string_agg(pg_catalog.quote_ident(r.rolname), ', ' ORDER BY r.rolname) INTO members
            FROM pg_catalog.pg_auth_members m
            JOIN pg_catalog.pg_roles r ON r.oid = m.member
            WHERE m.roleid = existing.oid AND r.rolname <> 'audit_admin';
        IF members IS NOT NULL THEN
            RAISE EXCEPTION 'role "%" already exists and has members', name
                USING ERRCODE = 'duplicate_object',
                      DETAIL = pg_catalog.format('Members: %s.', members),
                      HINT = pg_catalog.format('REVOKE %I FROM %s, then run CREATE EXTENSION audit_ext again and grant it anew.', name, members);
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m
                   WHERE m.roleid = 'audit_reader'::pg_catalog.regrole
                     AND m.member = 'audit_admin'::pg_catalog.regrole) THEN
        GRANT audit_reader TO audit_admin;
    END IF;
END
$roles$;

COMMENT ON ROLE audit_reader IS 'Reads the audit trail (audit_ext)';
COMMENT ON ROLE audit_admin IS 'Reads the audit trail and may change what is recorded and how long it is kept (audit_ext)';
