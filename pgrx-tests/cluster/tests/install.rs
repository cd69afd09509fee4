//! From `shared_preload_libraries` to a home and back, and everything that can go wrong there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use audit_cluster_tests::{Cluster, Shutdown, eventually};

use crate::assert_mentions;

const CREATE: &str = "CREATE EXTENSION audit_ext";

/// CREATE EXTENSION with nothing worse than its NOTICE.
#[track_caller]
fn create_extension(cluster: &Cluster, database: &str) {
    let output = cluster.psql().db(database).run(CREATE);
    let complaints = ["WARNING:", "ERROR:", "FATAL:"];
    assert!(
        !complaints.iter().any(|word| output.stderr.contains(word)),
        "{output:?}"
    );
    assert_eq!(output.code, 0, "{output:?}");
}

/// Every file below a folder with its content.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            let content = fs::read(entry.path()).unwrap_or_default();
            found.insert(entry.path().display().to_string(), content);
        }
    }
    found
}

/// The server works and nobody keeps starting and failing.
#[track_caller]
fn assert_calm(cluster: &Cluster) {
    let before = cluster.log().len();
    sleep(Duration::from_secs(4));
    let log = cluster.log()[before..].to_owned();
    let complaints = log
        .lines()
        .filter(|l| l.contains("audit") || l.contains("exited with"))
        .count();
    assert!(complaints <= 2, "a restart loop:\n{log}");
    assert_eq!(cluster.query("app", "SELECT 42"), ["42"]);
}

#[test]
fn without_preload_the_error_says_what_to_add_and_to_restart() {
    let cluster = Cluster::builder().without_library().start();
    let error = cluster.psql().run(CREATE).error();
    assert_mentions(
        &error,
        &[
            "ERROR:",
            "shared_preload_libraries",
            "HINT:",
            "audit_ext",
            "restart",
        ],
    );
    assert_eq!(
        cluster.query(
            "app",
            "SELECT count(*) FROM pg_namespace WHERE nspname = 'audit'"
        ),
        ["0"]
    );
    // LOADing it by hand is no way in either, and does no harm.
    let _ = cluster.psql().run("LOAD 'audit_ext'; SELECT 1");
    assert_eq!(cluster.query("app", "SELECT 42"), ["42"]);
}

#[test]
fn the_notice_tells_level_and_retention() {
    let cluster = Cluster::builder().without_extension().start();
    let output = cluster.psql().run(CREATE);
    assert_eq!(output.code, 0, "{output:?}");
    assert_mentions(&output.stderr, &["NOTICE:", "level", "all", "retention"]);
}

#[test]
fn no_further_setting_and_no_second_restart() {
    let cluster = Cluster::builder().without_extension().start();
    create_extension(&cluster, "app");
    cluster.psql().db("postgres").run("SELECT 'elsewhere'").ok();
    eventually("the statement is in the trail", || {
        cluster.query("app", "SELECT audit.flush()");
        cluster.query(
            "app",
            "SELECT database_name FROM audit.log WHERE statement LIKE 'SELECT ''elsewhere''%'",
        ) == ["postgres"]
    });
}

#[test]
fn a_second_home_is_refused_with_the_name_of_the_first() {
    let cluster = Cluster::start();
    let error = cluster.psql().db("app").run(CREATE).error();
    assert_mentions(&error, &["ERROR:", "\"postgres\"", "HINT:"]);
    assert_eq!(
        cluster.query(
            "app",
            "SELECT count(*) FROM pg_extension WHERE extname = 'audit_ext'"
        ),
        ["0"]
    );
    let again = cluster.psql().db("postgres").run(CREATE).error();
    assert_mentions(&again, &["already exists"]);
    cluster.psql().run("SELECT 1 /* still recorded */").ok();
    assert_eq!(cluster.count("statement LIKE '%still recorded%'"), 1);
}

#[test]
fn a_foreign_schema_audit_is_left_alone() {
    let cluster = Cluster::builder().without_extension().start();
    cluster
        .psql()
        .run("CREATE SCHEMA audit; CREATE TABLE audit.log (mine int)")
        .ok();
    let error = cluster.psql().run(CREATE).error();
    assert_mentions(&error, &["ERROR:", "schema", "audit", "HINT:"]);
    assert_eq!(
        cluster.query("app", "SELECT count(*) FROM audit.log"),
        ["0"]
    );
    // In a database without one it works.
    create_extension(&cluster, "postgres");
    cluster.psql().run("SELECT 1 /* here */").ok();
    assert_eq!(cluster.count("statement LIKE '%here%'"), 1);
}

#[test]
fn roles_that_somebody_could_log_on_with_are_refused() {
    for (prepare, role) in [
        ("CREATE ROLE audit_reader LOGIN", "audit_reader"),
        ("CREATE ROLE audit_admin LOGIN", "audit_admin"),
        (
            "CREATE ROLE x; CREATE ROLE audit_admin; GRANT audit_admin TO x",
            "audit_admin",
        ),
    ] {
        let cluster = Cluster::builder().without_extension().start();
        cluster.psql().run(prepare).ok();
        let error = cluster.psql().run(CREATE).error();
        assert_mentions(&error, &["ERROR:", role, "HINT:"]);
        assert_eq!(
            cluster.query(
                "app",
                "SELECT count(*) FROM pg_namespace WHERE nspname = 'audit'"
            ),
            ["0"]
        );
    }
}

#[test]
fn roles_left_by_an_earlier_installation_are_taken_over() {
    let cluster = Cluster::builder().without_extension().start();
    cluster
        .psql()
        .run("CREATE ROLE audit_reader; CREATE ROLE audit_admin")
        .ok();
    let output = cluster.psql().run(CREATE);
    assert_eq!(
        (output.code, output.stderr.contains("ERROR")),
        (0, false),
        "{output:?}"
    );
}

#[test]
fn preloaded_without_a_home_is_inert() {
    let cluster = Cluster::builder().without_extension().start();
    let ring = cluster.data_dir().join("pg_audit");
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    let before = files(&ring);
    cluster
        .psql()
        .run("INSERT INTO t VALUES (1); SELECT * FROM t; DROP TABLE t;")
        .ok();
    cluster.psql().run("SELECT 1/0").error();
    sleep(Duration::from_secs(1));
    assert!(
        files(&ring) == before,
        "statements went to the ring of a server without a home"
    );
    // Nothing of that turns up later.
    create_extension(&cluster, "postgres");
    assert_eq!(cluster.count("true"), 0);
    cluster.psql().run("SELECT 'recorded'").ok();
    assert_eq!(cluster.count("true"), 1);
    assert!(files(&ring) != before, "the comparison would have noticed");
}

#[test]
fn create_extension_rolled_back_leaves_nothing() {
    let cluster = Cluster::builder().without_extension().start();
    let output = cluster
        .psql()
        .run(format!("BEGIN; {CREATE}; SELECT 1; ROLLBACK;"));
    assert!(!output.stderr.contains("ERROR"), "{output:?}");
    for what in [
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'audit'",
        "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'audit\\_%'",
        "SELECT count(*) FROM pg_extension WHERE extname = 'audit_ext'",
        "SELECT count(*) FROM pg_shseclabel",
    ] {
        assert_eq!(cluster.query("app", what), ["0"], "{what}");
    }
    assert_calm(&cluster);
    // Another database can become the home.
    create_extension(&cluster, "postgres");
    cluster.psql().run("SELECT 'recorded'").ok();
    assert_eq!(cluster.trail("statement LIKE '%recorded%'", "true"), ["t"]);
}

/// Somebody who may create in public has prepared functions that fit better than the built-in ones
/// that the script and the views use.
#[test]
fn functions_that_lie_in_wait_in_public_are_not_used() {
    let cluster = Cluster::builder().without_extension().start();
    let trap = "CREATE FUNCTION public.jsonb_build_object(text, text[]) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{\"trapped\": true}'::jsonb $$;";
    cluster.psql().db("postgres").run(trap).ok();
    create_extension(&cluster, "postgres");
    cluster.psql().run("SELECT 'recorded'").ok();
    assert_eq!(
        cluster.trail("details", "statement LIKE '%recorded%'"),
        [r#"{"classes": ["READ"]}"#]
    );
}

/// What the server's administrator gives by default on all that he makes is not given on the trail.
#[test]
fn default_privileges_do_not_open_the_trail() {
    let cluster = Cluster::builder().without_extension().start();
    let defaults = "CREATE ROLE \"Ro\"; ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO \"Ro\";
        ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO \"Ro\", PUBLIC;
        ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO \"Ro\"";
    cluster.psql().db("postgres").run(defaults).ok();
    create_extension(&cluster, "postgres");
    cluster.flush(); // The worker makes partitions.
    let granted = "SELECT DISTINCT a.grantee::regrole::text FROM (
            SELECT nspowner AS owner, nspacl AS acl FROM pg_namespace WHERE nspname = 'audit' UNION ALL SELECT relowner, relacl FROM pg_class WHERE relnamespace = 'audit'::regnamespace UNION ALL SELECT proowner, proacl FROM pg_proc WHERE pronamespace = 'audit'::regnamespace) o,
            aclexplode(o.acl) a WHERE a.grantee <> o.owner ORDER BY 1";
    let roles = cluster.query("postgres", granted);
    assert_eq!(roles, ["audit_admin", "audit_reader"]);
}

#[test]
fn drop_and_create_again() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'first life'").ok();
    assert_eq!(cluster.count("statement LIKE '%first life%'"), 1);
    cluster
        .psql()
        .db("postgres")
        .run("SELECT audit.unlock('test'); DROP EXTENSION audit_ext")
        .ok();
    cluster.psql().run("SELECT 'between'").ok();
    assert_calm(&cluster);
    create_extension(&cluster, "postgres");
    cluster.psql().run("SELECT 'second life'").ok();
    assert_eq!(
        cluster.trail(
            "statement LIKE '%second life%'",
            "statement LIKE '%life%' OR statement LIKE '%between%'"
        ),
        ["t"]
    );
    // A new trail, from 1 and without gaps.
    cluster.flush();
    assert_eq!(
        cluster.value("SELECT concat_ws(' ', min(seq), count(*) = max(seq)) FROM audit.log"),
        "1 t"
    );
}

#[test]
fn the_home_is_found_again_after_each_kind_of_stop() {
    let cluster = Cluster::start();
    for how in [Shutdown::Smart, Shutdown::Fast, Shutdown::Immediate] {
        cluster.restart(how);
        cluster.psql().run(format!("SELECT 'after {how:?}'")).ok();
    }
    assert_eq!(cluster.count("statement LIKE 'SELECT ''after %'"), 3);
}

#[test]
fn the_home_can_be_renamed() {
    let cluster = Cluster::builder().without_extension().start();
    cluster.psql().run("CREATE DATABASE home").ok();
    create_extension(&cluster, "home");
    cluster.psql().db("home").run("SELECT audit.flush()").ok();
    cluster
        .psql()
        .run("ALTER DATABASE home RENAME TO house")
        .ok();
    cluster.psql().run("SELECT 'after the move'").ok();
    cluster.psql().db("house").run("SELECT audit.flush()").ok();
    assert_eq!(
        cluster.query(
            "house",
            "SELECT count(*) FROM audit.log WHERE statement LIKE 'SELECT ''after the move%'"
        ),
        ["1"]
    );
}

#[test]
fn a_home_that_is_dropped_leaves_a_calm_server() {
    let cluster = Cluster::builder().without_extension().start();
    cluster.psql().run("CREATE DATABASE home").ok();
    create_extension(&cluster, "home");
    cluster.psql().db("home").run("SELECT audit.flush()").ok();
    let guarded = cluster
        .psql()
        .run("DROP DATABASE home WITH (FORCE)")
        .error();
    assert_mentions(&guarded, &["home", "is refused", "HINT:", "audit.unlock"]);
    cluster
        .psql()
        .db("home")
        .run("SELECT audit.unlock('test'); DROP EXTENSION audit_ext")
        .ok();
    let dropped = cluster.psql().run("DROP DATABASE home WITH (FORCE)");
    assert_eq!(
        (dropped.code, dropped.stderr.contains("ERROR")),
        (0, false),
        "{dropped:?}"
    );
    assert_calm(&cluster);
    cluster.restart(Shutdown::Fast);
    assert_calm(&cluster);
    create_extension(&cluster, "postgres");
    cluster.psql().run("SELECT 'in the new home'").ok();
    assert_eq!(cluster.count("statement LIKE '%in the new home%'"), 1);
}

#[test]
fn a_pin_allows_one_home_only_and_says_which() {
    let cluster = Cluster::builder()
        .without_extension()
        .setting("audit.database", "'ledger'")
        .start();
    assert_calm(&cluster);
    let error = cluster.psql().run(CREATE).error();
    assert_mentions(&error, &["ERROR:", "audit.database", "ledger", "HINT:"]);
    cluster.psql().run("CREATE DATABASE ledger").ok();
    create_extension(&cluster, "ledger");
    cluster.psql().run("SELECT 'pinned'").ok();
    cluster.psql().db("ledger").run("SELECT audit.flush()").ok();
    assert_eq!(
        cluster.query(
            "ledger",
            "SELECT count(*) FROM audit.log WHERE statement LIKE 'SELECT ''pinned%'"
        ),
        ["1"]
    );
}

/// As with every bad value in postgresql.conf of a preloaded library: the server says so and goes on
/// with the default, so that a slip costs neither the service nor the trail.
#[test]
fn ring_sizes_that_can_not_be_are_named_with_the_reason() {
    for (size, reason) in [
        ("'3MB'", "not a power of two"),
        ("'1TB'", "memory"),
        ("'8GB'", " kB is more than "), // the 4GB of a ring, or the machine's memory
        ("'100TB'", "exceeds"),
    ] {
        let cluster = Cluster::builder().setting("audit.ring_size", size).start();
        let log = cluster.log();
        assert_mentions(&log, &["WARNING", "audit.ring_size", reason, "HINT"]);
        assert!(!log.contains("PANIC") && !log.contains("panicked"), "{log}");
        assert_eq!(cluster.value("SHOW audit.ring_size"), "16MB");
        cluster.psql().run("SELECT 'recorded'").ok();
        assert_eq!(cluster.count("statement LIKE '%recorded%'"), 1);
    }
}

#[test]
fn a_ring_directory_that_can_not_be_made_is_said_and_nobody_is_told_otherwise() {
    let cluster = Cluster::builder()
        .without_extension()
        .setting("audit.ring_directory", "'/proc/nosuch'")
        .start();
    assert_mentions(&cluster.log(), &["WARNING", "/proc/nosuch"]);
    // A trail that would stay empty must not look like one that works.
    let output = cluster
        .psql()
        .run(format!("{CREATE}; SELECT audit.flush()"));
    assert_mentions(&output.error(), &["ERROR", "ring"]);
    assert_calm(&cluster);
}

#[test]
fn settings_of_the_server_can_not_be_changed_in_a_session() {
    let cluster = Cluster::start();
    for (setting, value) in [
        ("audit.ring_size", "32MB"),
        ("audit.ring_directory", "x"),
        ("audit.database", "app"),
        ("audit.flush_interval", "1s"),
        ("audit.partition_interval", "1h"),
        ("audit.branch", "x"),
    ] {
        let error = cluster
            .psql()
            .run(format!("SET {setting} = '{value}'"))
            .error();
        assert_mentions(&error, &[setting, "cannot be changed"]);
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let cluster = Cluster::start();
    let mut wrong = Vec::new();
    for (setting, value) in [
        ("audit.level", "all"),
        ("audit.catalog", "on"),
        ("audit.nested", "on"),
        ("audit.statement_max_size", "64kB"),
        ("audit.context", ""),
        ("audit.branch", ""),
        ("audit.flush_interval", "200ms"),
        ("audit.partition_interval", "1d"),
        ("audit.database", ""),
        ("audit.ring_size", "16MB"),
        ("audit.ring_directory", "pg_audit"),
    ] {
        let shown = cluster.value(&format!("SHOW {setting}"));
        if shown != value {
            wrong.push(format!("{setting} is {shown:?}, not {value:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_context_is_what_jsonb_accepts_as_an_object() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(500), "]".repeat(500));
    let huge = format!("{{\"a\": \"{}\"}}", "x".repeat(300_000));
    let monstrous = format!("{{\"a\": \"{}\"}}", "x".repeat(3_000_000));
    let texts = [
        r#"{}"#,
        r#"{"user": 12, "name": "Zoë 🦀", "list": [1, 2.5e3, -0, null, true, {"x": []}]}"#,
        " { \"a\" : 1 } ",
        "{\"a\":\n1}",
        r#"{"a": "\u00e9 \ud83e\udd80 \n \" \\ \/"}"#,
        r#"{"a": 1, "a": 2}"#,
        r#"{"n": 1e400}"#,
        r#"{"n": 123456789012345678901234567890.123456789}"#,
        &deep,
        &huge,
        &monstrous,
        // no objects
        "\"text\"",
        "null",
        " ",
        // broken
        "{",
        "{}}",
        "{} {}",
        "{a: 1}",
        "{'a': 1}",
        r#"{"a": 1,}"#,
        r#"{"a" 1}"#,
        r#"{"a": 01}"#,
        r#"{"a": NaN}"#,
        r#"{"a": "\x"}"#,
        r#"{"a": "\u00"}"#,
        r#"{"a": "\ud83e"}"#,
        r#"{"a": "\udd80\ud83e"}"#,
        r#"{"a": "\u0000"}"#,
        "{\"a\": \"tab\there\"}",
    ];
    let mut wrong = Vec::new();
    for text in texts {
        let quoted = text.replace('\'', "''");
        let jsonb = client
            .query_one(
                &format!("SELECT jsonb_typeof('{quoted}'::jsonb) = 'object'"),
                &[],
            )
            .is_ok_and(|row| row.get(0));
        let shown: String = text.chars().take(60).collect();
        match (
            jsonb,
            client.batch_execute(&format!("SET audit.context = '{quoted}'")),
        ) {
            (true, Err(error)) => wrong.push(format!("refused: {shown}: {error}")),
            (false, Ok(())) => wrong.push(format!("accepted: {shown}")),
            (true, Ok(())) => {
                client
                    .batch_execute(&format!("SELECT '{quoted}'::jsonb /* kept */"))
                    .expect("selects");
            }
            (false, Err(error)) => {
                let error = error.as_db_error().expect("from the server");
                if error.hint().is_none() || !error.message().contains("audit.context") {
                    wrong.push(format!("an unclear error for {shown}: {error:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Every statement under an accepted context is on record, and the context is the one set, or is
    // named as cut where it is too long.
    let rows = cluster.trail(
        "context IS NOT NULL OR details ? 'truncated'",
        "statement LIKE '%kept%' OR statement_length > 65536",
    );
    assert_eq!(rows, vec!["t"; rows.len()]);
    assert!(rows.len() >= 9, "{rows:?}");
    let monstrous = "statement LIKE 'SELECT ''{%' AND statement_length > 2900000";
    assert_eq!(
        cluster.trail("details->'truncated' ? 'context'", monstrous),
        ["t"]
    );
}

#[test]
fn a_bad_context_costs_nobody_a_connection_or_an_event() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .db("postgres")
        .run("ALTER ROLE postgres IN DATABASE app SET application_name = 'app'")
        .ok();
    let output = cluster
        .psql()
        .run("SET audit.context = 'nonsense'; SELECT 1 /* goes on */");
    assert_mentions(&output.stderr, &["ERROR:", "audit.context", "HINT:"]);
    assert_eq!(
        cluster.trail("context, outcome", "statement LIKE '%goes on%'"),
        ["~ | success"]
    );
    assert_eq!(cluster.count("command = 'SET' AND outcome = 'failed'"), 1);
}
