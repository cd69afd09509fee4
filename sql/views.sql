-- The views. Generated columns are plain expressions, so that what a query doesn't read costs
-- nothing, and predicates on started_at, command, user_name and relations reach the tables.
-- LEFT JOIN: an event shows even if a row that it refers to is missing; a predicate on one of
-- their columns turns it into an inner join.

CREATE VIEW audit.log AS
SELECT
    e.seq,
    e.recorded_at,
    e.started_at,
    audit.event_duration(e.numbers) * interval '1 microsecond' AS duration,
    s.session_id,
    audit.event_no(e.numbers) AS event_no,
    audit.event_statement_id(e.numbers) AS statement_id,
    audit.event_substatement_id(e.numbers) AS substatement_id,
    audit.event_depth(e.numbers) AS depth,
    t.class,
    t.command,
    audit.event_outcome(e.numbers) AS outcome,
    audit.event_sqlstate(e.numbers) AS sqlstate,
    e.error,
    audit.event_transaction_id(e.numbers) AS transaction_id,
    CASE audit.event_fate(e.numbers)
        WHEN 1 THEN 'committed'
        WHEN 2 THEN 'rolled back'
        ELSE (SELECT CASE fate
                  WHEN 1 THEN 'committed'
                  WHEN 2 THEN 'rolled back'
                  WHEN 3 THEN 'prepared'
              END
              FROM (SELECT coalesce(
                  -- Ranges of one session nest, so the one that ends first is the innermost. Of those that
                  -- end together a rollback wins, and what was prepared is decided later.
                  (SELECT f.outcome
                   FROM audit.fate f
                   WHERE f.session_started = s.started_at AND f.pid = s.pid
                     AND f.recorded_at >= e.recorded_at
                     AND f.last_event >= audit.event_no(e.numbers)
                     AND f.first_event <= audit.event_no(e.numbers)
                   ORDER BY f.last_event, f.outcome <> 2, f.outcome = 3
                   LIMIT 1),
                  audit.event_fate(e.numbers)) AS fate) decided)
    END AS transaction_outcome,
    s.user_name,
    s.role_name,
    s.auth_identity,
    s.database_name,
    s.branch,
    s.client_addr,
    s.client_port,
    s.application_name,
    s.pid,
    s.backend_type,
    t.object_type,
    t.object_name,
    t.relations,
    coalesce(e.text, t.text) AS statement,
    audit.event_statement_length(e.numbers) AS statement_length,
    e.statement_sha256,
    e.parameters,
    audit.event_rows(e.numbers) AS rows,
    t.query_id,
    s.context,
    coalesce(e.details, '{}')
        || jsonb_build_object('classes', t.classes)
        || CASE WHEN s.session_user_name IS NULL THEN '{}'
                ELSE jsonb_build_object('session_user', s.session_user_name) END
        || CASE WHEN s.unstorable IS NULL AND t.unstorable IS NULL THEN '{}'
                ELSE jsonb_build_object('unstorable', coalesce(e.details -> 'unstorable', '{}')
                    || coalesce(s.unstorable, '{}') || coalesce(t.unstorable, '{}')) END
        -- A salt is 16 bytes; what holds digests of erased values is longer.
        || CASE WHEN length(e.salt) > 16 OR length(t.salt) > 16 OR length(s.salt) > 16
                THEN jsonb_build_object('erased', audit.event_erased(e.salt, t.salt, s.salt))
                ELSE '{}' END AS details
FROM audit.event e
LEFT JOIN audit.session s ON s.ref = e.session
LEFT JOIN audit.statement t ON t.ref = e.statement;

COMMENT ON VIEW audit.log IS 'The audit trail: one row per event';
COMMENT ON COLUMN audit.log.seq IS 'Position in the trail: 1, 2, 3 ... without gaps, in the order in which rows become visible';
COMMENT ON COLUMN audit.log.recorded_at IS 'When it was stored; never decreases with seq';
COMMENT ON COLUMN audit.log.started_at IS 'When the statement began';
COMMENT ON COLUMN audit.log.duration IS 'How long it ran; without the commit, except for COMMIT itself';
COMMENT ON COLUMN audit.log.session_id IS 'PostgreSQL''s own session id, as %c in log_line_prefix';
COMMENT ON COLUMN audit.log.event_no IS 'Dense counter of the session''s recorded events, from 1; NULL for events of the worker, the postmaster and before authentication';
COMMENT ON COLUMN audit.log.statement_id IS 'Number of the top-level statement in the session';
COMMENT ON COLUMN audit.log.substatement_id IS 'Order within the top-level statement, which itself is 1';
COMMENT ON COLUMN audit.log.depth IS '0 for a statement of the client, 1 for what it ran through a function or trigger, ...';
COMMENT ON COLUMN audit.log.class IS 'READ, WRITE, FUNCTION, ROLE, DDL, MISC, SET, SESSION or AUDIT: the strongest that applies';
COMMENT ON COLUMN audit.log.command IS 'Command tag; of sessions CONNECT, DISCONNECT, AUTHENTICATE; of the trail itself START, GAP, FATE ...';
COMMENT ON COLUMN audit.log.outcome IS 'success, failed, caught (the error was handled) or unfinished (backend or server died)';
COMMENT ON COLUMN audit.log.sqlstate IS 'SQLSTATE of the error';
COMMENT ON COLUMN audit.log.error IS 'Message of the error';
COMMENT ON COLUMN audit.log.transaction_id IS 'Transaction id, NULL where none was assigned';
COMMENT ON COLUMN audit.log.transaction_outcome IS 'committed, rolled back or prepared; NULL while the transaction is open';
COMMENT ON COLUMN audit.log.user_name IS 'The role that logged on; never changes';
COMMENT ON COLUMN audit.log.role_name IS 'The effective role (current_user)';
COMMENT ON COLUMN audit.log.auth_identity IS 'How it authenticated (PostgreSQL 16 and later)';
COMMENT ON COLUMN audit.log.database_name IS 'Database of the session';
COMMENT ON COLUMN audit.log.branch IS 'Branch or environment label';
COMMENT ON COLUMN audit.log.client_addr IS 'Address of the client; NULL for a unix socket';
COMMENT ON COLUMN audit.log.client_port IS 'Port of the client';
COMMENT ON COLUMN audit.log.application_name IS 'Name that the application gave itself';
COMMENT ON COLUMN audit.log.pid IS 'Process id of the backend';
COMMENT ON COLUMN audit.log.backend_type IS 'Kind of process, as in pg_stat_activity';
COMMENT ON COLUMN audit.log.object_type IS 'Kind of the main object of the statement';
COMMENT ON COLUMN audit.log.object_name IS 'Name of the main object, qualified and quoted as needed';
COMMENT ON COLUMN audit.log.relations IS 'Every table, view, foreign table and sequence used, named as they were then';
COMMENT ON COLUMN audit.log.statement IS 'The text of the statement, secrets redacted, perhaps cut';
COMMENT ON COLUMN audit.log.statement_length IS 'Length in bytes of the full text where statement was cut';
COMMENT ON COLUMN audit.log.statement_sha256 IS 'SHA-256 of the full text where statement was cut';
COMMENT ON COLUMN audit.log.parameters IS 'Bind parameters, with audit.parameters';
COMMENT ON COLUMN audit.log.rows IS 'Rows processed: read, written or copied';
COMMENT ON COLUMN audit.log.query_id IS 'As pg_stat_statements.queryid';
COMMENT ON COLUMN audit.log.context IS 'Application context at that time';
COMMENT ON COLUMN audit.log.details IS 'What is specific to the command; classes: all classes of the statement; erased: fields that audit.erase() destroyed';

CREATE VIEW audit.failures AS
SELECT * FROM audit.log WHERE outcome <> 'success';

COMMENT ON VIEW audit.failures IS 'Events of audit.log that did not succeed';
-- Its columns are those of audit.log, and so are their comments.
DO $comments$
DECLARE name text; comment text;
BEGIN
    FOR name, comment IN
        SELECT a.attname, pg_catalog.col_description(a.attrelid, a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = 'audit.log'::pg_catalog.regclass AND a.attnum > 0
    LOOP
        EXECUTE pg_catalog.format('COMMENT ON COLUMN audit.failures.%I IS %L', name, comment);
    END LOOP;
END
$comments$;

-- Counted per version of the session's attributes first: few rows are left for the join.
CREATE VIEW audit.sessions AS
SELECT
    s.session_id,
    s.pid,
    s.started_at,
    max(e.ended_at) AS ended_at,
    CASE WHEN bool_or(e.refused) THEN 'refused'
         WHEN bool_or(e.died) THEN 'died'
         WHEN max(e.ended_at) IS NOT NULL THEN 'disconnected'
    END AS ended,
    min(s.user_name) AS user_name,
    array_agg(DISTINCT s.role_name) FILTER (WHERE s.role_name IS NOT NULL) AS role_names,
    min(s.auth_identity) AS auth_identity,
    min(s.database_name) AS database_name,
    min(s.branch) AS branch,
    min(s.client_addr) AS client_addr,
    min(s.client_port) AS client_port,
    array_agg(DISTINCT s.application_name) FILTER (WHERE s.application_name <> '') AS application_names,
    min(s.backend_type) AS backend_type,
    sum(e.events)::bigint AS events,
    sum(e.failures)::bigint AS failures,
    min(e.first_seq) AS first_seq,
    max(e.last_seq) AS last_seq
FROM (SELECT
        session,
        count(*) AS events,
        count(*) FILTER (WHERE audit.event_outcome(v.numbers) <> 'success') AS failures,
        min(seq) AS first_seq,
        max(seq) AS last_seq,
        max(v.started_at) FILTER (WHERE t.command IN ('DISCONNECT', 'AUTHENTICATE')) AS ended_at,
        bool_or(t.command = 'AUTHENTICATE') AS refused,
        bool_or(t.command = 'DISCONNECT' AND audit.event_outcome(v.numbers) <> 'success') AS died
    FROM audit.event v
    LEFT JOIN audit.statement t ON t.ref = v.statement AND t.class = 'SESSION'
    GROUP BY session) e
JOIN audit.session s ON s.ref = e.session
GROUP BY s.session_id, s.pid, s.started_at;

COMMENT ON VIEW audit.sessions IS 'One row per session of the trail';
COMMENT ON COLUMN audit.sessions.session_id IS 'PostgreSQL''s own session id, as %c in log_line_prefix';
COMMENT ON COLUMN audit.sessions.pid IS 'Process id of the backend';
COMMENT ON COLUMN audit.sessions.started_at IS 'When the session began';
COMMENT ON COLUMN audit.sessions.ended_at IS 'When it ended; NULL while it lasts, where the level left its DISCONNECT out, and of background processes, which have none';
COMMENT ON COLUMN audit.sessions.ended IS 'How it ended: disconnected (details.reason of its DISCONNECT says why), died, or refused: a logon that failed; NULL as ended_at is';
COMMENT ON COLUMN audit.sessions.user_name IS 'The role that logged on';
COMMENT ON COLUMN audit.sessions.role_names IS 'The effective roles it used';
COMMENT ON COLUMN audit.sessions.auth_identity IS 'How it authenticated (PostgreSQL 16 and later)';
COMMENT ON COLUMN audit.sessions.database_name IS 'Database of the session';
COMMENT ON COLUMN audit.sessions.branch IS 'Branch or environment label';
COMMENT ON COLUMN audit.sessions.client_addr IS 'Address of the client; NULL for a unix socket';
COMMENT ON COLUMN audit.sessions.client_port IS 'Port of the client';
COMMENT ON COLUMN audit.sessions.application_names IS 'Names that the application gave itself';
COMMENT ON COLUMN audit.sessions.backend_type IS 'Kind of process, as in pg_stat_activity';
COMMENT ON COLUMN audit.sessions.events IS 'Recorded events';
COMMENT ON COLUMN audit.sessions.failures IS 'Events that did not succeed';
COMMENT ON COLUMN audit.sessions.first_seq IS 'seq of its first event';
COMMENT ON COLUMN audit.sessions.last_seq IS 'seq of its last event';

CREATE VIEW audit.status AS
SELECT
    d.datname::text AS home,
    current_setting('audit.level') AS level,
    w.worker_pid,
    w.ring_size,
    w.ring_fill,
    w.leftover_rings,
    w.last_seq,
    w.last_batch_at,
    CASE WHEN w.ring_fill = 0 THEN 0
         ELSE extract(epoch FROM clock_timestamp() - w.last_batch_at) END AS lag_seconds,
    -- The ring counts bytes; 96 of them are an event whose text repeats.
    ceil(w.ring_fill / 96.0)::bigint AS lag_records,
    w.recorded,
    w.dropped,
    w.gaps,
    w.panics,
    w.last_error,
    (SELECT max(c.published_at) FROM audit.checkpoint c) AS last_checkpoint,
    z.store_size,
    (z.store_size / greatest(1, extract(epoch FROM now() - p.since) / 86400))::bigint AS bytes_per_day,
    w.worker_ns AS own_cost_ns,
    w.unprotected
FROM audit.worker_status() w
LEFT JOIN pg_catalog.pg_database d ON d.oid = w.home
CROSS JOIN (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS store_size
            FROM pg_catalog.pg_class c
            WHERE c.relnamespace = 'audit'::regnamespace AND c.relkind = 'r') z
CROSS JOIN (SELECT min(starts_at) AS since FROM audit.period) p;

COMMENT ON VIEW audit.status IS 'One row: state of the trail, its ring and its worker';
COMMENT ON COLUMN audit.status.home IS 'Database that holds the trail';
COMMENT ON COLUMN audit.status.level IS 'audit.level of this session';
COMMENT ON COLUMN audit.status.worker_pid IS 'Process id of the worker; NULL while none runs';
COMMENT ON COLUMN audit.status.ring_size IS 'Size of the ring in bytes; NULL where the server has none and records nothing (last_error says why)';
COMMENT ON COLUMN audit.status.ring_fill IS 'Bytes in the ring that are not yet in the trail';
COMMENT ON COLUMN audit.status.leftover_rings IS 'Rings of earlier server starts that are still to be drained';
COMMENT ON COLUMN audit.status.last_seq IS 'Last seq of the trail';
COMMENT ON COLUMN audit.status.last_batch_at IS 'When the last batch was stored';
COMMENT ON COLUMN audit.status.lag_seconds IS 'Seconds since the last batch while records wait, 0 while none does; NULL where there is no ring, or no batch yet since server start';
COMMENT ON COLUMN audit.status.lag_records IS 'Records that wait, estimated from ring_fill';
COMMENT ON COLUMN audit.status.recorded IS 'Events stored since server start';
COMMENT ON COLUMN audit.status.dropped IS 'Events lost since server start because the ring was full, or recording failed in a session (panics); each is counted in a GAP event';
COMMENT ON COLUMN audit.status.gaps IS 'GAP events since server start';
COMMENT ON COLUMN audit.status.panics IS 'Errors inside the extension that were swallowed since server start; report them';
COMMENT ON COLUMN audit.status.last_error IS 'What keeps events from being recorded, stored or made durable; NULL if nothing does';
COMMENT ON COLUMN audit.status.last_checkpoint IS 'When the last checkpoint was signed';
COMMENT ON COLUMN audit.status.store_size IS 'Size of the trail in bytes';
COMMENT ON COLUMN audit.status.bytes_per_day IS 'Growth of the trail';
COMMENT ON COLUMN audit.status.own_cost_ns IS 'Time that the worker spent on batches since server start';
COMMENT ON COLUMN audit.status.unprotected IS 'Sessions since server start that found no in-flight slot: recorded, but what they have under way is not if they are killed';
