//! `audit.durability = commit`, where a transaction has no record of its own that its commit could wait for.

use std::fs;

use audit_cluster_tests::kill;

use crate::durability::{lose_the_operating_system, stopped_and_dropping, watched};

#[test]
fn what_found_no_room_at_the_end_of_a_transaction_is_not_the_next_one_s() {
    let (cluster, worker) = stopped_and_dropping();
    let mut client = cluster.app();
    let mut run = |sql: &str| client.batch_execute(sql).expect("is not refused");
    let filler = "x".repeat(20_000);
    for _ in 0..60 {
        run(&format!("SELECT '{filler}'"));
    }
    assert!(kill(worker, "CONT"));
    cluster.flush();
    let gaps = cluster.trail_of("seq", "command = 'GAP'");
    assert!(!gaps.is_empty(), "some were dropped");
    run("INSERT INTO t VALUES (1)");
}

#[test]
fn a_setting_is_on_disk_before_a_commit_that_it_leaves_out() {
    let (builder, synced) = watched("'commit'");
    let cluster = builder.start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    cluster.flush();
    cluster.suspend_worker();
    let mut client = cluster.app();
    for sql in [
        "SET audit.level = 'ddl'",
        "SELECT set_config('audit.parameters', 'on', false), lo_create(0)",
        "SET audit.level = 'none'",
        "INSERT INTO t VALUES (1)",
    ] {
        client.batch_execute(sql).expect(sql);
    }
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(cluster.query("app", "SELECT n FROM t"), ["1"]);
    assert_eq!(
        cluster.trail_of(
            "details->>'setting', details->>'new'",
            "command = 'SETTING' AND database_name = 'app'"
        ),
        [
            "audit.level | ddl",
            "audit.parameters | on",
            "audit.level | none"
        ]
    );
    let _ = fs::remove_file(&synced);
}

#[test]
fn commit_prepared_that_is_left_out_waits_for_what_it_commits() {
    let (builder, synced) = watched("'commit'");
    let cluster = builder.setting("max_prepared_transactions", "2").start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    cluster.flush();
    cluster.suspend_worker();
    let mut hasty = cluster.app();
    let mut careful = cluster.app();
    hasty
        .batch_execute("SET audit.durability = 'async'; BEGIN; INSERT INTO t VALUES (1)")
        .expect("writes");
    hasty
        .batch_execute("PREPARE TRANSACTION 'x'")
        .expect("prepares");
    for sql in ["SET audit.level = 'write'", "COMMIT PREPARED 'x'"] {
        careful.batch_execute(sql).expect(sql);
    }
    lose_the_operating_system(&cluster, &synced);
    assert_eq!(cluster.query("app", "SELECT n FROM t"), ["1"]);
    assert_eq!(
        cluster.trail("statement", "command = 'INSERT'"),
        ["INSERT INTO t VALUES (1)"]
    );
    let _ = fs::remove_file(&synced);
}
