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

CREATE FUNCTION audit.flush() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'flush_wrapper';
COMMENT ON FUNCTION audit.flush() IS 'Waits until everything recorded before the call is in the trail; returns the last seq';

CREATE FUNCTION audit.worker_status(
        OUT home oid, OUT worker_pid int, OUT ring_size bigint, OUT ring_fill bigint,
        OUT leftover_rings int, OUT last_seq bigint, OUT last_batch_at timestamptz,
        OUT recorded bigint, OUT dropped bigint, OUT gaps bigint, OUT panics bigint,
        OUT last_error text, OUT worker_ns bigint) RETURNS SETOF record ROWS 1
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
