//! What was under way, or open, while the trail went or came: no statement of it is lost or told wrongly
//! once there is a trail again, and nothing of it holds for another one.

use std::thread;
use std::time::Duration;

use audit_cluster_tests::{Cluster, eventually};
use postgres::Client;

use crate::fails;
use crate::home::unlocked;

#[track_caller]
pub fn run(client: &mut Client, sql: &str) {
    client
        .batch_execute(sql)
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

/// Statements of class WRITE, and what became of them.
pub fn writes(cluster: &Cluster) -> Vec<String> {
    cluster.flush();
    cluster.query(
        "postgres",
        "SELECT statement, depth, outcome, transaction_outcome FROM audit.log
         WHERE command = 'INSERT' ORDER BY seq",
    )
}

fn pid_of(client: &mut Client) -> i32 {
    client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("runs")
        .get(0)
}

fn terminate(cluster: &Cluster, pid: i32) {
    cluster.query("postgres", &format!("SELECT pg_terminate_backend({pid})"));
    eventually("the session has ended", || {
        cluster.query(
            "postgres",
            &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"),
        ) == ["0"]
    });
}

/// It ran while the trail went, and its end nobody was told of.
#[test]
fn a_statement_that_ends_well_without_a_trail_is_not_told_as_rolled_back() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    let mut client = cluster.app();
    for round in 1..=2 {
        let mut admin = unlocked(&cluster);
        thread::scope(|scope| {
            let sent =
                scope.spawn(|| client.batch_execute("INSERT INTO t SELECT 1 FROM pg_sleep(0.5)"));
            thread::sleep(Duration::from_millis(200));
            run(&mut admin, "DROP EXTENSION audit_ext");
            sent.join().expect("ends").expect("runs");
        });
        run(&mut admin, "CREATE EXTENSION audit_ext");
        run(&mut client, "INSERT INTO t VALUES (2)");
        let found = writes(&cluster);
        assert!(
            found
                .iter()
                .all(|event| event.ends_with("| 0 | success | committed")),
            "{round}: {found:?}"
        );
        assert!(
            found.contains(&"INSERT INTO t VALUES (2) | 0 | success | committed".into()),
            "{round}: {found:?}"
        );
    }
}

/// BEGIN was not heard: what follows still is in a block, and on record as soon as it ends.
#[test]
fn a_block_that_began_without_a_trail() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    for known in [false, true] {
        let mut client = cluster.app();
        if known {
            run(&mut client, "SELECT");
        }
        let mut admin = unlocked(&cluster);
        run(&mut admin, "DROP EXTENSION audit_ext");
        if !known {
            client = cluster.app();
        }
        run(&mut client, "BEGIN");
        run(&mut admin, "CREATE EXTENSION audit_ext");
        run(&mut client, "INSERT INTO t VALUES (1)");
        assert_eq!(
            writes(&cluster),
            ["INSERT INTO t VALUES (1) | 0 | success | ~"]
        );
        terminate(&cluster, pid_of(&mut client));
        eventually("the fate is known", || {
            writes(&cluster) == ["INSERT INTO t VALUES (1) | 0 | success | rolled back"]
        });
    }
}

/// Sessions that began before the trail.
#[test]
fn a_session_from_before_the_trail_is_no_failed_logon() {
    let cluster = Cluster::start();
    let mut admin = unlocked(&cluster);
    run(&mut admin, "DROP EXTENSION audit_ext");
    let mut idle = cluster.app();
    let mut failed = cluster.app();
    run(&mut failed, "BEGIN");
    fails(&mut failed, "SELECT 1 / 0");
    let pid = pid_of(&mut idle);
    run(&mut admin, "CREATE EXTENSION audit_ext");
    terminate(&cluster, pid);
    run(&mut failed, "ROLLBACK");
    run(&mut failed, "SELECT 'goes on'");
    let wrong = "command IN ('AUTHENTICATE', 'GAP')";
    assert_eq!(cluster.trail_of("command", wrong), Vec::<String>::new());
    assert_eq!(cluster.count("statement = $$SELECT 'goes on'$$"), 1);
}

/// Nobody hears the end of that transaction. What the session does next may have its memory where the
/// statement had its own.
#[test]
fn a_transaction_that_ends_without_a_trail_leaves_nothing_behind() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (n int);
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER c AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (new.n = 1) EXECUTE FUNCTION slow()",
        )
        .ok();
    let mut admin = unlocked(&cluster);
    let mut client = cluster.app();
    for round in 1..=6 {
        client.batch_execute("SELECT 'before'").expect("runs");
        // The extension goes while the transaction commits, and comes while a query runs.
        thread::scope(|scope| {
            let sent = scope.spawn(|| {
                client.batch_execute("INSERT INTO t SELECT 1 FROM generate_series(1, 5)")?;
                client.batch_execute("INSERT INTO t SELECT 2 FROM pg_sleep(0.6)")
            });
            thread::sleep(Duration::from_millis(200));
            admin
                .batch_execute("DROP EXTENSION audit_ext")
                .expect("drops");
            thread::sleep(Duration::from_millis(550));
            admin
                .batch_execute("CREATE EXTENSION audit_ext")
                .expect("creates");
            sent.join().expect("ends").expect("both run");
        });
        for n in 1..=3 {
            let nested = format!("DO $$ BEGIN PERFORM {n}; END $$");
            client.batch_execute(&nested).expect("runs");
        }
        cluster.flush();
        let found = cluster.query(
            "postgres",
            "SELECT depth, statement, outcome, transaction_outcome, count(*) FROM audit.log
             WHERE statement ~ '^(DO|SELECT [1-3]$)' GROUP BY 1, 2, 3, 4 ORDER BY 2",
        );
        let mut expected = Vec::new();
        for n in 1..=3 {
            let end = "success | committed | 1";
            expected.push(format!("0 | DO $$ BEGIN PERFORM {n}; END $$ | {end}"));
        }
        for n in 1..=3 {
            expected.push(format!("1 | SELECT {n} | success | committed | 1"));
        }
        assert_eq!(found, expected, "round {round}");
        admin = unlocked(&cluster);
    }
}

/// Nor does anybody hear of the error.
#[test]
fn a_statement_that_fails_without_a_trail_leaves_nothing_behind() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (n int); INSERT INTO t VALUES (0);
             CREATE FUNCTION fail() RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.3); RAISE 'as it should'; END $$;
             CREATE FUNCTION fail(int) RETURNS int LANGUAGE sql AS 'SELECT fail()'",
        )
        .ok();
    let failing = [
        "SELECT fail()",
        "SELECT fail(n) FROM t",
        "DO $$ BEGIN PERFORM fail(); END $$",
        "BEGIN; UPDATE t SET n = fail(n)",
        "BEGIN; SAVEPOINT s; SELECT fail(n) FROM t",
        "SET audit.level = 'write'; SELECT fail(n) FROM t",
        "SET audit.level = 'write'; BEGIN; SAVEPOINT s; DO $$ BEGIN PERFORM fail(); END $$",
    ];
    for round in 0..14 {
        let mut admin = unlocked(&cluster);
        let mut client = cluster.app();
        let failing = failing[round % 7];
        thread::scope(|scope| {
            let sent = scope.spawn(|| client.batch_execute(failing));
            thread::sleep(Duration::from_millis(150));
            admin
                .batch_execute("DROP EXTENSION audit_ext")
                .expect("drops");
            sent.join().expect("ends").expect_err("fails");
        });
        if failing.contains("BEGIN;") {
            client.batch_execute("ROLLBACK").expect("ends");
        }
        if failing.contains("SET") {
            client.batch_execute("RESET ALL").expect("resets");
        }
        admin
            .batch_execute("CREATE EXTENSION audit_ext")
            .expect("creates");
        let mut next = [
            format!("SELECT n + {round} FROM t"),
            format!("INSERT INTO t VALUES (1 + {round})"),
            format!("DO $$ BEGIN PERFORM {round}; END $$"),
            format!("CREATE TABLE t{round} ()"),
        ];
        next.rotate_left(2 * (round / 7));
        for sql in &next {
            client.batch_execute(sql).expect(sql);
        }
        cluster.flush();
        let found = cluster.query(
            "postgres",
            &format!(
                "SELECT depth, substatement_id, outcome, transaction_outcome, statement FROM audit.log
                 WHERE database_name = 'app' AND statement ~ '^(SELECT n|INSERT|DO|CREATE).*{round}'
                 ORDER BY seq"
            ),
        );
        let expected: Vec<_> = next
            .iter()
            .map(|sql| format!("0 | 1 | success | committed | {sql}"))
            .collect();
        assert_eq!(found, expected, "after {failing}");
    }
}

/// Nor do statements that the level leaves out.
#[test]
fn what_is_left_out_without_a_trail_leaves_nothing_behind() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (n int); INSERT INTO t VALUES (0);
             CREATE FUNCTION put(int, float DEFAULT 0) RETURNS void LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep($2); INSERT INTO t VALUES ($1); END $$;
             CREATE FUNCTION try(int) RETURNS int LANGUAGE plpgsql AS
             $$ BEGIN PERFORM 1 / $1; RETURN 1; EXCEPTION WHEN OTHERS THEN RETURN 0; END $$",
        )
        .ok();
    let mut admin = unlocked(&cluster);
    let mut client = cluster.app();
    client
        .batch_execute("SET audit.level = 'write'; SELECT 'begun' FROM t")
        .expect("begins");
    admin
        .batch_execute("DROP EXTENSION audit_ext")
        .expect("drops");
    let unrecorded = [
        "SELECT n FROM t",
        "SELECT put(1)",
        "SELECT try(n) FROM t",
        "SELECT 1 / n FROM t",
        "BEGIN; SELECT put(2); SAVEPOINT s; SELECT try(0); SELECT 1 / n FROM t",
        "ROLLBACK TO s; SELECT n FROM t; DECLARE c CURSOR FOR SELECT n, put(3) FROM t; FETCH c; COMMIT",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT n FROM t; SELECT put(4); ROLLBACK",
    ];
    for sql in unrecorded {
        let failed = client.batch_execute(sql).is_err();
        assert_eq!(failed, sql.contains("1 / n"), "{sql}");
    }
    // One goes on while the trail comes, and the session knows what it is inside of then.
    thread::scope(|scope| {
        let sent = scope.spawn(|| client.batch_execute("SELECT put(5, 0.5)"));
        thread::sleep(Duration::from_millis(150));
        admin
            .batch_execute("CREATE EXTENSION audit_ext")
            .expect("creates");
        sent.join().expect("ends").expect("runs");
    });
    for sql in [
        "SELECT put(6)",
        "SELECT 1 / n FROM t",
        "INSERT INTO t VALUES (7)",
    ] {
        let failed = client.batch_execute(sql).is_err();
        assert_eq!(failed, sql.contains("1 / n"), "{sql}");
    }
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT depth, outcome, transaction_outcome, statement FROM audit.log
             WHERE database_name = 'app' AND class IN ('READ', 'WRITE') ORDER BY seq",
        ),
        [
            "1 | success | committed | INSERT INTO t VALUES ($1)",
            "1 | success | committed | INSERT INTO t VALUES ($1)",
            "0 | success | committed | INSERT INTO t VALUES (7)",
        ]
    );
}

/// What begins while there is no trail, and is rolled back when there is one.
#[test]
fn a_savepoint_that_began_without_a_trail_decides_what_came_after_it() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    let mut client = cluster.app();
    for round in 1..=2 {
        let mut admin = unlocked(&cluster);
        admin
            .batch_execute("DROP EXTENSION audit_ext")
            .expect("drops");
        // In the first round of a session that has never had one.
        if round == 1 {
            client = cluster.app();
        }
        client
            .batch_execute("BEGIN; INSERT INTO t VALUES (0); SAVEPOINT a; SAVEPOINT b")
            .expect("begins");
        admin
            .batch_execute("CREATE EXTENSION audit_ext")
            .expect("creates");
        for sql in [
            "INSERT INTO t VALUES (1)",
            "SAVEPOINT c",
            "INSERT INTO t VALUES (2)",
            "ROLLBACK TO c",
            "INSERT INTO t VALUES (3)",
            "RELEASE b",
            "ROLLBACK TO a",
            "INSERT INTO t VALUES (4)",
            "COMMIT",
            "INSERT INTO t VALUES (5)",
        ] {
            client.batch_execute(sql).expect(sql);
        }
        cluster.flush();
        assert_eq!(
            cluster.query(
                "postgres",
                "SELECT statement, depth, outcome, transaction_outcome FROM audit.log
                 WHERE command = 'INSERT' ORDER BY seq",
            ),
            [
                "INSERT INTO t VALUES (1) | 0 | success | rolled back",
                "INSERT INTO t VALUES (2) | 0 | success | rolled back",
                "INSERT INTO t VALUES (3) | 0 | success | rolled back",
                "INSERT INTO t VALUES (4) | 0 | success | committed",
                "INSERT INTO t VALUES (5) | 0 | success | committed",
            ],
            "round {round}"
        );
    }
    assert_eq!(
        cluster.query("app", "SELECT n FROM t ORDER BY n"),
        ["0", "0", "4", "4", "5", "5"]
    );
}

/// Nor of the end of a transaction of which nothing is on record.
#[test]
fn a_subtransaction_that_ends_without_a_trail_decides_nothing_later() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    let mut admin = unlocked(&cluster);
    let mut client = cluster.app();
    client
        .batch_execute("SET audit.level = 'write'; BEGIN; SAVEPOINT s")
        .expect("begins");
    admin
        .batch_execute("DROP EXTENSION audit_ext")
        .expect("drops");
    client.batch_execute("COMMIT").expect("ends");
    admin
        .batch_execute("CREATE EXTENSION audit_ext")
        .expect("creates");
    client
        .batch_execute(
            "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2);
             ROLLBACK TO s; INSERT INTO t VALUES (3); COMMIT",
        )
        .expect("runs");
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT statement, transaction_outcome FROM audit.log WHERE command = 'INSERT' ORDER BY seq",
        ),
        [
            "INSERT INTO t VALUES (1) | committed",
            "INSERT INTO t VALUES (2) | rolled back",
            "INSERT INTO t VALUES (3) | committed",
        ]
    );
}
