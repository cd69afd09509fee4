//! The views, functions and roles that spec/interface.md promises.

use audit_cluster_tests::Cluster;

/// Columns and types of audit.log, in the contract's order. Further ones are welcome.
const LOG: &[(&str, &str)] = &[
    ("seq", "bigint"),
    ("recorded_at", "timestamp with time zone"),
    ("started_at", "timestamp with time zone"),
    ("duration", "interval"),
    ("session_id", "text"),
    ("event_no", "bigint"),
    ("statement_id", "bigint"),
    ("substatement_id", "integer"),
    ("depth", "integer"),
    ("class", "text"),
    ("command", "text"),
    ("outcome", "text"),
    ("sqlstate", "text"),
    ("error", "text"),
    ("transaction_id", "xid8"),
    ("transaction_outcome", "text"),
    ("user_name", "text"),
    ("role_name", "text"),
    ("auth_identity", "text"),
    ("database_name", "text"),
    ("branch", "text"),
    ("client_addr", "inet"),
    ("client_port", "integer"),
    ("application_name", "text"),
    ("pid", "integer"),
    ("backend_type", "text"),
    ("object_type", "text"),
    ("object_name", "text"),
    ("relations", "text[]"),
    ("statement", "text"),
    ("statement_length", "integer"),
    ("statement_sha256", "bytea"),
    ("parameters", "text[]"),
    ("rows", "bigint"),
    ("query_id", "bigint"),
    ("context", "jsonb"),
    ("details", "jsonb"),
];

fn columns(cluster: &Cluster, view: &str) -> Vec<String> {
    cluster.query(
        "postgres",
        &format!(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
             WHERE attrelid = '{view}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        ),
    )
}

#[test]
fn audit_log_and_failures_have_the_columns_of_the_contract() {
    let cluster = Cluster::start();
    let contract: Vec<String> = LOG
        .iter()
        .map(|(name, kind)| format!("{name} | {kind}"))
        .collect();
    for view in ["audit.log", "audit.failures"] {
        let have = columns(&cluster, view);
        let of_contract: Vec<_> = have
            .iter()
            .filter(|column| contract.contains(column))
            .cloned()
            .collect();
        assert_eq!(of_contract, contract, "{view} has {have:?}");
    }
}

#[test]
fn select_star_works_on_every_view() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 1").ok();
    cluster.psql().run("SELECT 1/0").error();
    cluster.flush();
    for view in ["log", "sessions", "failures", "status"] {
        let rows = cluster.query("postgres", &format!("SELECT * FROM audit.{view}"));
        assert!(
            !rows.is_empty() || view == "sessions",
            "audit.{view} is empty"
        );
        // Also in JSON, where a value that can't be shown would fail.
        cluster.query(
            "postgres",
            &format!("SELECT to_jsonb(v) FROM audit.{view} AS v"),
        );
    }
}

#[test]
fn the_two_questions_of_every_auditor() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE users (id int PRIMARY KEY); CREATE TABLE other (id int);
             INSERT INTO users VALUES (1), (2); CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;
             GRANT ALL ON users, other TO alice, bob",
        )
        .ok();
    let alice = || cluster.psql().user("alice");
    alice()
        .run("DELETE FROM users WHERE id = 1; DELETE FROM other; SELECT * FROM users")
        .ok();
    cluster
        .psql()
        .user("bob")
        .run("DELETE FROM users WHERE id = 7")
        .ok();
    alice().run("INSERT INTO users VALUES (2)").error();
    cluster.flush();
    let period =
        "started_at >= now() - interval '1 hour' AND started_at < now() + interval '1 hour'";
    let log = |question: &str| {
        cluster.query(
            "postgres",
            &format!(
                "SELECT user_name, statement FROM (SELECT * FROM audit.log WHERE {question}
                      AND {period}) AS answer"
            ),
        )
    };
    assert_eq!(
        log("command = 'DELETE' AND user_name = 'alice' AND relations @> '{public.users}'"),
        ["alice | DELETE FROM users WHERE id = 1"]
    );
    assert_eq!(
        log("command = 'INSERT' AND outcome = 'failed'"),
        ["alice | INSERT INTO users VALUES (2)"]
    );
    assert!(
        log("command = 'DELETE' AND started_at < now() - interval '30 min'").is_empty(),
        "the period counts"
    );
}

/// Compiling takes longer than answering: a second, where the answer takes hundredths.
#[test]
fn questions_are_answered_without_compilation() {
    let cluster = Cluster::start();
    let compiles = |what: &str| {
        let plan = cluster.psql().db("postgres").run(format!(
            "SET jit = on; SET jit_above_cost = 0; EXPLAIN ANALYZE SELECT * FROM {what} WHERE random() < 2"
        ));
        plan.ok().contains("JIT:")
    };
    let available = cluster.value("SELECT pg_jit_available()") == "t";
    assert_eq!(compiles("pg_catalog.pg_class"), available);
    assert!(!compiles("audit.log"));
    assert!(!compiles("pg_class, audit.event"));
    assert_eq!(compiles("generate_series(1, 3)"), available);
}

#[test]
fn failures_are_what_did_not_succeed() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("SELECT 1; SELECT 1/0; SELECT nosuch;")
        .error();
    cluster
        .psql()
        .run("DO $$ BEGIN PERFORM 1/0; EXCEPTION WHEN OTHERS THEN NULL; END $$")
        .ok();
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT outcome, sqlstate FROM audit.failures WHERE database_name = 'app' AND depth = 0
             ORDER BY seq"
        ),
        ["failed | 22012", "failed | 42703"]
    );
    assert_eq!(
        cluster.value(
            "SELECT count(*) FROM audit.failures f FULL JOIN
                 (SELECT * FROM audit.log WHERE outcome <> 'success') l USING (seq)
             WHERE f.outcome IS NULL OR l.outcome IS NULL"
        ),
        "0"
    );
}

/// The end of a transaction and of a savepoint in it tell of ranges that may end with the same event.
#[test]
fn of_two_fates_the_rollback_counts() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    let mut client = cluster.app();
    client
        .batch_execute("SET audit.level = 'write'; BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2)")
        .expect("inserts");
    cluster.flush();
    client
        .batch_execute("ROLLBACK TO s; COMMIT; INSERT INTO t VALUES (3)")
        .expect("inserts");
    let outcomes = || cluster.trail("transaction_outcome", "command = 'INSERT'");
    assert_eq!(outcomes(), ["committed", "rolled back", "committed"]);
    // Also where its row comes last.
    let mut admin = cluster.connect("postgres", "postgres");
    for sql in [
        "SELECT audit.unlock('a test')",
        "WITH gone AS (DELETE FROM audit.fate WHERE outcome = 2 RETURNING *) INSERT INTO audit.fate SELECT * FROM gone",
    ] {
        admin.batch_execute(sql).expect(sql);
    }
    assert_eq!(outcomes(), ["committed", "rolled back", "committed"]);
}

#[test]
fn flush_returns_the_last_seq() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 1").ok();
    let first = cluster.flush();
    assert_eq!(cluster.count("statement LIKE 'SELECT 1%'"), 1);
    for i in 0..10 {
        cluster.psql().run(format!("SELECT {i} /* more */")).ok();
    }
    let second = cluster.flush();
    assert!(second >= first + 10, "{first}, then {second}");
    assert_eq!(
        cluster.count(&format!("statement LIKE '%more%' AND seq <= {second}")),
        10
    );
}

#[test]
fn flush_covers_what_the_same_session_did_before() {
    let cluster = Cluster::start();
    let mut client = cluster.connect("postgres", "postgres");
    for i in 0..20 {
        client
            .batch_execute(&format!("SELECT {i} AS mine"))
            .expect("selects");
        client
            .batch_execute("SELECT audit.flush()")
            .expect("flushes");
        let recorded: i64 = client
            .query_one(
                "SELECT count(*) FROM audit.log WHERE statement LIKE $1",
                &[&format!("SELECT {i} AS mine%")],
            )
            .expect("asks")
            .get(0);
        assert_eq!(recorded, 1, "statement {i}");
    }
}

#[test]
fn status_tells_home_and_level() {
    let cluster = Cluster::start();
    cluster.flush(); // so the worker has found its home
    let status = cluster.query(
        "postgres",
        "SELECT to_jsonb(s)::text FROM audit.status AS s",
    );
    assert_eq!(status.len(), 1, "one row");
    assert!(
        status[0].contains("\"postgres\""),
        "names the home: {}",
        status[0]
    );
    assert!(
        status[0].contains("\"all\""),
        "names the level: {}",
        status[0]
    );
    let worker = cluster.worker_pid().expect("a worker runs").to_string();
    assert!(
        status[0].contains(&worker),
        "names the worker {worker}: {}",
        status[0]
    );
}

#[test]
fn sessions_have_one_row_per_session() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE ROLE carol LOGIN").ok();
    let mut client = cluster.connect("carol", "app");
    client.batch_execute("SELECT 1; SELECT 2").expect("selects");
    let session: String = client
        .query_one(
            "SELECT to_hex(trunc(extract(epoch FROM backend_start))::int) || '.' || to_hex(pid)
             FROM pg_stat_activity WHERE pid = pg_backend_pid()",
            &[],
        )
        .expect("asks")
        .get(0);
    drop(client);
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            &format!("SELECT count(*) FROM audit.sessions WHERE session_id = '{session}' AND user_name = 'carol'")
        ),
        ["1"]
    );
}

#[test]
fn readers_read_and_admins_are_readers() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .db("postgres")
        .run(
            "CREATE ROLE eve LOGIN; CREATE ROLE rita LOGIN; CREATE ROLE adam LOGIN;
             GRANT audit_reader TO rita; GRANT audit_admin TO adam",
        )
        .ok();
    cluster.psql().run("SELECT 1 /* to be seen */").ok();
    cluster.flush();
    let query = "SELECT count(*) FROM audit.log WHERE statement LIKE '%to be seen%' AND database_name = 'app'";
    for user in ["rita", "adam"] {
        assert_eq!(
            cluster
                .psql()
                .user(user)
                .db("postgres")
                .run(query)
                .ok()
                .trim(),
            "1",
            "{user}"
        );
        for view in ["sessions", "failures", "status"] {
            cluster
                .psql()
                .user(user)
                .db("postgres")
                .run(format!("SELECT * FROM audit.{view}"))
                .ok();
        }
        for change in [
            "DELETE FROM audit.log",
            "UPDATE audit.log SET statement = ''",
        ] {
            cluster.psql().user(user).db("postgres").run(change).error();
        }
    }
    let denied = cluster.psql().user("eve").db("postgres").run(query).error();
    assert!(denied.contains("permission denied"), "{denied}");
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT rolname, rolcanlogin, rolsuper FROM pg_roles WHERE rolname LIKE 'audit\\_%' ORDER BY 1"
        ),
        ["audit_admin | f | f", "audit_reader | f | f"]
    );
    // Nothing of the reader's own tables is shadowed or guessed: public has no rights at all.
    assert_eq!(
        cluster.value(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace,
                 LATERAL aclexplode(relacl) AS a
             WHERE nspname = 'audit' AND a.grantee = 0"
        ),
        "0"
    );
}
