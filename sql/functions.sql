-- Functions in C (src/api). Those on "numbers" unpack one number of an event for the views.

CREATE FUNCTION audit.event_outcome(numbers bytea) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_outcome_wrapper';
COMMENT ON FUNCTION audit.event_outcome(bytea) IS 'Column outcome of audit.log';

CREATE FUNCTION audit.event_fate(numbers bytea) RETURNS smallint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_fate_wrapper';
COMMENT ON FUNCTION audit.event_fate(bytea) IS 'Fate known when the event was stored: 0 open, 1 committed, 2 rolled back, 3 prepared';

CREATE FUNCTION audit.event_no(numbers bytea) RETURNS bigint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_no_wrapper';
COMMENT ON FUNCTION audit.event_no(bytea) IS 'Column event_no of audit.log';

CREATE FUNCTION audit.event_statement_id(numbers bytea) RETURNS bigint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_statement_id_wrapper';
COMMENT ON FUNCTION audit.event_statement_id(bytea) IS 'Column statement_id of audit.log';

CREATE FUNCTION audit.event_substatement_id(numbers bytea) RETURNS int
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_substatement_id_wrapper';
COMMENT ON FUNCTION audit.event_substatement_id(bytea) IS 'Column substatement_id of audit.log';

CREATE FUNCTION audit.event_depth(numbers bytea) RETURNS int
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_depth_wrapper';
COMMENT ON FUNCTION audit.event_depth(bytea) IS 'Column depth of audit.log';

CREATE FUNCTION audit.event_duration(numbers bytea) RETURNS bigint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_duration_wrapper';
COMMENT ON FUNCTION audit.event_duration(bytea) IS 'Column duration of audit.log, in microseconds';

CREATE FUNCTION audit.event_rows(numbers bytea) RETURNS bigint
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_rows_wrapper';
COMMENT ON FUNCTION audit.event_rows(bytea) IS 'Column rows of audit.log';

CREATE FUNCTION audit.event_transaction_id(numbers bytea) RETURNS xid8
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_transaction_id_wrapper';
COMMENT ON FUNCTION audit.event_transaction_id(bytea) IS 'Column transaction_id of audit.log';

CREATE FUNCTION audit.event_sqlstate(numbers bytea) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_sqlstate_wrapper';
COMMENT ON FUNCTION audit.event_sqlstate(bytea) IS 'Column sqlstate of audit.log';

CREATE FUNCTION audit.event_statement_length(numbers bytea) RETURNS int
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_statement_length_wrapper';
COMMENT ON FUNCTION audit.event_statement_length(bytea) IS 'Column statement_length of audit.log';

CREATE FUNCTION audit.event_erased(event bytea, statement bytea, session bytea) RETURNS text[]
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'event_erased_wrapper';
COMMENT ON FUNCTION audit.event_erased(bytea, bytea, bytea) IS 'Key erased in column details of audit.log';

CREATE FUNCTION audit.flush() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'flush_wrapper';
COMMENT ON FUNCTION audit.flush() IS 'Waits until everything recorded before the call is in the trail; returns the last seq';

CREATE FUNCTION audit.worker_status(
        OUT home oid, OUT worker_pid int, OUT ring_size bigint, OUT ring_fill bigint,
        OUT leftover_rings int, OUT last_seq bigint, OUT last_batch_at timestamptz,
        OUT recorded bigint, OUT dropped bigint, OUT gaps bigint, OUT panics bigint,
        OUT last_error text, OUT worker_ns bigint, OUT unprotected bigint) RETURNS SETOF record ROWS 1
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'worker_status_wrapper';
COMMENT ON FUNCTION audit.worker_status() IS 'State of ring and worker since server start; see the view audit.status';

-- Sequential scans begin at the beginning; nothing of the caller's settings matters.
CREATE FUNCTION audit.verify(from_seq bigint DEFAULT NULL, to_seq bigint DEFAULT NULL)
    RETURNS TABLE (seq bigint, problem text, detail text)
    LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET synchronize_seqscans = off SET jit = off
    SET enable_indexonlyscan = off SET row_security = off
    AS 'MODULE_PATHNAME', 'verify_wrapper';
COMMENT ON FUNCTION audit.verify(bigint, bigint) IS 'One row per problem found in the trail, none where it is whole: changed, removed, inserted events, a cut tail, missing events';

CREATE FUNCTION audit.checkpoint() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'checkpoint_wrapper';
COMMENT ON FUNCTION audit.checkpoint() IS 'The signed head of the trail as it is flushed: a C2SP signed note with a tlog-checkpoint';

CREATE FUNCTION audit.inclusion_proof(seq bigint, size bigint) RETURNS json
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'inclusion_proof_wrapper';
COMMENT ON FUNCTION audit.inclusion_proof(bigint, bigint) IS 'Proof (RFC 9162) that an event is in the tree of a size';

CREATE FUNCTION audit.consistency_proof(size1 bigint, size2 bigint) RETURNS json
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'consistency_proof_wrapper';
COMMENT ON FUNCTION audit.consistency_proof(bigint, bigint) IS 'Proof (RFC 9162) that the tree of size1 is the beginning of the tree of size2';

-- Microseconds since 2000-01-01 00:00 UTC.
CREATE FUNCTION audit.evidence(from_seq bigint, to_seq bigint) RETURNS SETOF text
    LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
SELECT json_build_object(
    'seq', e.seq,
    'recorded_at', (extract(epoch FROM e.recorded_at) * 1000000)::bigint - 946684800000000,
    'started_at', (extract(epoch FROM e.started_at) * 1000000)::bigint - 946684800000000,
    'numbers', encode(e.numbers, 'hex'),
    'text', e.text,
    'error', e.error,
    'statement_sha256', encode(e.statement_sha256, 'hex'),
    'parameters', e.parameters::text,
    'details', e.details::text,
    'salt', encode(e.salt, 'hex'),
    'session', json_build_object(
        'ref', s.ref,
        'session_id', s.session_id,
        'started_at', (extract(epoch FROM s.started_at) * 1000000)::bigint - 946684800000000,
        'pid', s.pid,
        'user_name', s.user_name,
        'role_name', s.role_name,
        'auth_identity', s.auth_identity,
        'session_user_name', s.session_user_name,
        'database_name', s.database_name,
        'branch', s.branch,
        'client_addr', s.client_addr,
        'client_port', s.client_port,
        'application_name', s.application_name,
        'backend_type', s.backend_type,
        'context', s.context::text,
        'unstorable', s.unstorable::text,
        'salt', encode(s.salt, 'hex')),
    'statement', json_build_object(
        'ref', t.ref,
        'class', t.class,
        'classes', t.classes::text,
        'command', t.command,
        'object_type', t.object_type,
        'object_name', t.object_name,
        'relations', t.relations::text,
        'query_id', t.query_id,
        'text', t.text,
        'unstorable', t.unstorable::text,
        'salt', encode(t.salt, 'hex')),
    'fates', coalesce(f.fates, '[]'),
    'batch', CASE WHEN b.last_seq IS NOT NULL THEN json_build_object(
        'recorded_at', (extract(epoch FROM b.recorded_at) * 1000000)::bigint - 946684800000000,
        'ring_id', encode(b.ring_id, 'hex'),
        'position', b.position,
        'first_seq', b.first_seq,
        'last_seq', b.last_seq,
        'dropped', b.dropped) END)::text
FROM audit.event e
LEFT JOIN audit.session s ON s.ref = e.session
LEFT JOIN audit.statement t ON t.ref = e.statement
LEFT JOIN (SELECT decided_by, json_agg(json_build_object(
        'recorded_at', (extract(epoch FROM recorded_at) * 1000000)::bigint - 946684800000000,
        'session_started', (extract(epoch FROM session_started) * 1000000)::bigint - 946684800000000,
        'pid', pid,
        'first_event', first_event,
        'last_event', last_event,
        'outcome', outcome,
        'decided_by', decided_by,
        'gid', gid)) AS fates
    FROM audit.fate WHERE decided_by BETWEEN $1 AND $2 GROUP BY decided_by) f ON f.decided_by = e.seq
LEFT JOIN audit.batch b ON b.last_seq = e.seq
WHERE e.seq BETWEEN $1 AND $2
ORDER BY e.seq;
END;
COMMENT ON FUNCTION audit.evidence(bigint, bigint) IS 'Events with all that their leaves in the tree are made of, one JSON object per line, for audit-verify';

CREATE FUNCTION audit.erase(seq bigint, fields text[], reason text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'erase_wrapper';
COMMENT ON FUNCTION audit.erase(bigint, text[], text) IS 'Destroys values of an event (statement, error, parameters, details, context), at once and for good; the event still verifies. Returns how many events lost a value';

CREATE FUNCTION audit.claim_home() RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'claim_home_wrapper';
COMMENT ON FUNCTION audit.claim_home() IS 'Makes this database the home of the trail; for CREATE EXTENSION only';
