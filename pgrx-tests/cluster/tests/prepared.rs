//! Prepared transactions: whoever ends one, and however often its identifier is used, the events that it decides
//! are those of that transaction (spec/delivery.md, "Fate").

use std::thread;

use audit_cluster_tests::{Cluster, eventually};
use postgres::NoTls;

use crate::fate::fates;

#[test]
fn two_phase_commit() {
    let cluster = Cluster::builder()
        .setting("max_prepared_transactions", "5")
        .start();
    cluster
        .psql()
        .run("CREATE TABLE t (x int PRIMARY KEY)")
        .ok();
    cluster
        .psql()
        .run(
            "BEGIN; /* a */ INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one';
             BEGIN; /* b */ INSERT INTO t VALUES (2); PREPARE TRANSACTION 'two';
             BEGIN; /* c */ INSERT INTO t VALUES (3); PREPARE TRANSACTION 'three';",
        )
        .ok();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | prepared",
            "b | success | prepared",
            "c | success | prepared"
        ]
    );
    // From another session, as a transaction manager would.
    cluster
        .psql()
        .run("COMMIT PREPARED 'one'; ROLLBACK PREPARED 'two';")
        .ok();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | committed",
            "b | success | rolled back",
            "c | success | prepared"
        ]
    );
}

/// Without `misc` these are on record as what decides, and only where they decide about something.
#[test]
fn two_phase_commit_that_the_level_leaves_out() {
    let cluster = Cluster::builder()
        .setting("max_prepared_transactions", "5")
        .setting("audit.level", "write")
        .start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    cluster
        .psql()
        .run(
            "BEGIN; /* a */ INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one';
             BEGIN; /* b */ INSERT INTO t VALUES (2); PREPARE TRANSACTION 'two';
             BEGIN; /* c */ INSERT INTO t VALUES (3); PREPARE TRANSACTION 'three';
             BEGIN; SAVEPOINT s; /* d */ INSERT INTO t VALUES (4); ROLLBACK TO s;
             /* e */ INSERT INTO t VALUES (5); PREPARE TRANSACTION 'four';
             BEGIN; SELECT 1; PREPARE TRANSACTION 'nothing on record';
             BEGIN; SELECT 1; COMMIT; BEGIN; ROLLBACK;",
        )
        .ok();
    let ends = "COMMIT PREPARED 'one'; ROLLBACK PREPARED 'two'; COMMIT PREPARED 'four';";
    cluster.psql().run(ends).ok();
    // Where nothing is recorded this is not, either.
    let silent =
        "SET audit.level = 'none'; COMMIT PREPARED 'three'; COMMIT PREPARED 'nothing on record'";
    cluster.psql().run(silent).ok();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | committed",
            "b | success | rolled back",
            "c | success | prepared",
            "d | success | rolled back",
            "e | success | committed",
        ]
    );
    assert_eq!(
        cluster.trail_of(
            "command, statement, outcome",
            "command LIKE '% PREPARED' OR command LIKE 'PREPARE%'"
        ),
        [
            "PREPARE TRANSACTION | PREPARE TRANSACTION 'one' | success",
            "PREPARE TRANSACTION | PREPARE TRANSACTION 'two' | success",
            "PREPARE TRANSACTION | PREPARE TRANSACTION 'three' | success",
            "PREPARE TRANSACTION | PREPARE TRANSACTION 'four' | success",
            "COMMIT PREPARED | COMMIT PREPARED 'one' | success",
            "ROLLBACK PREPARED | ROLLBACK PREPARED 'two' | success",
            "COMMIT PREPARED | COMMIT PREPARED 'four' | success",
        ]
    );
    assert_eq!(cluster.count("class = 'MISC'"), 0);
}

/// What has nothing on record at this level has no row with its gid, and its end decides about nothing.
#[test]
fn a_gid_that_is_used_again() {
    let cluster = Cluster::builder()
        .setting("max_prepared_transactions", "5")
        .setting("audit.level", "write")
        .start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    let unseen = "BEGIN; CREATE TABLE z (); PREPARE TRANSACTION 'x';";
    cluster
        .psql()
        .run(format!(
            "BEGIN; /* a */ INSERT INTO t VALUES (1); PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x';
             {unseen} ROLLBACK PREPARED 'x';
             BEGIN; /* b */ INSERT INTO t VALUES (2); PREPARE TRANSACTION 'x'; ROLLBACK PREPARED 'x';
             {unseen} COMMIT PREPARED 'x';
             BEGIN; /* c */ INSERT INTO t VALUES (3); PREPARE TRANSACTION 'x';"
        ))
        .ok();
    assert_eq!(fates(&cluster)[2], "c | success | prepared");
    // From other sessions, in batches of their own.
    cluster.psql().run("COMMIT PREPARED 'x'").ok();
    cluster.flush();
    cluster
        .psql()
        .run("DROP TABLE z; BEGIN; CREATE TABLE z (); PREPARE TRANSACTION 'x'; ROLLBACK PREPARED 'x'")
        .ok();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | committed",
            "b | success | rolled back",
            "c | success | committed",
        ]
    );
    crate::integrity::assert_whole(&cluster);
}

/// The commit record is on disk, and nobody is there any more to say so.
#[test]
fn who_ends_a_prepared_transaction_is_killed_in_that() {
    for level in ["all", "write"] {
        let cluster = Cluster::builder()
            .durable()
            .setting("max_prepared_transactions", "5")
            .setting("audit.level", level)
            .setting("synchronous_standby_names", "'nobody'")
            .setting("synchronous_commit", "local")
            .start();
        cluster
            .psql()
            .run(
                "CREATE TABLE t (x int);
                 BEGIN; /* a */ INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one';
                 BEGIN; /* b */ INSERT INTO t VALUES (2); PREPARE TRANSACTION 'two';
                 BEGIN; /* c */ INSERT INTO t VALUES (3); PREPARE TRANSACTION 'three';",
            )
            .ok();
        cluster.flush();
        for end in ["COMMIT PREPARED 'one'", "ROLLBACK PREPARED 'two'"] {
            killed_after(&cluster, end);
        }
        assert_eq!(
            fates(&cluster),
            [
                "a | success | committed",
                "b | success | rolled back",
                "c | success | prepared",
            ],
            "{level}"
        );
        assert_eq!(cluster.query("app", "SELECT x FROM t"), ["1"]);
        crate::integrity::assert_whole(&cluster);
    }
}

/// Runs a statement that waits for a standby that isn't there, and kills its backend.
fn killed_after(cluster: &Cluster, sql: &'static str) {
    let mut client = cluster.app();
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a pid")
        .get(0);
    client
        .batch_execute("SET synchronous_commit = on")
        .expect("sets");
    let waits = thread::spawn(move || client.batch_execute(sql).expect_err("is killed"));
    eventually("it waits for a standby", || {
        let waiting = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
        cluster.query("postgres", &waiting) == ["SyncRep"]
    });
    assert!(cluster.kill_child(pid as u32));
    waits.join().expect("the client sees its end");
    eventually("the server is back", || {
        cluster
            .config("postgres", "postgres")
            .connect(NoTls)
            .is_ok()
    });
}
