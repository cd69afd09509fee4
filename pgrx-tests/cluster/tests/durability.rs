//! audit.durability = commit: no transaction that writes commits before its records are on disk.
//!
//! The loss of the operating system is played by keeping, at every fdatasync of the ring, the bytes
//! that it makes durable (synced.c), and starting the killed server with the last of these copies.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use audit_cluster_tests::{Builder, Cluster, kill};

use crate::inflight::pid;
use crate::load::{Load, check_event_numbers};
use crate::shim::{library, scratch_file};
use crate::soak::{a_while, series};

/// A cluster whose synced ring is kept in the returned file.
pub fn watched(durability: &str) -> (Builder, PathBuf) {
    let copy = scratch_file("synced");
    let builder = Cluster::builder()
        .durable()
        .setting("audit.ring_size", "'4MB'")
        .setting("audit.durability", durability)
        .env("LD_PRELOAD", &library("synced"))
        .env("RING_COPY", copy.to_str().expect("a plain path"));
    (builder, copy)
}

/// Kills everything at once and starts again with the ring as it was synced last.
pub fn lose_the_operating_system(cluster: &Cluster, synced: &PathBuf) {
    cluster.kill_all();
    let ring = cluster.data_dir().join("pg_audit/ring");
    fs::copy(synced, &ring).expect("the synced bytes");
    // The new ring replaces the copy when it is made.
    cluster.start_again();
}

/// Loses the operating system under load so often. `drained`: the worker works, and the trail may
/// know of transactions what the disk's ring does not; else what the disk has of the ring must be
/// enough.
fn lose_it_under_load(drained: bool) {
    series(1, |faults| {
        let (builder, synced) = watched("'commit'");
        let cluster = builder.setting("audit.flush_interval", "'1ms'").start();
        let load = Load::during(&cluster, |_| ());
        for _ in 0..faults {
            if !drained {
                cluster.suspend_worker();
            }
            load.go_on(&cluster, |load| {
                load.more(100);
                // Nobody ends in order: clients are in the middle of whatever they do.
                a_while(300);
                lose_the_operating_system(&cluster, &synced);
            });
        }
        // What wrote nothing was not waited for.
        load.check_commits(&cluster);
        check_trail(&cluster, "problem <> 'missing events'");
        let _ = fs::remove_file(&synced);
    });
}

#[track_caller]
fn check_trail(cluster: &Cluster, filter: &str) {
    let problems = format!("SELECT * FROM audit.verify() WHERE {filter}");
    assert_eq!(cluster.query("postgres", &problems), Vec::<String>::new());
}

#[test]
fn no_row_without_its_record_after_the_loss_of_the_operating_system() {
    lose_it_under_load(false);
}

#[test]
fn no_row_without_its_record_where_the_worker_had_drained_some() {
    lose_it_under_load(true);
}

#[test]
fn fates_are_told_that_nobody_could_tell() {
    let (builder, synced) = watched("'commit'");
    let cluster = builder.setting("max_prepared_transactions", "5").start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    let run = |client: &mut postgres::Client, sql: &str| client.batch_execute(sql).expect("works");
    let begin = |sql: &str| {
        let mut client = cluster.app();
        run(&mut client, sql);
        client
    };
    // The first sync of a server is of the whole file. Who comes after it has no slot on the disk.
    let first_sync = || begin("INSERT INTO t VALUES (0)");
    let ends = |numbers: &str| {
        cluster.trail(
            "(regexp_match(statement, '\\d+'))[1], transaction_outcome",
            &format!("statement ~ '\\m({numbers})\\M' AND statement !~ '^CREATE'"),
        )
    };
    // A slot that was synced before its transaction had an end, which no event of its own tells.
    cluster.restart(audit_cluster_tests::Shutdown::Fast);
    cluster.suspend_worker();
    let mut old = begin("SET audit.level = 'write'; BEGIN; INSERT INTO t VALUES (11)");
    let _other = first_sync();
    run(&mut old, "COMMIT");
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(ends("11"), ["11 | committed"]);

    // One that never was; events from before the transaction had its id.
    cluster.suspend_worker();
    let _other = first_sync();
    let _new = begin("BEGIN; SELECT 21; INSERT INTO t VALUES (22); SELECT 23; COMMIT");
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(
        ends("21|22|23"),
        ["21 | committed", "22 | committed", "23 | committed"]
    );
    assert_eq!(
        cluster.trail("transaction_outcome", "command IN ('BEGIN', 'COMMIT')"),
        ["committed", "committed"]
    );

    // The trail had all of it but its end, and nothing had to be synced at all.
    let mut drained = begin("SET audit.level = 'write'; BEGIN; INSERT INTO t VALUES (31)");
    cluster.flush();
    cluster.suspend_worker();
    run(&mut drained, "COMMIT");
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(ends("31"), ["31 | committed"]);

    // What was rolled back to a savepoint stays so.
    cluster.suspend_worker();
    let _other = first_sync();
    let _savepoint = begin(
        "SET audit.level = 'write'; BEGIN; INSERT INTO t VALUES (41);
         SAVEPOINT s; INSERT INTO t VALUES (42); ROLLBACK TO s; INSERT INTO t VALUES (43);
         SAVEPOINT s; INSERT INTO t VALUES (44); ROLLBACK TO s; COMMIT",
    );
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(
        ends("41|42|43|44"),
        [
            "41 | committed",
            "42 | rolled back",
            "43 | committed",
            "44 | rolled back"
        ]
    );

    // What was open is rolled back, and what the session did before stays.
    cluster.suspend_worker();
    let mut other = first_sync();
    let _open = begin("BEGIN; INSERT INTO t VALUES (51); COMMIT; BEGIN; INSERT INTO t VALUES (52)");
    run(&mut other, "INSERT INTO t VALUES (53)");
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(
        ends("51|52|53"),
        ["51 | committed", "52 | rolled back", "53 | committed"]
    );

    // What was prepared can be ended, and both are told.
    cluster.suspend_worker();
    let _other = first_sync();
    let _prepared = begin(
        "BEGIN; INSERT INTO t VALUES (61); PREPARE TRANSACTION 'p61';
         BEGIN; INSERT INTO t VALUES (62); PREPARE TRANSACTION 'p62'",
    );
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(ends("61|62"), ["61 | prepared", "62 | prepared"]);
    let mut later = begin("COMMIT PREPARED 'p61'");
    run(&mut later, "ROLLBACK PREPARED 'p62'");
    assert_eq!(ends("61|62"), ["61 | committed", "62 | rolled back"]);

    // A session that was there at the first sync, and ended in order, has ended once.
    cluster.restart(audit_cluster_tests::Shutdown::Fast);
    cluster.suspend_worker();
    let mut gone = begin("SELECT 71");
    let mut other = first_sync();
    run(&mut gone, "SELECT 72");
    drop(gone);
    thread::sleep(Duration::from_millis(300));
    run(&mut other, "INSERT INTO t VALUES (73)");
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(ends("71|72|73").len(), 3);
    let session = "(SELECT session_id FROM audit.log WHERE statement = 'SELECT 71')";
    assert_eq!(
        cluster.trail_of(
            "outcome",
            &format!("command = 'DISCONNECT' AND session_id = {session}")
        ),
        ["success"]
    );
    assert_eq!(
        cluster.query("app", "SELECT n FROM t WHERE n > 0 ORDER BY n"),
        ["11", "22", "31", "41", "43", "51", "53", "61", "73"]
    );

    // Once, however often the server starts.
    let fates = || cluster.trail_of("seq, session_id", "command = 'FATE'");
    let told = fates();
    cluster.restart(audit_cluster_tests::Shutdown::Fast);
    assert_eq!(fates(), told);
    check_trail(&cluster, "true");
    let _ = fs::remove_file(&synced);
}

#[test]
fn without_it_records_are_lost_with_the_operating_system() {
    // The same, to show that the test above can fail.
    let (builder, synced) = watched("'async'");
    let cluster = builder.start();
    cluster.suspend_worker();
    let ring = cluster.data_dir().join("pg_audit/ring");
    fs::copy(&ring, &synced).expect("nothing was synced since the start");
    cluster
        .psql()
        .run("CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
        .ok();
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(cluster.query("app", "SELECT count(*) FROM t"), ["1"]);
    assert_eq!(cluster.count("command = 'INSERT'"), 0);
    let _ = fs::remove_file(&synced);
}

#[test]
fn records_around_the_end_of_the_ring_are_synced_too() {
    let (builder, synced) = watched("'commit'");
    let cluster = builder.setting("audit.ring_size", "'1MB'").start();
    let mut client = cluster.app();
    client
        .batch_execute("CREATE TABLE t (n int)")
        .expect("works");
    let filler = "x".repeat(20_000);
    let mut insert = |from: u32, to: u32| {
        for n in from..to {
            let sql = format!("INSERT INTO t VALUES ({n}) -- {filler}");
            client.batch_execute(&sql).expect("works");
        }
    };
    // Half a lap that goes into the trail, then as much again and more that doesn't.
    insert(0, 25);
    cluster.flush();
    cluster.suspend_worker();
    insert(25, 58);
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(
        cluster.trail(
            "(regexp_match(statement, '\\d+'))[1], transaction_outcome",
            "command = 'INSERT'"
        ),
        (0..58)
            .map(|n| format!("{n} | committed"))
            .collect::<Vec<_>>()
    );
    check_trail(&cluster, "true");
    let _ = fs::remove_file(&synced);
}

#[test]
fn fates_come_with_an_event_of_their_own() {
    let cluster = Cluster::builder()
        .setting("audit.durability", "'commit'")
        .start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (x int);
             INSERT INTO t VALUES (1);
             SELECT count(*) FROM t;
             BEGIN; INSERT INTO t VALUES (2); COMMIT;
             BEGIN; INSERT INTO t VALUES (3); ROLLBACK;",
        )
        .ok();
    assert_eq!(
        cluster.trail("command, outcome, transaction_outcome", "true"),
        [
            "CREATE TABLE | success | committed",
            "INSERT | success | committed",
            "SELECT | success | committed",
            "BEGIN | success | committed",
            "INSERT | success | committed",
            "COMMIT | success | committed",
            "BEGIN | success | rolled back",
            "INSERT | success | rolled back",
            "ROLLBACK | success | rolled back",
        ]
    );
    assert_eq!(cluster.trail_of("command", "command = 'FATE'").len(), 3);
    check_event_numbers(&cluster, "true");
}

#[test]
fn prepared_transactions() {
    let cluster = Cluster::builder()
        .setting("audit.durability", "'commit'")
        .setting("max_prepared_transactions", "5")
        .start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (x int);
             BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one';
             BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'two';
             BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'three';",
        )
        .ok();
    cluster
        .psql()
        .run("COMMIT PREPARED 'one'; ROLLBACK PREPARED 'two'")
        .ok();
    assert_eq!(
        cluster.trail("statement, transaction_outcome", "command = 'INSERT'"),
        [
            "INSERT INTO t VALUES (1) | committed",
            "INSERT INTO t VALUES (2) | rolled back",
            "INSERT INTO t VALUES (3) | prepared"
        ]
    );
    // What was done in it may be in the trail before it is prepared.
    let mut early = cluster.app();
    early
        .batch_execute("BEGIN; INSERT INTO t VALUES (5)")
        .expect("begins");
    cluster.flush();
    early
        .batch_execute("PREPARE TRANSACTION 'five'")
        .expect("prepares");
    // Whoever prepared it may be killed before it is ended.
    let mut killed = cluster.app();
    killed
        .batch_execute("BEGIN; INSERT INTO t VALUES (4)")
        .expect("begins");
    cluster.flush();
    killed
        .batch_execute("PREPARE TRANSACTION 'four'")
        .expect("prepares");
    let pid = pid(&mut killed);
    assert!(cluster.kill_child(pid));
    cluster
        .psql()
        .run("COMMIT PREPARED 'five'; COMMIT PREPARED 'four'")
        .ok();
    assert_eq!(
        cluster.trail(
            "statement, transaction_outcome",
            "statement ~ 'VALUES .[45]'"
        ),
        [
            "INSERT INTO t VALUES (5) | committed",
            "INSERT INTO t VALUES (4) | committed"
        ]
    );
}

#[test]
fn a_commit_that_fails_in_its_last_step() {
    let cluster = Cluster::builder()
        .setting("audit.durability", "'commit'")
        .start();
    cluster
        .psql()
        .run("CREATE TABLE t (x int); INSERT INTO t VALUES (1), (2)")
        .ok();
    let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(x) FROM t";
    let (mut one, mut two) = (cluster.app(), cluster.app());
    one.batch_execute(begin).expect("begins");
    two.batch_execute(begin).expect("begins");
    one.batch_execute("INSERT INTO t VALUES (10)")
        .expect("inserts");
    two.batch_execute("INSERT INTO t VALUES (20)")
        .expect("inserts");
    one.batch_execute("COMMIT").expect("commits");
    assert!(two.batch_execute("COMMIT").is_err());
    assert_eq!(
        cluster.trail(
            "statement, outcome, transaction_outcome",
            "statement ~ '^(COMMIT|INSERT INTO t VALUES ..0)'"
        ),
        [
            "INSERT INTO t VALUES (10) | success | committed",
            "INSERT INTO t VALUES (20) | success | rolled back",
            "COMMIT | success | committed",
            "COMMIT | success | rolled back",
        ]
    );
    assert_eq!(
        cluster.trail_of("sqlstate", "command = 'FATE' AND outcome = 'failed'"),
        ["40001"]
    );
    assert_eq!(
        cluster.count("outcome = 'failed'"),
        0,
        "no event of nothing"
    );
}

#[test]
fn a_sync_that_fails_refuses_the_commit_and_all_after_it() {
    let (builder, synced) = watched("'commit'");
    let cluster = builder.start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    let fail = synced.with_file_name(format!(
        "{}.fail",
        synced.file_name().expect("a name").to_string_lossy()
    ));
    fs::write(&fail, "").expect("written");
    // The worker is kept from making the records durable in its own way.
    let worker = cluster.suspend_worker();
    let refused = cluster.psql().run("INSERT INTO t VALUES (1)").error();
    assert!(
        refused.contains("audit records cannot be made durable"),
        "{refused}"
    );
    fs::remove_file(&fail).expect("removed");
    // The kernel tells of a lost page once: a second sync that works proves nothing.
    cluster.psql().run("INSERT INTO t VALUES (2)").error();
    assert_eq!(
        cluster.value(
            "SELECT last_error LIKE '%could not be synced: Input/output error%' FROM audit.status"
        ),
        "t"
    );
    // Reading goes on.
    assert_eq!(cluster.psql().run("SELECT count(*) FROM t").ok(), "0\n");
    assert!(kill(worker, "CONT"));
    cluster.restart(audit_cluster_tests::Shutdown::Fast);
    cluster.psql().run("INSERT INTO t VALUES (3)").ok();
    assert_eq!(
        cluster.trail("statement, transaction_outcome", "command = 'INSERT'"),
        [
            "INSERT INTO t VALUES (1) | rolled back",
            "INSERT INTO t VALUES (2) | rolled back",
            "INSERT INTO t VALUES (3) | committed"
        ]
    );
    let _ = fs::remove_file(&synced);
}

/// A server with a table `t` whose worker is stopped, and whose small ring drops what finds no room.
pub fn stopped_and_dropping() -> (Cluster, u32) {
    let cluster = Cluster::builder()
        .setting("audit.ring_size", "'1MB'")
        .setting("audit.on_full", "'drop'")
        .setting("audit.durability", "'commit'")
        .start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    let worker = cluster.suspend_worker();
    (cluster, worker)
}

#[test]
fn a_commit_is_refused_whose_record_found_no_room() {
    let (cluster, worker) = stopped_and_dropping();
    let mut client = cluster.app();
    let filler = "x".repeat(20_000);
    for _ in 0..60 {
        client
            .batch_execute(&format!("SELECT '{filler}'"))
            .expect("reads go on");
    }
    let refused = client
        .batch_execute(&format!("INSERT INTO t VALUES (1) -- {filler}"))
        .expect_err("refused");
    assert!(refused.to_string().contains("db error"), "{refused}");
    assert!(kill(worker, "CONT"));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(cluster.query("app", "SELECT count(*) FROM t"), ["0"]);
}

#[test]
fn a_repeat_is_whole_whose_original_nobody_had_to_sync() {
    let (builder, synced) = watched("'commit'");
    let cluster = builder.start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    let mut client = cluster.app();
    let mut run = |sql: &str| client.batch_execute(sql).expect("works");
    run("INSERT INTO t VALUES (1)");
    // Read only: no sync. Then its record is in the trail, and needs none either.
    run("SELECT n FROM t");
    run("SELECT n FROM t");
    cluster.flush();
    cluster.suspend_worker();
    run("BEGIN");
    run("SELECT n FROM t");
    run("INSERT INTO t VALUES (2)");
    run("COMMIT");
    lose_the_operating_system(&cluster, &synced);
    let reads = "command = 'SELECT' AND statement = 'SELECT n FROM t' AND relations = '{public.t}'";
    assert_eq!(
        cluster.trail("transaction_outcome", reads),
        ["committed"; 3]
    );
    let _ = fs::remove_file(&synced);
}
