//! The server behaves as if the extension were not there (spec/capture.md, rule 11): every case is
//! played on a server with and one without it, and what the client sees must not differ by a byte.

use std::time::{Duration, Instant};

use audit_cluster_tests::{Cluster, Output};
use postgres::{NoTls, SimpleQueryMessage};

const SETUP: &str = "
CREATE ROLE limited LOGIN;
CREATE TABLE parent (id int PRIMARY KEY, code text CONSTRAINT code_once UNIQUE, n int NOT NULL,
                     CONSTRAINT n_positive CHECK (n > 0));
CREATE TABLE child (parent_id int CONSTRAINT child_of REFERENCES parent);
CREATE TABLE later (parent_id int CONSTRAINT later_child_of REFERENCES parent
                    DEFERRABLE INITIALLY DEFERRED);
CREATE DOMAIN even AS int CONSTRAINT must_be_even CHECK (VALUE % 2 = 0);
CREATE TABLE typed (e even, d date);
INSERT INTO parent VALUES (1, 'one', 1), (2, 'two', 2);
INSERT INTO child VALUES (1);
CREATE FUNCTION divide(a int, b int) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN RETURN a / b; END $$;
CREATE FUNCTION outer_divide(a int, b int) RETURNS int LANGUAGE plpgsql AS
    $$ DECLARE r int; BEGIN SELECT divide(a, b) INTO r; RETURN r; END $$;
CREATE FUNCTION sql_divide(a int, b int) RETURNS int LANGUAGE sql AS $$ SELECT a / b $$;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'row % refused', NEW.id USING HINT = 'ask the owner'; END $$;
CREATE TABLE guarded (id int);
CREATE TRIGGER refuse BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE PROCEDURE commits() LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO parent VALUES (50, 'fifty', 50); COMMIT; PERFORM 1/0; END $$;
CREATE FUNCTION tell(script text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE a text; b text; c text; d text; e text; f text; g text; h text; i text;
BEGIN
    EXECUTE script;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS a = RETURNED_SQLSTATE, b = COLUMN_NAME, c = CONSTRAINT_NAME,
        d = PG_DATATYPE_NAME, e = MESSAGE_TEXT, f = TABLE_NAME, g = SCHEMA_NAME,
        h = PG_EXCEPTION_DETAIL, i = PG_EXCEPTION_CONTEXT;
    RETURN concat_ws(' / ', a, b, c, d, e, f, g, h, i);
END $$;
";

/// Name and script; each runs in a psql of its own.
const CASES: &[(&str, &str)] = &[
    ("syntax error", "SELECT FROM WHERE;"),
    ("no statement at all", "foo bar;"),
    ("unterminated string", "SELECT 'abc"),
    ("unknown table", "SELECT * FROM nosuch;"),
    ("unknown column with hint", "SELECT cod FROM parent;"),
    ("unknown function", "SELECT nosuch(1);"),
    ("type mismatch", "SELECT 1 + 'x'::date;"),
    ("division by zero", "SELECT 1/0;"),
    (
        "division by zero at run time",
        "SELECT 1/(id - 1) FROM parent;",
    ),
    ("not null", "INSERT INTO parent VALUES (9, 'nine', NULL);"),
    ("unique", "INSERT INTO parent VALUES (9, 'one', 1);"),
    ("primary key", "INSERT INTO parent VALUES (1, 'x', 1);"),
    ("check", "INSERT INTO parent VALUES (9, 'nine', -1);"),
    ("foreign key, no parent", "INSERT INTO child VALUES (77);"),
    (
        "foreign key, still referenced",
        "DELETE FROM parent WHERE id = 1;",
    ),
    ("domain", "INSERT INTO typed (e) VALUES (3);"),
    ("bad date", "INSERT INTO typed (d) VALUES ('2024-02-30');"),
    (
        "deferred constraint at COMMIT",
        "BEGIN; INSERT INTO later VALUES (77); COMMIT; SELECT 1;",
    ),
    (
        "deferred constraint, implicit",
        "INSERT INTO later VALUES (77);",
    ),
    (
        "SET CONSTRAINTS",
        "BEGIN; INSERT INTO later VALUES (77); SET CONSTRAINTS ALL IMMEDIATE;",
    ),
    ("plpgsql context", "SELECT divide(1, 0);"),
    ("nested plpgsql context", "SELECT outer_divide(1, 0);"),
    (
        "SQL function context",
        "SELECT sql_divide(id, 0) FROM parent;",
    ),
    ("trigger with hint", "INSERT INTO guarded VALUES (4);"),
    (
        "DO block",
        "DO $$ BEGIN PERFORM outer_divide(1, 0); END $$;",
    ),
    (
        "PERFORM of a constant, fails in the planner",
        "DO $$ BEGIN PERFORM 1/0; END $$;",
    ),
    (
        "EXECUTE of nonsense",
        "DO $$ BEGIN EXECUTE 'selec 1'; END $$;",
    ),
    (
        "RAISE with every field",
        "DO $$ BEGIN RAISE EXCEPTION 'the message' USING DETAIL = 'the detail', HINT = 'the hint',
         ERRCODE = 'AB123', COLUMN = 'c', CONSTRAINT = 'k', DATATYPE = 't', TABLE = 'r',
         SCHEMA = 's'; END $$;",
    ),
    (
        "RAISE of each level",
        "SET client_min_messages = debug1; SET log_min_messages = panic;
      DO $$ BEGIN RAISE DEBUG 'd'; RAISE LOG 'l'; RAISE INFO 'i'; RAISE NOTICE 'n';
      RAISE WARNING 'w' USING DETAIL = 'dd', HINT = 'hh'; END $$;",
    ),
    (
        "re-raised",
        "DO $$ BEGIN BEGIN INSERT INTO parent VALUES (1, 'x', 1);
      EXCEPTION WHEN unique_violation THEN RAISE; END; END $$;",
    ),
    (
        "raised in a handler",
        "DO $$ BEGIN BEGIN PERFORM 1/0;
      EXCEPTION WHEN division_by_zero THEN RAISE EXCEPTION 'second'; END; END $$;",
    ),
    ("ASSERT", "DO $$ BEGIN ASSERT false, 'never'; END $$;"),
    (
        "GET STACKED DIAGNOSTICS",
        "SELECT tell('SELECT 1/0');
         SELECT tell('INSERT INTO parent VALUES (9, ''one'', 1)');
         SELECT tell('INSERT INTO parent VALUES (9, ''nine'', -1)');
         SELECT tell('INSERT INTO parent VALUES (9, ''nine'', NULL)');
         SELECT tell('INSERT INTO child VALUES (77)');
         SELECT tell('INSERT INTO typed (e) VALUES (3)');
         SELECT tell('SELECT outer_divide(1, 0)');
         SELECT tell('selec 1');
         SELECT tell('SELECT * FROM nosuch');
         SELECT tell('INSERT INTO guarded VALUES (4)');",
    ),
    (
        "permission denied",
        "SET ROLE limited; SELECT * FROM parent; DELETE FROM parent;",
    ),
    (
        "permission denied for a column",
        "GRANT SELECT (id) ON parent TO limited; SET ROLE limited;
      SELECT id, code FROM parent; RESET ROLE; REVOKE ALL ON parent FROM limited;",
    ),
    (
        "permission denied for DDL",
        "SET ROLE limited; DROP TABLE parent; ALTER TABLE parent ADD x int;
      CREATE ROLE other; GRANT SELECT ON parent TO limited; CREATE DATABASE d;",
    ),
    ("cancelled", "SELECT pg_cancel_backend(pg_backend_pid());"),
    (
        "cancelled in a function",
        "DO $$ BEGIN PERFORM pg_cancel_backend(pg_backend_pid());
      PERFORM pg_sleep(10); END $$;",
    ),
    (
        "statement timeout",
        "SET statement_timeout = 50; SELECT pg_sleep(10);",
    ),
    (
        "statement timeout is caught by nobody",
        "SET statement_timeout = 50;
      DO $$ BEGIN PERFORM pg_sleep(10); EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'caught'; END $$;",
    ),
    (
        "lock timeout",
        "SET lock_timeout = 50; BEGIN; LOCK parent; SELECT 1; COMMIT;",
    ),
    (
        "aborted transaction",
        "BEGIN; SELECT 1/0; SELECT 1; INSERT INTO child VALUES (1); COMMIT;
      SELECT 2;",
    ),
    (
        "savepoints",
        "BEGIN; SAVEPOINT a; SELECT 1/0; SELECT 1; ROLLBACK TO a; SELECT 2;
      ROLLBACK TO b; ROLLBACK; RELEASE a;",
    ),
    (
        "read only",
        "BEGIN READ ONLY; INSERT INTO child VALUES (1); ROLLBACK;",
    ),
    (
        "COPY of a bad line",
        "COPY parent FROM STDIN;\n5\tfive\t5\n6\tsix\tnone\n\\.\n",
    ),
    (
        "COPY with too few columns",
        "COPY parent FROM STDIN;\n5\n\\.\n",
    ),
    (
        "COPY from a missing file",
        "COPY parent FROM '/nonexistent/file';",
    ),
    ("COPY of a failing query", "COPY (SELECT 1/0) TO STDOUT;"),
    (
        "prepared statements",
        "PREPARE p (int) AS SELECT 10 / $1; EXECUTE p(5); EXECUTE p(0);
      EXECUTE p('x'); EXECUTE q; DEALLOCATE q;",
    ),
    (
        "cursors",
        "BEGIN; DECLARE c CURSOR FOR SELECT 2/(2 - id) FROM parent; FETCH c; FETCH c;
      ROLLBACK; FETCH c; CLOSE c;",
    ),
    (
        "a procedure that commits, then fails",
        "CALL commits(); SELECT id FROM parent WHERE id = 50;
      DELETE FROM parent WHERE id = 50;",
    ),
    (
        "COMMIT where none is allowed",
        "BEGIN; CALL commits(); ROLLBACK;",
    ),
    (
        "DDL that fails",
        "CREATE TABLE parent (id int); CREATE INDEX ON parent (nosuch);
      ALTER TABLE parent ALTER code TYPE int USING code::int; DROP TABLE parent;
      DROP ROLE limited, nosuch; DROP TABLE IF EXISTS nosuch; CREATE EXTENSION nosuch;",
    ),
    (
        "settings",
        "SET nosuch = 1; SET work_mem = 'x'; SET work_mem = '1kB'; SHOW nosuch;
      SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SET ROLE nosuch; SET app.user_id = '7';
      SHOW app.user_id;",
    ),
    (
        "an application's own audit.* setting",
        "SET audit.user_id = '7'; SHOW audit.user_id;",
    ),
    ("VACUUM in a transaction", "BEGIN; VACUUM parent; ROLLBACK;"),
    (
        "stack depth",
        "CREATE FUNCTION deep(n int) RETURNS int LANGUAGE plpgsql AS
      $$ BEGIN RETURN deep(n + 1); END $$;
      \\set VERBOSITY sqlstate\nSELECT deep(1);
      DROP FUNCTION deep;",
    ),
    (
        "two-phase commit switched off",
        "BEGIN; PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x';",
    ),
    (
        "notices of DDL",
        "SET client_min_messages = notice; CREATE TABLE IF NOT EXISTS parent (x int);
      DROP TABLE IF EXISTS nosuch CASCADE; CREATE TABLE tmp1 (x int PRIMARY KEY);
      CREATE VIEW v1 AS SELECT * FROM tmp1; DROP TABLE tmp1; DROP TABLE tmp1 CASCADE;",
    ),
    (
        "results of a mixed script",
        "SELECT * FROM parent ORDER BY id; INSERT INTO parent VALUES (3, 'three', 3) RETURNING *;
         UPDATE parent SET n = n + 1 WHERE id = 3 RETURNING n; WITH d AS (DELETE FROM parent WHERE
         id = 3 RETURNING *) SELECT count(*) FROM d; COPY parent TO STDOUT; EXPLAIN (COSTS OFF)
         SELECT * FROM parent WHERE id = 1; EXPLAIN (COSTS OFF) SELECT * FROM parent p JOIN child c
         ON c.parent_id = p.id; SHOW work_mem; VALUES (1), (2); TABLE child;
         EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM child;",
    ),
];

fn play(cluster: &Cluster, script: &str) -> Output {
    let verbose = format!("\\set VERBOSITY verbose\n\\unset QUIET\n{script}");
    cluster.psql().run(verbose)
}

/// A server with and one without the extension, both with the objects of [`SETUP`].
fn pair() -> (Cluster, Cluster) {
    let with = Cluster::builder().start();
    let without = Cluster::builder().without_library().start();
    for cluster in [&with, &without] {
        assert_eq!(
            cluster
                .psql()
                .arg("-v")
                .arg("ON_ERROR_STOP=1")
                .run(SETUP)
                .stderr,
            ""
        );
    }
    (with, without)
}

#[test]
fn error_output_is_byte_identical() {
    let (with, without) = pair();
    let mut different = Vec::new();
    for (name, script) in CASES {
        let (ours, theirs) = (play(&with, script), play(&without, script));
        if ours != theirs {
            different.push(format!(
                "-- {name}\nwith:    {ours:#?}\nwithout: {theirs:#?}"
            ));
        }
    }
    assert!(
        different.is_empty(),
        "{} cases:\n{}",
        different.len(),
        different.join("\n")
    );
    // And the comparison compared something.
    assert!(
        play(&without, CASES[10].1)
            .stderr
            .contains("CONSTRAINT NAME:  code_once")
    );
}

#[test]
fn error_output_is_byte_identical_with_several_statements_in_one_string() {
    let (with, without) = pair();
    for string in [
        "SELECT 1; SELECT 1/0; SELECT 2",
        "INSERT INTO child VALUES (2); INSERT INTO child VALUES (77); SELECT 1",
        "BEGIN; INSERT INTO later VALUES (77); COMMIT; SELECT 1",
        "SELECT 1; selec 2",
        "CREATE TABLE t1 (x int); DROP TABLE t1; DROP TABLE t1",
        "BEGIN; SELECT 1/0; ROLLBACK; SELECT 3",
        ";;",
        "",
        "-- a comment",
    ] {
        let run = |cluster: &Cluster| {
            cluster
                .psql()
                .arg("-v")
                .arg("VERBOSITY=verbose")
                .command(string)
        };
        assert_eq!(run(&with), run(&without), "{string}");
    }
}

#[test]
fn errors_of_the_extended_protocol_are_identical_in_every_field() {
    let (with, without) = pair();
    let play = |cluster: &Cluster| {
        let mut client = cluster.app();
        let mut seen = Vec::new();
        let tell = |result: Result<Vec<postgres::Row>, postgres::Error>| match result {
            Ok(rows) => format!("{} rows", rows.len()),
            Err(error) => format!("{:?}", error.as_db_error()),
        };
        // A parameter of the wrong length, parse errors, execution errors, then fine again.
        seen.push(tell(client.query("SELECT 10 / $1::int", &[&0_i32])));
        seen.push(tell(client.query("SELECT 10 / $1::int", &[&5_i32])));
        seen.push(tell(client.query("SELECT nosuch FROM parent", &[])));
        seen.push(tell(
            client.query("SELECT $1::text::date", &[&"2024-02-30"]),
        ));
        seen.push(tell(
            client.query("INSERT INTO parent VALUES ($1, 'one', 1)", &[&9_i32]),
        ));
        seen.push(tell(
            client.query("INSERT INTO child VALUES ($1)", &[&77_i32]),
        ));
        // A NUL byte in a text parameter fails while binding.
        seen.push(tell(client.query("SELECT $1::text", &[&"a\0b"])));
        seen.push(tell(client.query("SELECT 1; SELECT 2", &[])));
        seen.push(tell(client.query("SELECT outer_divide(1, $1)", &[&0_i32])));
        let statement = client
            .prepare("SELECT code FROM parent WHERE id = $1")
            .expect("valid");
        seen.push(tell(client.query(&statement, &[&1_i32])));
        client
            .batch_execute("ALTER TABLE parent ALTER code TYPE varchar")
            .expect("valid");
        // The cached plan's result type has changed.
        seen.push(tell(client.query(&statement, &[&1_i32])));
        let mut transaction = client.transaction().expect("begins");
        seen.push(tell(transaction.query("SELECT 1/0", &[])));
        seen.push(tell(transaction.query("SELECT 1", &[])));
        seen.push(format!("{:?}", transaction.commit().is_ok()));
        seen
    };
    let (ours, theirs) = (play(&with), play(&without));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(theirs[4].contains("code_once"), "{theirs:?}");
}

#[test]
fn terminated_and_timed_out_sessions_end_as_ever() {
    let (with, without) = pair();
    for script in [
        "SELECT pg_terminate_backend(pg_backend_pid()); SELECT 1;",
        "SET idle_in_transaction_session_timeout = 50; BEGIN; SELECT 1;\n\\! sleep 0.5\nSELECT 2;",
    ] {
        // psql's own words about the lost connection name no pid or port.
        assert_eq!(play(&with, script), play(&without, script), "{script}");
    }
}

/// A million nested errors would show a leak or a mistake in unwinding; some thousand show the rest.
#[test]
fn a_long_run_of_caught_errors_leaves_the_session_healthy() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client
        .batch_execute(
            "DO $$ DECLARE caught int := 0; BEGIN
               FOR i IN 1..3000 LOOP
                 BEGIN EXECUTE 'SELECT 1/0'; EXCEPTION WHEN division_by_zero THEN caught := caught + 1; END;
               END LOOP;
               ASSERT caught = 3000; END $$",
        )
        .expect("all caught");
    for _ in 0..300 {
        let _ = client.simple_query("SELECT 1/0").expect_err("fails");
    }
    let answer = client.query_one("SELECT 42", &[]).expect("healthy");
    assert_eq!(answer.get::<_, i32>(0), 42);
}

/// Cancel from outside while a statement runs: the client gets 57014 and can go on.
#[test]
fn a_cancelled_statement_is_recorded_as_failed() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    let token = client.cancel_token();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        token.cancel_query(NoTls).expect("cancel request");
    });
    let error = crate::fails(&mut client, "SELECT pg_sleep(30)");
    canceller.join().expect("canceller");
    assert_eq!(error.code().code(), "57014");
    let messages = client.simple_query("SELECT 1").expect("goes on");
    assert!(
        messages
            .iter()
            .any(|m| matches!(m, SimpleQueryMessage::Row(_)))
    );
    assert_eq!(
        cluster.trail("command, outcome, sqlstate", "statement LIKE '%pg_sleep%'"),
        ["SELECT | failed | 57014"]
    );
}

/// An error may have any code but that of success, and whatever it has, those after it are on record, too.
#[test]
fn an_error_with_the_code_of_a_warning_is_an_error() {
    let cluster = Cluster::start();
    let before = cluster.flush();
    let mut client = cluster.app();
    for sql in [
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '01000', MESSAGE = 'no warning'; END $$",
        "SELECT * FROM nowhere",
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '00001', MESSAGE = 'no success'; END $$",
        "SELECT 1 / (x - x) FROM generate_series(1, 2) x",
    ] {
        client.batch_execute(sql).expect_err(sql);
    }
    drop(client);
    assert_eq!(
        cluster.trail(
            "command, sqlstate, error",
            &format!("seq > {before} AND outcome = 'failed'")
        ),
        [
            "DO | 01000 | no warning",
            "SELECT | 42P01 | relation \"nowhere\" does not exist",
            "DO | 00001 | no success",
            "SELECT | 22012 | division by zero",
        ]
    );
}

/// What an error quotes is looked for in the client's whole string: not again for each error.
#[test]
fn many_caught_errors_in_a_long_string_with_a_secret_take_no_time_each() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (x int PRIMARY KEY); INSERT INTO t VALUES (1);
             CREATE FUNCTION put(v text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
               FOR i IN 1..500 LOOP
                 BEGIN INSERT INTO t VALUES (1); EXCEPTION WHEN unique_violation THEN NULL; END;
                 BEGIN INSERT INTO t VALUES ((v || i)::int);
                 EXCEPTION WHEN invalid_text_representation THEN NULL; END;
               END LOOP; INSERT INTO t VALUES (1); END $$",
        )
        .ok();
    let long = "{'token': 1, 'a': 'lorem'}, ".repeat(100_000);
    let list = ", 1234567".repeat(100_000);
    let string =
        format!("SELECT put('s3cret') WHERE 1 NOT IN (2{list}) AND 'password' <> '' /* {long} */");
    for level in ["none", "write"] {
        let mut client = cluster.app();
        let set = format!("SET audit.level = '{level}'");
        client.batch_execute(&set).expect("sets");
        let begun = Instant::now();
        let error = crate::fails(&mut client, &string);
        assert_eq!(error.code().code(), "23505");
        let taken = begun.elapsed();
        assert!(taken < Duration::from_secs(5), "{level}: {taken:?}");
    }
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT error, outcome, count(*) FROM audit.log WHERE depth > 0 AND outcome <> 'success' \
             GROUP BY 1, 2 ORDER BY 1, 2"
        ),
        [
            "duplicate key value violates unique constraint \"<REDACTED>\" | caught | 500",
            "duplicate key value violates unique constraint \"<REDACTED>\" | failed | 1",
            "invalid input syntax for type integer: \"<REDACTED>\" | caught | 500",
        ]
    );
}
