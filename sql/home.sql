-- Makes this database the home of the trail: the worker finds the label when this commits. Last,
-- so that nothing before it can fail after it.

DO $home$
DECLARE
    retention text := coalesce(pg_catalog.current_setting('audit.retention', true), '0');
BEGIN
    PERFORM audit.claim_home();
    -- Scripts of extensions run with client_min_messages raised to "warning".
    PERFORM pg_catalog.set_config('client_min_messages', 'notice', true)
        WHERE pg_catalog.current_setting('client_min_messages') = 'warning';
    RAISE NOTICE 'audit_ext records into database "%": level "%", retention %',
        pg_catalog.current_database(), pg_catalog.current_setting('audit.level'),
        CASE WHEN retention IN ('0', '') THEN 'unlimited' ELSE retention END
        USING HINT = 'Read the trail with SELECT * FROM audit.log; let others read it with GRANT audit_reader TO ...';
END
$home$;
