//! Prepared transactions: whoever ends one, and however often its identifier is used, the events that it decides
//! are those of that transaction (spec/delivery.md, "Fate").

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};

use audit_cluster_tests::{Cluster, Shutdown, eventually};
use postgres::NoTls;

use crate::durability::{lose_the_operating_system, watched};
use crate::fate::fates;
use crate::told_once::{lock, unlock};

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

/// The same where a FATE alone tells of the transaction, as the operating system was lost with its PREPARE.
#[test]
fn who_ends_one_that_only_a_fate_tells_of_is_killed_in_that() {
    let (builder, synced) = watched("'commit'");
    let cluster = builder
        .setting("max_prepared_transactions", "5")
        .setting("synchronous_standby_names", "'nobody'")
        .setting("synchronous_commit", "local")
        .start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    cluster.suspend_worker();
    let mut prepares = cluster.app();
    for sql in [
        "BEGIN",
        "/* a */ INSERT INTO t VALUES (1)",
        "PREPARE TRANSACTION 'one'",
        "BEGIN",
        "/* b */ INSERT INTO t VALUES (2)",
        "PREPARE TRANSACTION 'two'",
    ] {
        prepares.batch_execute(sql).expect(sql);
    }
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(
        fates(&cluster),
        ["a | success | prepared", "b | success | prepared"]
    );
    for end in ["COMMIT PREPARED 'one'", "ROLLBACK PREPARED 'two'"] {
        killed_after(&cluster, end);
    }
    assert_eq!(
        fates(&cluster),
        ["a | success | committed", "b | success | rolled back"]
    );
    crate::integrity::assert_whole(&cluster);
    let _ = fs::remove_file(&synced);
}

/// A server that is set back to before the PREPARE has never heard of it, and gives its id to somebody else.
#[test]
fn an_id_that_is_given_out_again_does_not_tell_of_a_prepared_transaction() {
    let cluster = Cluster::builder()
        .durable()
        .setting("max_prepared_transactions", "5")
        .setting("synchronous_standby_names", "'nobody'")
        .setting("synchronous_commit", "local")
        .start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    lock(&cluster);
    cluster.stop(Shutdown::Fast);
    let data = cluster.data_dir();
    let before = data.with_file_name("before");
    sh("cp -a \"$1\" \"$2\"", &data, &before);
    cluster.start_again();
    cluster
        .psql()
        .run("BEGIN; /* a */ INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one'")
        .ok();
    let (_, waits) = waits_for_a_standby(&cluster, "COMMIT PREPARED 'one'");
    cluster.kill_all();
    waits.join().expect("the client sees its end");
    // All but the rings.
    sh(
        "rm -r \"$2/pg_audit\"; mv \"$1/pg_audit\" \"$2\"; rm -r \"$1\"; mv \"$2\" \"$1\"",
        &data,
        &before,
    );
    cluster.start_again();
    for _ in 0..30 {
        cluster.psql().run("SELECT txid_current()").ok();
    }
    unlock(&cluster);
    assert_eq!(fates(&cluster), ["a | success | rolled back"]);
    assert_eq!(cluster.query("app", "SELECT x FROM t"), [""; 0]);
    crate::integrity::assert_whole(&cluster);
}

fn sh(script: &str, one: &Path, two: &Path) {
    let mut sh = Command::new("sh");
    let done = sh.args(["-ec", script, "sh"]).args([one, two]).status();
    assert!(done.expect("sh runs").success(), "{script}");
}

/// Runs a statement that waits for a standby that isn't there, and kills its backend.
fn killed_after(cluster: &Cluster, sql: &'static str) {
    let (pid, waits) = waits_for_a_standby(cluster, sql);
    assert!(cluster.kill_child(pid));
    waits.join().expect("the client sees its end");
    eventually("the server is back", || {
        cluster
            .config("postgres", "postgres")
            .connect(NoTls)
            .is_ok()
    });
}

/// Runs a statement that has done its work, and waits for a standby that isn't there: in which backend.
fn waits_for_a_standby(cluster: &Cluster, sql: &'static str) -> (u32, JoinHandle<()>) {
    let mut client = cluster.app();
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a pid")
        .get(0);
    client
        .batch_execute("SET synchronous_commit = on")
        .expect("sets");
    let waits = thread::spawn(move || {
        client.batch_execute(sql).expect_err("is killed");
    });
    eventually("it waits for a standby", || {
        let waiting = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
        cluster.query("postgres", &waiting) == ["SyncRep"]
    });
    (pid as u32, waits)
}
