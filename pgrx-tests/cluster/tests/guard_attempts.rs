//! The guard: who tries to change the trail, by what and by which way.

use audit_cluster_tests::{Cluster, eventually};
use postgres::Client;
use postgres::error::SqlState;

pub const HOME: &str = "postgres";

/// Attempts that can be made anywhere, in a function as well. `{partition}` is a partition of
/// audit.event, `{toast}` its TOAST table.
const ATTEMPTS: &[&str] = &[
    // rows
    "INSERT INTO audit.period VALUES ('2000-01-01', '2000-01-02', 'x')",
    "INSERT INTO audit.event SELECT * FROM audit.event LIMIT 1",
    "INSERT INTO {partition} SELECT * FROM {partition} LIMIT 0",
    "UPDATE audit.event SET text = 'SELECT 1'",
    "UPDATE {partition} SET text = 'SELECT 1' WHERE false",
    "DELETE FROM audit.event",
    "DELETE FROM ONLY {partition}",
    "WITH gone AS (DELETE FROM audit.fate RETURNING 1) SELECT count(*) FROM gone",
    "MERGE INTO audit.period p USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    "SELECT 1 FROM audit.event FOR UPDATE",
    "SELECT 1 FROM (SELECT 1 FROM audit.session FOR KEY SHARE) s",
    "SELECT 1 FROM audit.event, audit.fate FOR NO KEY UPDATE OF event",
    "TRUNCATE audit.event",
    "TRUNCATE {partition}",
    "TRUNCATE public.mine, audit.batch CASCADE",
    // locks
    "LOCK TABLE audit.event",
    "LOCK TABLE audit.event IN ROW SHARE MODE",
    "LOCK TABLE {partition} IN ACCESS EXCLUSIVE MODE",
    "COPY audit.period FROM '/dev/null'",
    "COPY {partition} FROM '/dev/null'",
    "COPY pg_depend FROM '/dev/null'",
    // objects
    "DROP TABLE audit.event CASCADE",
    "DROP TABLE {partition}",
    "DROP VIEW audit.log CASCADE",
    "DROP SCHEMA audit CASCADE",
    "DROP FUNCTION audit.flush() CASCADE",
    "DROP FUNCTION audit.guard() CASCADE",
    "DROP EXTENSION audit_ext",
    "DROP EXTENSION audit_ext CASCADE",
    "DROP INDEX audit.fate_gid_idx",
    "DROP TRIGGER guard ON audit.event",
    "DROP OWNED BY audit_reader",
    "ALTER EXTENSION audit_ext DROP TABLE {partition}",
    "ALTER EXTENSION audit_ext ADD TABLE public.mine",
    "ALTER TABLE audit.event ADD COLUMN x int",
    "ALTER TABLE audit.event DROP COLUMN text",
    "ALTER TABLE audit.event ALTER COLUMN text TYPE varchar",
    "ALTER TABLE audit.event ALTER COLUMN text SET DEFAULT 'x'",
    "ALTER TABLE audit.event ALTER COLUMN text SET STATISTICS 0",
    "ALTER TABLE audit.event OWNER TO mallory",
    "ALTER TABLE audit.event RENAME TO gone",
    "ALTER TABLE audit.event RENAME COLUMN text TO gone",
    "ALTER TABLE audit.event SET SCHEMA public",
    "ALTER TABLE audit.event DISABLE TRIGGER ALL",
    "ALTER TABLE audit.event DETACH PARTITION {partition}",
    "ALTER TABLE audit.event ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE audit.event ATTACH PARTITION public.mine DEFAULT",
    "ALTER TABLE {partition} SET UNLOGGED",
    "ALTER TABLE {partition} SET TABLESPACE pg_default",
    "ALTER TABLE {partition} SET (autovacuum_enabled = off)",
    "ALTER TABLE {partition} ADD CHECK (seq > 0)",
    "ALTER TABLE audit.period INHERIT public.mine",
    "ALTER TABLE public.heir INHERIT audit.period",
    "ALTER INDEX audit.fate_gid_idx RENAME TO gone",
    "ALTER INDEX audit.fate_gid_idx SET TABLESPACE pg_default",
    "ALTER VIEW audit.log RENAME TO gone",
    "ALTER VIEW audit.log ALTER COLUMN seq SET DEFAULT 1",
    "ALTER SCHEMA audit RENAME TO gone",
    "ALTER SCHEMA audit OWNER TO mallory",
    "ALTER FUNCTION audit.flush() RENAME TO gone",
    "ALTER FUNCTION audit.flush() OWNER TO mallory",
    "ALTER FUNCTION audit.flush() SET search_path = public",
    "ALTER FUNCTION audit.flush() SET SCHEMA public",
    "ALTER TRIGGER guard ON audit.event RENAME TO gone",
    "ALTER RULE \"_RETURN\" ON audit.log RENAME TO gone",
    "CREATE OR REPLACE FUNCTION audit.flush() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
    "CREATE OR REPLACE VIEW audit.failures AS SELECT * FROM audit.log WHERE false",
    "CREATE OR REPLACE TRIGGER guard BEFORE INSERT ON audit.event FOR EACH ROW EXECUTE FUNCTION public.pass()",
    "CREATE TABLE audit.mine (x int)",
    "CREATE TABLE audit.mine AS SELECT 1",
    "SELECT 1 AS x INTO audit.mine",
    "CREATE VIEW audit.mine AS SELECT 1",
    "CREATE SEQUENCE audit.mine",
    "CREATE TYPE audit.mine AS (x int)",
    "CREATE TYPE audit.mine AS ENUM ('x')",
    "CREATE DOMAIN audit.mine AS int",
    "CREATE FUNCTION audit.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OPERATOR audit.### (leftarg = int, rightarg = int, function = int4pl)",
    "ALTER TABLE public.mine SET SCHEMA audit",
    "CREATE TABLE public.child () INHERITS (audit.period)",
    "CREATE TABLE public.child PARTITION OF audit.event DEFAULT",
    "CREATE TABLE public.child (x timestamptz REFERENCES audit.period)",
    "ALTER TABLE public.mine ADD FOREIGN KEY (at) REFERENCES audit.period",
    "CREATE INDEX ON audit.event (text)",
    "CREATE INDEX ON {partition} (text)",
    "CREATE STATISTICS public.mine ON seq, session FROM audit.event",
    "CREATE STATISTICS public.mine ON seq, session FROM {partition}",
    "CREATE TRIGGER mine BEFORE INSERT ON audit.event FOR EACH ROW EXECUTE FUNCTION public.pass()",
    "CREATE TRIGGER mine INSTEAD OF DELETE ON audit.log FOR EACH ROW EXECUTE FUNCTION public.pass()",
    "CREATE RULE mine AS ON INSERT TO audit.fate DO INSTEAD NOTHING",
    "CREATE RULE mine AS ON DELETE TO audit.log DO INSTEAD NOTHING",
    "CREATE POLICY mine ON audit.event",
    "GRANT SELECT ON audit.event TO mallory",
    "GRANT SELECT (seq) ON audit.log TO mallory",
    "GRANT ALL ON ALL TABLES IN SCHEMA audit TO mallory",
    "GRANT ALL ON SCHEMA audit TO mallory",
    "GRANT EXECUTE ON FUNCTION audit.unlock(text) TO mallory",
    "REVOKE SELECT ON audit.log FROM audit_reader",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA audit GRANT SELECT ON TABLES TO mallory",
    "COMMENT ON TABLE audit.event IS 'x'",
    "COMMENT ON COLUMN audit.event.seq IS 'x'",
    "COMMENT ON FUNCTION audit.flush() IS 'x'",
    "COMMENT ON EXTENSION audit_ext IS 'x'",
    "REINDEX TABLE {partition}",
    "REINDEX INDEX {partition}_brin",
    "REINDEX INDEX audit.period_pkey",
    "REINDEX TABLE {toast}",
    "REINDEX INDEX {toast}_index",
    "CREATE PUBLICATION mine FOR TABLE audit.dropped",
    "ALTER PUBLICATION others ADD TABLE audit.hold",
    // what reads the trail calls
    "CREATE OR REPLACE FUNCTION pg_catalog.arraycontains(anyarray, anyarray) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false'",
    "CREATE OR REPLACE FUNCTION pg_catalog.jsonb_concat(jsonb, jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT NULL::jsonb'",
    "ALTER FUNCTION pg_catalog.arraycontains(anyarray, anyarray) VOLATILE",
    // rows of others that write here
    "DELETE FROM public.ruled",
    "INSERT INTO public.triggered VALUES (1)",
    // catalogs
    "UPDATE pg_class SET relname = 'gone' WHERE relname = 'event'",
    "DELETE FROM pg_proc WHERE proname = 'flush'",
    "DELETE FROM pg_rewrite WHERE ev_class = 'audit.log'::regclass",
    "UPDATE pg_trigger SET tgenabled = 'D'",
    "DELETE FROM pg_depend WHERE deptype = 'e'",
    "DELETE FROM pg_extension",
    "DELETE FROM pg_inherits",
    "DELETE FROM pg_shseclabel",
    "UPDATE pg_attribute SET attname = 'gone' WHERE attname = 'seq'",
    "UPDATE pg_namespace SET nspname = 'gone' WHERE nspname = 'audit'",
    "UPDATE pg_database SET datallowconn = false WHERE datname = 'postgres'",
    "DELETE FROM pg_database WHERE datname = 'postgres'",
    "ALTER DATABASE postgres IS_TEMPLATE true",
    // by a plan that writes, of a statement that doesn't
    "SELECT * FROM public.inlined()",
    "SELECT * FROM public.inlined_database()",
    "ALTER DATABASE postgres ALLOW_CONNECTIONS false",
];

/// Attempts that the server allows in no function or transaction.
const TOP_LEVEL_ATTEMPTS: &[&str] = &[
    "VACUUM FULL audit.event",
    "VACUUM (FULL, ANALYZE) {partition}",
    "VACUUM FULL {toast}",
    "VACUUM FULL",
    "CLUSTER audit.fate USING fate_session_idx",
    "REINDEX SCHEMA audit",
    "CREATE INDEX CONCURRENTLY ON {partition} (text)",
    "ALTER TABLE audit.event DETACH PARTITION {partition} CONCURRENTLY",
    "BEGIN; LOCK TABLE public.window IN EXCLUSIVE MODE",
    "BEGIN; ANALYZE audit.event",
    "BEGIN; ANALYZE {partition}",
];

/// Objects of somebody else that lead to the trail.
const PREPARE: &str = "
    SET client_min_messages = error;
    CREATE ROLE mallory LOGIN;
    CREATE ROLE dba LOGIN CREATEROLE; ALTER DATABASE postgres OWNER TO dba;
    CREATE ROLE keeper LOGIN; GRANT audit_admin TO keeper;
    CREATE ROLE auditor LOGIN; GRANT audit_reader TO auditor;
    CREATE TABLE public.mine (x int, at timestamptz);
    CREATE TABLE public.heir (LIKE audit.period INCLUDING ALL);
    CREATE VIEW public.window AS SELECT * FROM audit.event;
    CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE FUNCTION public.erase() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN DELETE FROM audit.event; RETURN NEW; END';
    CREATE TABLE public.triggered (x int);
    CREATE TRIGGER erase BEFORE INSERT ON public.triggered FOR EACH ROW EXECUTE FUNCTION public.erase();
    CREATE TABLE public.ruled (x int); CREATE PUBLICATION others FOR TABLE public.mine;
    CREATE RULE erase AS ON DELETE TO public.ruled DO INSTEAD DELETE FROM audit.event;
    CREATE FUNCTION public.inlined() RETURNS SETOF int STABLE LANGUAGE sql
        AS 'WITH gone AS (DELETE FROM pg_trigger RETURNING 1) SELECT 1 FROM gone';
    CREATE FUNCTION public.inlined_database() RETURNS SETOF int STABLE LANGUAGE sql
        AS 'WITH gone AS (UPDATE pg_database SET datallowconn = false RETURNING 1) SELECT 1 FROM gone';
    CREATE FUNCTION public.run(text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE $1; END';";

pub fn prepared() -> (Cluster, String) {
    let cluster = Cluster::start();
    cluster.psql().db(HOME).run(PREPARE).ok();
    // The next period's partitions are made ahead, after the first batch.
    eventually("the next period is made", || {
        cluster.flush();
        cluster.value("SELECT count(*) FROM audit.period") == "2"
    });
    let partition = cluster.value(
        "SELECT min(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'audit.event'::regclass",
    );
    (cluster, partition)
}

/// An attempt with its names.
fn filled(sql: &str, partition: &str, toast: &str) -> String {
    sql.replace("{partition}", partition)
        .replace("{toast}", toast)
}

fn toast_of(cluster: &Cluster, partition: &str) -> String {
    cluster.value(&format!(
        "SELECT reltoastrelid::regclass FROM pg_class WHERE oid = '{partition}'::regclass"
    ))
}

/// Runs an attempt; what is wrong with how it ended.
pub fn attempt(client: &mut Client, sql: &str) -> Option<String> {
    match client.batch_execute(sql) {
        Ok(()) => Some(format!("went through: {sql}")),
        Err(error) => {
            let Some(error) = error.as_db_error() else {
                return Some(format!("{sql}: {error:?}"));
            };
            let hint = error.hint().unwrap_or_default();
            let right = *error.code() == SqlState::INSUFFICIENT_PRIVILEGE
                && hint.contains("audit.unlock('reason')")
                && error
                    .message()
                    .contains(" is refused: the audit trail is guarded");
            (!right).then(|| {
                format!(
                    "{sql}: {} {} ({hint})",
                    error.code().code(),
                    error.message()
                )
            })
        }
    }
}

/// Everything in schema audit and its rows in the catalogs, as one value.
fn fingerprint(cluster: &Cluster) -> String {
    cluster.value(
        "SELECT md5(string_agg(t, E'\\n' ORDER BY t)) FROM (
            SELECT 'c' || c::text FROM (SELECT oid, relname, relowner, relkind, relacl, relhastriggers, relrowsecurity, reltablespace, reloptions FROM pg_class WHERE relnamespace = 'audit'::regnamespace) c
            UNION ALL SELECT 'p' || p::text FROM pg_proc p WHERE pronamespace = 'audit'::regnamespace
            UNION ALL SELECT 't' || t::text FROM pg_trigger t WHERE tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'audit'::regnamespace)
            UNION ALL SELECT 'r' || r::text FROM pg_rewrite r WHERE ev_class IN (SELECT oid FROM pg_class WHERE relnamespace = 'audit'::regnamespace)
            UNION ALL SELECT 'n' || n::text FROM pg_namespace n WHERE nspname = 'audit'
            UNION ALL SELECT 'd' || d::text FROM pg_depend d WHERE refclassid = 'pg_extension'::regclass
            UNION ALL SELECT 's' || s::text FROM pg_shseclabel s
            UNION ALL SELECT 'b' || datname || datallowconn || datistemplate FROM pg_database
            UNION ALL SELECT 'a' || attrelid || attname || atttypid || coalesce(attacl::text, '') FROM pg_attribute WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'audit'::regnamespace)
        ) AS x(t)",
    )
}

#[test]
fn a_superuser_is_refused_whatever_he_tries_and_it_is_recorded() {
    let (cluster, partition) = prepared();
    let toast = toast_of(&cluster, &partition);
    let before = fingerprint(&cluster);
    let mut wrong = Vec::new();
    // The trail's events of this session say what was tried, whatever the level.
    let mut client = cluster.connect("postgres", HOME);
    client
        .batch_execute("SET audit.level = 'none'")
        .expect("sets");
    let all: Vec<String> = ATTEMPTS
        .iter()
        .chain(TOP_LEVEL_ATTEMPTS)
        .map(|sql| filled(sql, &partition, &toast))
        .collect();
    for sql in &all {
        wrong.extend(attempt(&mut client, sql));
        client.batch_execute("ROLLBACK").expect("goes on");
    }
    let events = cluster.trail_of(
        "statement",
        "class = 'AUDIT' AND command = 'REFUSED' AND outcome = 'failed' AND sqlstate = '42501' \
         AND user_name = 'postgres' AND database_name = 'postgres' \
         AND details ->> 'command' <> '' AND details ->> 'object' <> '' AND error LIKE '%refused%'",
    );
    for sql in &all {
        let times = events.iter().filter(|event| *event == sql).count();
        if times != 1 {
            wrong.push(format!("{times} REFUSED events: {sql}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(fingerprint(&cluster), before);
    // The worker goes on.
    cluster.psql().run("SELECT 'still recorded'").ok();
    assert_eq!(cluster.count("statement LIKE '%still recorded%'"), 1);
    assert_eq!(cluster.value("SELECT panics FROM audit.status"), "0");
}

/// From a DO block, from a function, with triggers switched off, in a subtransaction, by extended
/// protocol: the same.
#[test]
fn no_way_leads_round_the_guard() {
    let (cluster, partition) = prepared();
    let toast = toast_of(&cluster, &partition);
    let before = fingerprint(&cluster);
    let mut wrong = Vec::new();
    let mut client = cluster.connect("postgres", HOME);
    let quote = |sql: &str| sql.replace('\'', "''");
    type Wrap<'w> = &'w dyn Fn(&str) -> String;
    let ways: [(&str, Wrap); 5] = [
        ("DO", &|sql| {
            format!("DO $do$ BEGIN {}; END $do$", into(sql))
        }),
        ("function", &|sql| {
            format!("SELECT public.run('{}')", quote(sql))
        }),
        ("replica", &|sql| {
            format!("SET session_replication_role = replica; {sql}")
        }),
        ("system table mods", &|sql| {
            format!("SET allow_system_table_mods = on; {sql}")
        }),
        ("savepoint", &|sql| format!("BEGIN; SAVEPOINT s; {sql}")),
    ];
    for (way, wrap) in ways {
        for sql in ATTEMPTS {
            let sql = filled(sql, &partition, &toast);
            // SELECT INTO means something else in PL/pgSQL.
            if sql.contains(" INTO audit.mine") && way != "replica" {
                continue;
            }
            // Then neither triggers nor rules of users fire.
            if way == "replica" && (sql.contains("ruled") || sql.contains("triggered")) {
                continue;
            }
            if let Some(problem) = attempt(&mut client, &wrap(&sql)) {
                wrong.push(format!("{way}: {problem}"));
            }
            client
                .batch_execute(
                    "ROLLBACK; RESET session_replication_role; RESET allow_system_table_mods",
                )
                .expect("goes on");
        }
    }
    for sql in [
        "DELETE FROM audit.event",
        "SELECT seq FROM audit.event FOR UPDATE",
    ] {
        let error = client.query(sql, &[]).expect_err(sql);
        if error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            wrong.push(format!("extended protocol: {sql}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(fingerprint(&cluster), before);
}

/// A statement as PL/pgSQL wants it.
fn into(sql: &str) -> String {
    match sql.strip_prefix("SELECT ") {
        Some(rest) if !sql.contains("INTO") => format!("PERFORM {rest}"),
        _ if sql.starts_with("WITH") => format!("EXECUTE $q${sql}$q$"),
        _ => sql.to_owned(),
    }
}

/// What docs/guard.md gives an auditor: who tried what, by whomever he was refused.
const WHO_TRIED: &str =
    r"sqlstate = '42501' AND (command = 'REFUSED' OR statement ~* '\maudit(\M|_ext)')";

/// What the server itself refuses to those without privileges is 42501, too; one question finds all
/// of it, whatever the level.
#[test]
fn others_are_refused_as_well_and_it_is_recorded() {
    let (cluster, partition) = prepared();
    let toast = toast_of(&cluster, &partition);
    let before = fingerprint(&cluster);
    let mut wrong = Vec::new();
    // dba owns the database, and nothing else is his; public is closed to all from 15 on.
    let all: Vec<_> = ATTEMPTS
        .iter()
        .map(|sql| filled(sql, &partition, &toast))
        .collect();
    for actor in ["mallory", "dba", "keeper", "auditor"] {
        for level in ["none", "all"] {
            cluster
                .psql()
                .run(format!("ALTER ROLE {actor} SET audit.level = '{level}'"))
                .ok();
            let mut client = cluster.connect(actor, HOME);
            for sql in &all {
                match client.batch_execute(sql) {
                    Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
                    Err(error) => wrong.push(format!("{actor}: {sql}: {error}")),
                    Ok(()) => wrong.push(format!("{actor}: went through: {sql}")),
                }
            }
            drop(client);
            let found = cluster.trail_of(
                "statement",
                &format!("user_name = '{actor}' AND {WHO_TRIED}"),
            );
            let times = if level == "none" { 1 } else { 2 };
            for sql in all.iter().filter(|sql| is_aimed_at_the_trail(sql)) {
                let seen = found.iter().filter(|text| *text == sql).count();
                if seen < times {
                    wrong.push(format!("{actor}, {level}: {seen} events: {sql}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(fingerprint(&cluster), before);
}

/// Not what only a superuser could do: for others these are statements on tables that are not theirs,
/// and that is what is on record.
fn is_aimed_at_the_trail(sql: &str) -> bool {
    sql.contains("audit.") || sql.contains("audit_ext")
}
