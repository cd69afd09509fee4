-- Storage. Filled by the background worker only; read through the views.
--
-- An event is one narrow row. What repeats is kept once and referred to: session attributes and
-- statement texts. A reference is (start of its period in minutes since 2000-01-01) << 36 | number,
-- so that the partitions of the two dictionaries have known bounds.

CREATE TABLE audit.event (
    seq bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    started_at timestamptz NOT NULL,
    session bigint NOT NULL,
    statement bigint NOT NULL,
    numbers bytea NOT NULL,
    -- In the order of how many events have them: NULLs at the end take no room.
    salt bytea,
    text text,
    error text,
    parameters text[],
    details jsonb,
    statement_sha256 bytea
) PARTITION BY RANGE (recorded_at);
COMMENT ON TABLE audit.event IS 'Events as the worker stores them; read them through the view audit.log';
COMMENT ON COLUMN audit.event.seq IS 'Position in the trail: 1, 2, 3 ... without gaps';
COMMENT ON COLUMN audit.event.recorded_at IS 'When the batch of the event was stored';
COMMENT ON COLUMN audit.event.started_at IS 'When the statement began';
COMMENT ON COLUMN audit.event.session IS 'Refers to audit.session';
COMMENT ON COLUMN audit.event.statement IS 'Refers to audit.statement';
COMMENT ON COLUMN audit.event.numbers IS 'The remaining numbers, packed (src/core/numbers.rs)';
COMMENT ON COLUMN audit.event.text IS 'Text of the statement where audit.statement does not hold it';
COMMENT ON COLUMN audit.event.error IS 'Message of the error';
COMMENT ON COLUMN audit.event.statement_sha256 IS 'SHA-256 of the full text where it was cut';
COMMENT ON COLUMN audit.event.parameters IS 'Bind parameters';
COMMENT ON COLUMN audit.event.details IS 'What is specific to the command';
COMMENT ON COLUMN audit.event.salt IS 'Random bytes for the digests of text, error, statement_sha256, parameters and details; digests of those that were erased';

CREATE TABLE audit.session (
    ref bigint NOT NULL,
    session_id text NOT NULL,
    started_at timestamptz NOT NULL,
    pid int NOT NULL,
    user_name text,
    role_name text,
    auth_identity text,
    session_user_name text,
    database_name text,
    branch text,
    client_addr inet,
    client_port int,
    application_name text,
    backend_type text,
    context jsonb,
    unstorable jsonb,
    salt bytea,
    PRIMARY KEY (ref)
) PARTITION BY RANGE (ref);
COMMENT ON TABLE audit.session IS 'Attributes of sessions, one row per version of them';
COMMENT ON COLUMN audit.session.ref IS 'What audit.event.session refers to';
COMMENT ON COLUMN audit.session.session_id IS 'Session id of PostgreSQL, as %c in log_line_prefix';
COMMENT ON COLUMN audit.session.started_at IS 'When the session began';
COMMENT ON COLUMN audit.session.pid IS 'Process id of the backend';
COMMENT ON COLUMN audit.session.user_name IS 'The role that logged on';
COMMENT ON COLUMN audit.session.role_name IS 'The effective role';
COMMENT ON COLUMN audit.session.auth_identity IS 'Who it authenticated as';
COMMENT ON COLUMN audit.session.session_user_name IS 'Set by SET SESSION AUTHORIZATION, where it differs from user_name';
COMMENT ON COLUMN audit.session.database_name IS 'The database it is connected to';
COMMENT ON COLUMN audit.session.branch IS 'Branch or environment label';
COMMENT ON COLUMN audit.session.client_addr IS 'Address of the client, NULL for a unix socket';
COMMENT ON COLUMN audit.session.client_port IS 'Port of the client';
COMMENT ON COLUMN audit.session.application_name IS 'Name that the application gave itself';
COMMENT ON COLUMN audit.session.backend_type IS 'Kind of process, as in pg_stat_activity';
COMMENT ON COLUMN audit.session.context IS 'Application context';
COMMENT ON COLUMN audit.session.unstorable IS 'Attributes that their column could not hold, as text';
COMMENT ON COLUMN audit.session.salt IS 'Random bytes for the digest of context; its digest where it was erased';

CREATE TABLE audit.statement (
    ref bigint NOT NULL,
    class text NOT NULL,
    classes text[] NOT NULL,
    command text NOT NULL,
    object_type text,
    object_name text,
    relations text[],
    query_id bigint,
    text text,
    unstorable jsonb,
    salt bytea,
    PRIMARY KEY (ref)
) PARTITION BY RANGE (ref);
COMMENT ON TABLE audit.statement IS 'Statements that repeat, with their text; and kinds of statements (without text) whose text is in the event';
COMMENT ON COLUMN audit.statement.ref IS 'What audit.event.statement refers to';
COMMENT ON COLUMN audit.statement.class IS 'The strongest class';
COMMENT ON COLUMN audit.statement.classes IS 'All classes, the strongest first';
COMMENT ON COLUMN audit.statement.command IS 'Command tag';
COMMENT ON COLUMN audit.statement.object_type IS 'Kind of the main object';
COMMENT ON COLUMN audit.statement.object_name IS 'Name of the main object';
COMMENT ON COLUMN audit.statement.relations IS 'Every table, view, foreign table and sequence used';
COMMENT ON COLUMN audit.statement.query_id IS 'As pg_stat_statements.queryid';
COMMENT ON COLUMN audit.statement.text IS 'Text of the statement; NULL: it is in the event';
COMMENT ON COLUMN audit.statement.unstorable IS 'Which of its texts are escaped, as the encoding of the home lacks their characters';
COMMENT ON COLUMN audit.statement.salt IS 'Random bytes for the digest of text; its digest where it was erased';

-- ANALYZE keeps samples of what it reads: a value that was erased would live on in pg_statistic.
ALTER TABLE audit.event
    ALTER COLUMN text SET STATISTICS 0, ALTER COLUMN error SET STATISTICS 0,
    ALTER COLUMN statement_sha256 SET STATISTICS 0, ALTER COLUMN parameters SET STATISTICS 0,
    ALTER COLUMN details SET STATISTICS 0, ALTER COLUMN salt SET STATISTICS 0;
ALTER TABLE audit.session ALTER COLUMN context SET STATISTICS 0, ALTER COLUMN salt SET STATISTICS 0;
ALTER TABLE audit.statement ALTER COLUMN text SET STATISTICS 0, ALTER COLUMN salt SET STATISTICS 0;

-- Long texts are most of what storing them costs: lz4 takes a tenth of pglz's time. A server built
-- without it keeps its default. Partitions take it over.
DO $compression$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_settings
               WHERE name OPERATOR(pg_catalog.=) 'default_toast_compression'
                 AND 'lz4' OPERATOR(pg_catalog.=) ANY (enumvals)) THEN
        ALTER TABLE audit.event
            ALTER COLUMN text SET COMPRESSION lz4, ALTER COLUMN error SET COMPRESSION lz4,
            ALTER COLUMN parameters SET COMPRESSION lz4, ALTER COLUMN details SET COMPRESSION lz4;
        ALTER TABLE audit.session ALTER COLUMN context SET COMPRESSION lz4;
        ALTER TABLE audit.statement ALTER COLUMN text SET COMPRESSION lz4;
    END IF;
END
$compression$;

CREATE TABLE audit.fate (
    recorded_at timestamptz NOT NULL,
    session_started timestamptz NOT NULL,
    pid int NOT NULL,
    first_event bigint NOT NULL,
    last_event bigint NOT NULL,
    outcome smallint NOT NULL,
    decided_by bigint NOT NULL,
    gid text
) PARTITION BY RANGE (recorded_at);
CREATE INDEX fate_session_idx ON audit.fate (session_started, pid, last_event);
CREATE INDEX fate_gid_idx ON audit.fate (gid) WHERE gid IS NOT NULL;
COMMENT ON TABLE audit.fate IS 'What became of events whose transaction ended in a later batch';
COMMENT ON COLUMN audit.fate.recorded_at IS 'When the decision was stored';
COMMENT ON COLUMN audit.fate.session_started IS 'With pid: the session';
COMMENT ON COLUMN audit.fate.pid IS 'With session_started: the session';
COMMENT ON COLUMN audit.fate.first_event IS 'First event_no of the range';
COMMENT ON COLUMN audit.fate.last_event IS 'Last event_no of the range';
COMMENT ON COLUMN audit.fate.outcome IS '1 committed, 2 rolled back, 3 prepared';
COMMENT ON COLUMN audit.fate.gid IS 'Identifier of the transaction, where it was prepared';
COMMENT ON COLUMN audit.fate.decided_by IS 'seq of the event that decided';

CREATE TABLE audit.batch (
    recorded_at timestamptz NOT NULL,
    ring_id bytea NOT NULL,
    position bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    dropped bigint NOT NULL,
    frontier bytea NOT NULL,
    checks bytea NOT NULL
) PARTITION BY RANGE (recorded_at);
CREATE INDEX batch_last_seq_idx ON audit.batch (last_seq);
CREATE INDEX batch_ring_idx ON audit.batch (ring_id, position);
COMMENT ON TABLE audit.batch IS 'One row per stored batch: where in which ring it ended, and its events';
COMMENT ON COLUMN audit.batch.recorded_at IS 'When the batch was stored';
COMMENT ON COLUMN audit.batch.ring_id IS 'The ring that the batch came from';
COMMENT ON COLUMN audit.batch.position IS 'Position in the ring up to which everything is stored';
COMMENT ON COLUMN audit.batch.first_seq IS 'seq of its first event';
COMMENT ON COLUMN audit.batch.last_seq IS 'seq of its last event';
COMMENT ON COLUMN audit.batch.dropped IS 'Drops of the ring that the trail tells of up to here';
COMMENT ON COLUMN audit.batch.frontier IS 'Frontier of the Merkle tree after the batch: those of its subtrees that end in the batch';
COMMENT ON COLUMN audit.batch.checks IS 'First four bytes of the leaf hash of each of its events: audit.verify() names the event by them';
-- They don't compress.
ALTER TABLE audit.batch ALTER COLUMN frontier SET STORAGE EXTERNAL, ALTER COLUMN checks SET STORAGE EXTERNAL,
    ALTER COLUMN frontier SET STATISTICS 0, ALTER COLUMN checks SET STATISTICS 0;

CREATE TABLE audit.period (
    starts_at timestamptz PRIMARY KEY,
    ends_at timestamptz NOT NULL CHECK (ends_at > starts_at),
    suffix text NOT NULL,
    closed_at timestamptz,
    frozen_at timestamptz,
    size bigint
);
COMMENT ON TABLE audit.period IS 'Periods of the trail: each has a partition of event, session, statement, fate and batch';
COMMENT ON COLUMN audit.period.starts_at IS 'Begin of the period (recorded_at), inclusive';
COMMENT ON COLUMN audit.period.ends_at IS 'End of the period, exclusive';
COMMENT ON COLUMN audit.period.suffix IS 'Suffix of the names of its partitions';
COMMENT ON COLUMN audit.period.closed_at IS 'When it got its indexes and bounds, after its end';
COMMENT ON COLUMN audit.period.frozen_at IS 'When its partitions were frozen';
COMMENT ON COLUMN audit.period.size IS 'Bytes of its partitions, once they are frozen';

CREATE TABLE audit.dropped (
    starts_at timestamptz PRIMARY KEY,
    ends_at timestamptz NOT NULL,
    first_seq bigint,
    last_seq bigint,
    events bigint NOT NULL,
    size bigint NOT NULL,
    reason text NOT NULL,
    dropped_at timestamptz NOT NULL,
    told_by bigint
);
COMMENT ON TABLE audit.dropped IS 'Periods that were dropped: audit.retention, audit.max_size';
COMMENT ON COLUMN audit.dropped.starts_at IS 'Begin of the period (recorded_at), inclusive';
COMMENT ON COLUMN audit.dropped.ends_at IS 'End of the period, exclusive';
COMMENT ON COLUMN audit.dropped.first_seq IS 'seq of its first event; NULL where it had none';
COMMENT ON COLUMN audit.dropped.last_seq IS 'seq of its last event';
COMMENT ON COLUMN audit.dropped.events IS 'Number of its events';
COMMENT ON COLUMN audit.dropped.size IS 'Bytes of its partitions';
COMMENT ON COLUMN audit.dropped.reason IS 'retention or max_size';
COMMENT ON COLUMN audit.dropped.dropped_at IS 'When it was dropped';
COMMENT ON COLUMN audit.dropped.told_by IS 'seq of the RETENTION event that tells of it';

CREATE TABLE audit.hold (
    id bigint PRIMARY KEY,
    held_from timestamptz NOT NULL,
    held_to timestamptz NOT NULL CHECK (held_to >= held_from),
    reason text NOT NULL,
    held_by text NOT NULL,
    held_at timestamptz NOT NULL,
    released_at timestamptz,
    released_by text,
    release_reason text
);
COMMENT ON TABLE audit.hold IS 'Legal holds: periods that overlap with one are not dropped; see the view audit.holds';
COMMENT ON COLUMN audit.hold.id IS 'Number of the hold';
COMMENT ON COLUMN audit.hold.held_from IS 'Begin of what is held, inclusive';
COMMENT ON COLUMN audit.hold.held_to IS 'End of what is held, inclusive';
COMMENT ON COLUMN audit.hold.reason IS 'What for';
COMMENT ON COLUMN audit.hold.held_by IS 'Who made it';
COMMENT ON COLUMN audit.hold.held_at IS 'When it was made';
COMMENT ON COLUMN audit.hold.released_at IS 'When it was released; NULL while it holds';
COMMENT ON COLUMN audit.hold.released_by IS 'Who released it';
COMMENT ON COLUMN audit.hold.release_reason IS 'Why it was released';

-- What outlives the partitions. Small: a row per checkpoint, per dropped partition, per change of
-- key or origin.

CREATE TABLE audit.checkpoint (
    size bigint NOT NULL,
    published_at timestamptz NOT NULL,
    root bytea NOT NULL,
    note text NOT NULL,
    PRIMARY KEY (size, published_at)
);
COMMENT ON TABLE audit.checkpoint IS 'Checkpoints as the worker published them, to pg_audit/checkpoints and the server log';
COMMENT ON COLUMN audit.checkpoint.size IS 'Size of the tree: the last seq that the checkpoint covers';
COMMENT ON COLUMN audit.checkpoint.published_at IS 'When it was signed';
COMMENT ON COLUMN audit.checkpoint.root IS 'Root of the tree';
COMMENT ON COLUMN audit.checkpoint.note IS 'The signed note (C2SP signed-note, tlog-checkpoint)';

CREATE TABLE audit.subtree (
    first_seq bigint PRIMARY KEY,
    last_seq bigint NOT NULL CHECK (last_seq >= first_seq),
    nodes bytea NOT NULL
);
COMMENT ON TABLE audit.subtree IS 'What is left of events whose partition was dropped: hashes of subtrees, so that proofs and checkpoints stay valid';
COMMENT ON COLUMN audit.subtree.first_seq IS 'seq of the first event that it stands for';
COMMENT ON COLUMN audit.subtree.last_seq IS 'seq of the last event that it stands for';
COMMENT ON COLUMN audit.subtree.nodes IS 'Roots of the fewest complete subtrees that cover these events, from left to right';

CREATE TABLE audit.origin (
    seq bigint PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    command text NOT NULL,
    details jsonb NOT NULL
);
COMMENT ON TABLE audit.origin IS 'Copies of the events that say where the trail comes from and who signs it: the first START, KEY, FORK, RESTORE, UPGRADE. They outlive their partitions';
COMMENT ON COLUMN audit.origin.seq IS 'seq of the event';
COMMENT ON COLUMN audit.origin.recorded_at IS 'When it was stored';
COMMENT ON COLUMN audit.origin.command IS 'START, KEY, FORK, RESTORE or UPGRADE';
COMMENT ON COLUMN audit.origin.details IS 'Details of the event';
