//! The guard: what goes on as ever, what unlocking does, and what calls no hook. The attempts on the
//! trail are in `guard_attempts`.

use audit_cluster_tests::{Cluster, eventually, wait_until};
use postgres::error::SqlState;
use std::fs;
use std::time::Duration;

use crate::fails;
use crate::guard_attempts::{HOME, attempt, prepared};

fn refused(cluster: &Cluster) -> usize {
    cluster
        .trail_of("seq", "class = 'AUDIT' AND command = 'REFUSED'")
        .len()
}

#[test]
fn reading_and_upkeep_are_nobodys_concern() {
    let (cluster, partition) = prepared();
    let mut client = cluster.connect("postgres", HOME);
    for sql in [
        "SELECT count(*) FROM audit.log",
        "SELECT count(*) FROM {partition}",
        "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM audit.log; FETCH 1 FROM c; CLOSE c",
        "EXPLAIN DELETE FROM audit.event",
        "BEGIN; LOCK TABLE audit.event IN ACCESS SHARE MODE; COMMIT",
        "CREATE TABLE copy AS SELECT * FROM audit.log",
        "UPDATE copy SET seq = e.seq FROM audit.event e WHERE e.seq = copy.seq",
        "DELETE FROM copy USING audit.event e WHERE e.seq = copy.seq",
        "CREATE VIEW over AS SELECT * FROM audit.log",
        "CREATE TABLE like_ours (LIKE audit.event)",
        "COPY {partition} TO '/dev/null'",
        "COPY (SELECT * FROM audit.log) TO '/dev/null'",
        "VACUUM audit.event",
        "VACUUM (FREEZE, ANALYZE) {partition}",
        "VACUUM",
        "ANALYZE audit.session",
        "REINDEX TABLE CONCURRENTLY audit.period",
        "REINDEX INDEX CONCURRENTLY audit.fate_gid_idx",
        "REINDEX TABLE CONCURRENTLY {partition}",
        "REINDEX SCHEMA CONCURRENTLY audit",
        "REINDEX DATABASE postgres",
        // Somebody else's, in the home and elsewhere.
        "CREATE TABLE t (x int PRIMARY KEY); CREATE TABLE u (x int REFERENCES t); BEGIN; LOCK TABLE t; COMMIT; DROP TABLE t CASCADE",
        "CREATE EXTENSION hstore; ALTER EXTENSION hstore ADD TABLE u; DROP EXTENSION hstore CASCADE",
        "CREATE TEMP TABLE e (x int); TRUNCATE e; VACUUM FULL mine",
        "CREATE SCHEMA other; CREATE TABLE other.event (x int); COMMENT ON TABLE other.event IS 'x'; GRANT ALL ON other.event TO mallory; DROP SCHEMA other CASCADE",
        "ALTER EXTENSION audit_ext UPDATE",
        "UPDATE pg_database SET datconnlimit = -1 WHERE datname = 'app'",
        "ALTER DATABASE postgres CONNECTION LIMIT -1",
        "ALTER DATABASE app IS_TEMPLATE true; ALTER DATABASE app IS_TEMPLATE false",
        "DROP OWNED BY mallory",
        "GRANT audit_reader TO mallory; REVOKE audit_reader FROM mallory",
        "GRANT EXECUTE ON FUNCTION pg_reload_conf() TO mallory; REVOKE EXECUTE ON FUNCTION pg_reload_conf() FROM mallory",
        "CREATE FUNCTION own() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION own() STABLE; DROP FUNCTION own()",
        "ALTER PUBLICATION others ADD TABLE heir; DROP PUBLICATION others",
    ] {
        for sql in sql.replace("{partition}", &partition).split("; ") {
            client
                .batch_execute(sql)
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
    // Elsewhere catalogs are their owner's affair, but for the shared label.
    let mut app = cluster.app();
    app.batch_execute(
        "CREATE TABLE t (x int); UPDATE pg_class SET relpages = 0 WHERE relname = 't'",
    )
    .expect("allowed");
    app.batch_execute("ALTER FUNCTION pg_catalog.arraycontains(anyarray, anyarray) COST 2")
        .expect("allowed");
    app.batch_execute("CREATE SCHEMA audit; CREATE TABLE audit.event (x int); DELETE FROM audit.event; DROP SCHEMA audit CASCADE")
        .expect("allowed");
    let problem = attempt(&mut app, "DELETE FROM pg_shseclabel");
    assert_eq!(problem, None);
    let dump = cluster
        .program("pg_dump")
        .args(["-d", HOME])
        .output()
        .expect("pg_dump runs");
    assert!(dump.status.success(), "{dump:?}");
    assert!(String::from_utf8_lossy(&dump.stdout).contains("CREATE EXTENSION"));
    assert_eq!(refused(&cluster), 1);
    assert_eq!(cluster.value("SELECT panics FROM audit.status"), "0");
}

#[test]
fn labels_that_nobody_provides_fail_as_ever() {
    let cluster = Cluster::start();
    let mut client = cluster.connect("postgres", HOME);
    client
        .batch_execute("CREATE TABLE t (x int); SET lock_timeout = '2s'")
        .expect("runs");
    let mut other = cluster.connect("postgres", HOME);
    other.batch_execute("BEGIN; LOCK TABLE t").expect("locks");
    for object in [
        "TABLE t",
        "TABLE nosuch",
        "FUNCTION nosuch()",
        "TABLE audit.event",
    ] {
        let error = fails(&mut client, &format!("SECURITY LABEL ON {object} IS 'x'"));
        assert_eq!(error.code().code(), "22023", "{object}: {error:?}");
    }
}

#[test]
fn an_error_that_is_caught_inside_a_statement_does_not_end_it() {
    let cluster = Cluster::start();
    let folder = cluster
        .program("pg_config")
        .arg("--sharedir")
        .output()
        .expect("pg_config runs");
    let folder = String::from_utf8_lossy(&folder.stdout).trim().to_owned();
    let version = cluster.value("SELECT extversion FROM pg_extension WHERE extname = 'audit_ext'");
    let script = format!("{folder}/extension/audit_ext--{version}--caught.sql");
    let mut client = cluster.connect("postgres", HOME);
    client
        .batch_execute(
            "CREATE FUNCTION catches() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
                 BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
                 BEGIN EXECUTE 'DROP TABLE nosuch'; EXCEPTION WHEN undefined_table THEN NULL; END;
             END $$;
             CREATE EVENT TRIGGER catches ON ddl_command_start WHEN TAG IN ('ALTER EXTENSION')
                 EXECUTE FUNCTION catches()",
        )
        .expect("runs");
    fs::write(&script, "SELECT 1;").expect("writes");
    let updated = client.batch_execute("ALTER EXTENSION audit_ext UPDATE TO 'caught'");
    fs::remove_file(&script).expect("removes");
    updated.expect("as without the trigger");
}

#[test]
fn the_home_is_not_dropped_or_closed_from_elsewhere() {
    let cluster = Cluster::builder().without_extension().start();
    cluster.psql().run("CREATE DATABASE home").ok();
    cluster.psql().db("home").run("CREATE EXTENSION audit_ext");
    for sql in [
        "DROP DATABASE home",
        "DROP DATABASE home WITH (FORCE)",
        "ALTER DATABASE home IS_TEMPLATE true",
        "ALTER DATABASE home ALLOW_CONNECTIONS false",
        "UPDATE pg_database SET datname = 'gone' WHERE datname = 'home'",
        "UPDATE pg_database SET datallowconn = false",
        "DELETE FROM pg_database WHERE datname = 'home'",
        "DELETE FROM pg_shseclabel",
        "UPDATE pg_shseclabel SET label = 'x'",
    ] {
        let mut app = cluster.app();
        assert_eq!(attempt(&mut app, sql), None);
    }
    cluster.psql().db("home").run("SELECT audit.flush()").ok();
    assert_eq!(
        cluster.query(
            "home",
            "SELECT count(*) FROM audit.log WHERE command = 'REFUSED'"
        ),
        ["9"]
    );
    // The way that there is.
    cluster
        .psql()
        .db("home")
        .run("SELECT audit.unlock('the end'); DROP EXTENSION audit_ext")
        .ok();
    cluster.psql().run("DROP DATABASE home WITH (FORCE)").ok();
}

#[test]
fn unlocked_a_superuser_does_what_he_must_and_all_of_it_is_on_record() {
    let (cluster, partition) = prepared();
    let mut client = cluster.connect("postgres", HOME);
    client
        .batch_execute("SET audit.level = 'none'")
        .expect("sets");
    client
        .batch_execute("SELECT audit.unlock('ticket 4711')")
        .expect("unlocks");
    // It returned, so it is in the trail, and the log says so.
    assert_eq!(
        cluster.query(
            HOME,
            "SELECT details ->> 'reason', user_name FROM audit.log WHERE command = 'UNLOCK' AND class = 'AUDIT'"
        ),
        ["ticket 4711 | postgres"]
    );
    let log = cluster.log();
    let unlocked = log.find("the trail is unlocked").expect("in the log");
    let seq = cluster.value("SELECT max(seq) FROM audit.log WHERE command = 'UNLOCK'");
    let published = log[..unlocked]
        .split("audit trail checkpoint")
        .filter_map(|note| note.lines().nth(2)?.trim().parse::<i64>().ok())
        .max();
    // A checkpoint that covers the event was in the log before.
    assert!(published >= seq.parse().ok(), "{published:?} {seq}\n{log}");
    // Others are still held off.
    let mut other = cluster.connect("postgres", HOME);
    assert_eq!(attempt(&mut other, "DELETE FROM audit.event"), None);
    for sql in [
        "UPDATE audit.event SET error = 'redacted' WHERE seq = 1",
        "CREATE INDEX by_hand ON {partition} (text)",
        "DROP INDEX audit.by_hand",
        "COMMENT ON TABLE audit.event IS 'x'",
        "BEGIN; DELETE FROM audit.fate; ROLLBACK",
        "SELECT 1 FROM audit.event WHERE seq = 1 FOR UPDATE",
    ] {
        for sql in sql.replace("{partition}", &partition).split("; ") {
            client
                .batch_execute(sql)
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
    client.batch_execute("SELECT audit.lock()").expect("locks");
    assert_eq!(attempt(&mut client, "DELETE FROM audit.event"), None);
    client.batch_execute("SELECT 'not recorded'").expect("runs");
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a row")
        .get(0);
    assert_eq!(
        cluster.trail_of(
            "command, outcome, transaction_outcome",
            &format!(
                "pid = {pid} AND (class <> 'SESSION') AND command NOT IN ('SETTING', 'FATE', 'SET')"
            )
        ),
        [
            "UNLOCK | success | ~",
            "UPDATE | success | committed",
            "CREATE INDEX | success | committed",
            "DROP INDEX | success | committed",
            "COMMENT | success | committed",
            "BEGIN | success | rolled back",
            "DELETE | success | rolled back",
            "ROLLBACK | success | rolled back",
            "SELECT | success | committed",
            "LOCK | success | ~",
            "SELECT | success | committed",
            "REFUSED | failed | ~",
        ]
    );
}

#[test]
fn what_closes_an_unlocked_session() {
    let (cluster, _) = prepared();
    for (closer, by) in [
        ("SELECT audit.lock()", "audit.lock()"),
        ("RESET ALL", "RESET ALL"),
        ("DISCARD ALL", "DISCARD ALL"),
    ] {
        let mut client = cluster.connect("postgres", HOME);
        client
            .batch_execute("SELECT audit.unlock('test')")
            .expect("unlocks");
        client
            .batch_execute("DELETE FROM audit.fate WHERE false")
            .expect("open");
        client.batch_execute(closer).expect("closes");
        assert_eq!(
            attempt(&mut client, "DELETE FROM audit.fate"),
            None,
            "{closer}"
        );
        drop(client);
        assert_eq!(
            cluster
                .trail_of("details ->> 'by'", "class = 'AUDIT' AND command = 'LOCK'")
                .last()
                .map(String::as_str),
            Some(by)
        );
    }
    let client_end = {
        let mut client = cluster.connect("postgres", HOME);
        client
            .batch_execute("SELECT audit.unlock('test')")
            .expect("unlocks");
        client
    };
    drop(client_end);
    eventually("the end of the session is on record", || {
        cluster
            .trail_of("details ->> 'by'", "class = 'AUDIT' AND command = 'LOCK'")
            .contains(&"end of session".to_owned())
    });
    // Not transactional: what is rolled back is the work, not the state.
    let mut client = cluster.connect("postgres", HOME);
    client
        .batch_execute("BEGIN; SELECT audit.unlock('in a transaction'); ROLLBACK; DELETE FROM audit.fate WHERE false")
        .expect("open");
    let unlocks = cluster.trail_of("seq", "command = 'UNLOCK'").len();
    assert_eq!(unlocks, 5);
}

#[test]
fn unlock_asks_for_a_reason_and_a_superuser() {
    let (cluster, _) = prepared();
    let mut client = cluster.connect("postgres", HOME);
    for reason in ["NULL", "''", "'  '"] {
        let error = client
            .batch_execute(&format!("SELECT audit.unlock({reason})"))
            .expect_err("no reason");
        let error = error.as_db_error().expect("from the server");
        assert_eq!(error.code(), &SqlState::INVALID_PARAMETER_VALUE);
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("audit.unlock"))
        );
    }
    // A function of a superuser's that others may call doesn't open it for them.
    client
        .batch_execute("CREATE FUNCTION public.open() RETURNS void SECURITY DEFINER LANGUAGE sql AS $$ SELECT audit.unlock('x') $$")
        .expect("made");
    for actor in ["mallory", "dba", "keeper"] {
        let mut other = cluster.connect(actor, HOME);
        for sql in ["SELECT audit.unlock('x')", "SELECT public.open()"] {
            let error = other.batch_execute(sql).expect_err("no superuser");
            assert_eq!(
                error.code(),
                Some(&SqlState::INSUFFICIENT_PRIVILEGE),
                "{actor}: {sql}"
            );
        }
    }
    assert_eq!(attempt(&mut client, "DELETE FROM audit.event"), None);
    assert_eq!(cluster.trail_of("seq", "command = 'UNLOCK'").len(), 0);
}

#[test]
fn unlocked_the_extension_can_be_dropped_and_made_again() {
    let cluster = Cluster::start();
    let mut client = cluster.connect("postgres", HOME);
    assert_eq!(attempt(&mut client, "DROP EXTENSION audit_ext"), None);
    client
        .batch_execute("SELECT audit.unlock('to start over')")
        .expect("unlocks");
    client
        .batch_execute("DROP EXTENSION audit_ext")
        .expect("drops");
    client
        .batch_execute("CREATE EXTENSION audit_ext")
        .expect("makes");
    // The new trail was never opened.
    assert_eq!(attempt(&mut client, "DELETE FROM audit.event"), None);
    cluster.psql().run("SELECT 'second life'").ok();
    assert_eq!(cluster.count("statement LIKE '%second life%'"), 1);
}

/// Partitions that the worker makes later are guarded in sessions that are open already.
#[test]
fn new_partitions_are_guarded_at_once() {
    let cluster = Cluster::builder()
        .setting("audit.partition_interval", "'1min'")
        .start();
    eventually("the next period is made ahead", || {
        cluster.flush();
        cluster.value("SELECT count(*) FROM audit.period") == "2"
    });
    let mut client = cluster.connect("postgres", HOME);
    let known = "SELECT string_agg(suffix, ' ') FROM audit.period";
    let before = cluster.value(known);
    // The session has its list of what is guarded.
    assert_eq!(attempt(&mut client, "DELETE FROM audit.event"), None);
    wait_until("a new period", Duration::from_secs(150), || {
        std::thread::sleep(Duration::from_millis(500));
        cluster.flush();
        // Nobody else's statement makes this session look at the catalog anew.
        cluster.value("SELECT count(*) FROM audit.period") == "3"
    });
    let suffixes = cluster.value(known);
    let new = suffixes
        .split(' ')
        .find(|suffix| !before.contains(suffix))
        .expect("a new one");
    for table in ["event", "session", "statement", "fate", "batch"] {
        for sql in [
            format!("DELETE FROM audit.{table}_{new} WHERE false"),
            format!("TRUNCATE audit.{table}_{new}"),
            format!("LOCK TABLE audit.{table}_{new}"),
        ] {
            assert_eq!(attempt(&mut client, &sql), None);
        }
    }
}

/// The apply worker and the table synchronisation of logical replication call no hook of the executor.
#[test]
fn logical_replication_writes_nothing_into_the_trail() {
    let cluster = Cluster::builder()
        .setting("wal_level", "logical")
        .setting("wal_retrieve_retry_interval", "'200ms'")
        .start();
    cluster.flush();
    // A publisher with tables that are called as ours.
    let mut app = cluster.app();
    app.batch_execute(
        "CREATE SCHEMA audit;
         CREATE TABLE audit.period (starts_at timestamptz PRIMARY KEY, ends_at timestamptz, suffix text, closed_at timestamptz, frozen_at timestamptz);
         CREATE PUBLICATION p FOR TABLE audit.period",
    )
    .expect("made");
    app.batch_execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        .expect("made");
    let periods = cluster.value("SELECT count(*) FROM audit.period");
    let mut home = cluster.connect("postgres", HOME);
    let connection = format!(
        "host={} port={} dbname=app user=postgres",
        cluster.socket_dir().display(),
        cluster.port()
    );
    home.batch_execute(&format!(
        "CREATE SUBSCRIPTION s CONNECTION '{connection}' PUBLICATION p WITH (create_slot = false, slot_name = s, copy_data = false)"
    ))
    .expect("subscribes");
    app.batch_execute("INSERT INTO audit.period VALUES ('2001-01-01', '2001-01-02', 'forged')")
        .expect("published");
    eventually("the apply worker is refused", || {
        cluster
            .log()
            .contains("INSERT of table audit.period is refused")
    });
    eventually("and that is recorded", || {
        !cluster
            .trail_of(
                "seq",
                "command = 'REFUSED' AND object_name = 'audit.period'",
            )
            .is_empty()
    });
    home.batch_execute("ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s")
        .expect("dropped");
    // Table synchronisation.
    home.batch_execute(&format!(
        "CREATE SUBSCRIPTION t CONNECTION '{connection}' PUBLICATION p WITH (create_slot = false, enabled = false, slot_name = s)"
    ))
    .expect("subscribes");
    let before = cluster
        .log()
        .matches("INSERT of table audit.period is refused")
        .count();
    for sql in [
        "ALTER SUBSCRIPTION t ENABLE",
        "ALTER SUBSCRIPTION t REFRESH PUBLICATION",
    ] {
        home.batch_execute(sql).expect("starts");
    }
    eventually("the synchronisation is refused", || {
        cluster
            .log()
            .matches("INSERT of table audit.period is refused")
            .count()
            > before
    });
    home.batch_execute("ALTER SUBSCRIPTION t DISABLE; ALTER SUBSCRIPTION t SET (slot_name = NONE); DROP SUBSCRIPTION t")
        .expect("dropped");
    assert_eq!(cluster.value("SELECT count(*) FROM audit.period"), periods);
}

/// Until 15 the server lets CREATEROLE grant any role; with us, not those that read the trail.
#[test]
fn createrole_lets_nobody_into_the_trail() {
    let (cluster, _) = prepared();
    cluster
        .psql()
        .run("CREATE ROLE auditors; GRANT audit_reader TO auditors; CREATE ROLE boss LOGIN; GRANT audit_reader TO boss WITH ADMIN OPTION")
        .ok();
    let mut wrong = Vec::new();
    for sql in [
        "GRANT audit_reader TO dba",
        "GRANT audit_admin TO mallory",
        "GRANT auditors TO dba",
        "REVOKE audit_reader FROM auditor",
        "REVOKE auditors, audit_admin FROM keeper CASCADE",
        "ALTER GROUP audit_reader DROP USER auditor",
        "ALTER GROUP audit_reader ADD USER mallory",
        "CREATE ROLE sneak IN ROLE audit_reader",
        "CREATE USER sneak IN GROUP auditors",
        "ALTER ROLE audit_reader LOGIN PASSWORD 'x'",
        "ALTER ROLE auditors LOGIN",
        "ALTER ROLE boss PASSWORD 'x'",
        "ALTER ROLE audit_reader RENAME TO harmless",
        "DROP ROLE auditors",
        "CREATE PROCEDURE pg_temp.deep(n int) LANGUAGE plpgsql AS $$ BEGIN \
             IF n > 1 THEN CALL pg_temp.deep(n - 1); ELSE ALTER ROLE audit_reader RENAME TO harmless; END IF; END $$; \
         CALL pg_temp.deep(40)",
    ] {
        for database in [HOME, "app"] {
            let mut dba = cluster.connect("dba", database);
            match dba.batch_execute(sql) {
                Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
                other => wrong.push(format!("{database}: {sql}: {other:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Others' roles, and one's own password, are as before; ADMIN OPTION is enough.
    cluster
        .connect("dba", "app")
        .batch_execute("CREATE ROLE clerk; GRANT clerk TO mallory; ALTER ROLE clerk LOGIN PASSWORD 'x'; ALTER ROLE clerk RENAME TO clark; DROP ROLE clark")
        .expect("allowed");
    cluster
        .connect("boss", "app")
        .batch_execute("GRANT audit_reader TO mallory; ALTER ROLE boss PASSWORD 'y'; REVOKE audit_reader FROM mallory")
        .expect("allowed");
}
