//! Processes killed in the middle of what changes the trail: it stays whole, and the next one finishes.

use super::erase::{erase, files_with, seq_of};
use super::{assert_whole, some_work, unlocked};
use audit_cluster_tests::{Cluster, eventually};
use std::thread;
use std::time::Duration;

/// The pid of a process of the extension.
fn process(cluster: &Cluster, name: &str) -> Option<u32> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = 'audit_ext {name}'");
    let found = cluster.query("postgres", &sql);
    found.first().map(|pid| pid.parse().expect("a pid"))
}

/// The process that erases dies between its UPDATE, which is committed, and the overwriting of what
/// that left in the files.
#[test]
fn an_erasure_that_was_killed_half_way_is_finished_by_the_next() {
    let cluster = Cluster::builder().durable().start();
    cluster.psql().run("SELECT 'dromedary'").ok();
    let seq = seq_of(&cluster, "statement LIKE '%dromedary%'");
    // A cursor keeps the event's page in use: the overwriting waits for that.
    let mut reader = cluster.connect("postgres", "postgres");
    reader
        .batch_execute(&format!(
            "BEGIN; DECLARE c CURSOR FOR SELECT * FROM audit.event WHERE seq = {seq}; FETCH c"
        ))
        .expect("reads");
    thread::scope(|scope| {
        let calls = scope.spawn(|| {
            let mut client = unlocked(&cluster);
            client.batch_execute(&format!("SELECT audit.erase({seq}, '{{statement}}', 'r')"))
        });
        eventually("the value is gone from the table", || {
            let text = format!("SELECT coalesce(statement, '-') FROM audit.log WHERE seq = {seq}");
            cluster.value(&text) == "-"
        });
        let pid = process(&cluster, "erase").expect("it waits for the page");
        assert!(cluster.kill_child(pid));
        calls
            .join()
            .expect("ends")
            .expect_err("the server restarts");
    });
    drop(reader);
    eventually("the worker runs", || cluster.worker_pid().is_some());
    // Nothing is left to be taken away from the table; what is left in the files is (unless somebody
    // has read the page since, and it was cleaned up on the way).
    if !files_with(&cluster, "SELECT 'dromedary").is_empty() {
        assert_eq!(erase(&cluster, seq, "{statement}"), "0");
    }
    let left = files_with(&cluster, "SELECT 'dromedary");
    assert!(left.is_empty(), "{left:?}");
    assert_whole(&cluster);
}

/// The worker dies when a checkpoint is in the file and not yet in the table.
#[test]
fn a_checkpoint_that_was_killed_half_way_changes_nothing() {
    let cluster = Cluster::builder()
        .durable()
        .setting("audit.checkpoint_interval", "'1s'")
        .start();
    some_work(&cluster);
    let file = cluster.data_dir().join("pg_audit/checkpoints");
    let published = || std::fs::read_to_string(&file).map_or(0, |all| all.matches('—').count());
    let mut blocker = unlocked(&cluster);
    blocker
        .batch_execute("BEGIN; LOCK TABLE audit.checkpoint IN SHARE MODE")
        .expect("locks");
    let before = published();
    let in_table = cluster.value("SELECT count(*) FROM audit.checkpoint");
    cluster.psql().run("SELECT 'one more'").ok();
    eventually("a checkpoint is in the file", || published() > before);
    let worker = cluster.worker_pid().expect("it waits for the table");
    assert_eq!(
        cluster.value("SELECT count(*) FROM audit.checkpoint"),
        in_table
    );
    assert!(cluster.kill_child(worker));
    drop(blocker);
    eventually("the worker runs", || cluster.worker_pid().is_some());
    cluster.psql().run("SELECT 'goes on'").ok();
    assert_whole(&cluster);
    assert_eq!(cluster.count("statement LIKE '%one more%'"), 1);
    eventually("checkpoints go on", || {
        cluster.value("SELECT count(*) FROM audit.checkpoint") != in_table
    });
    assert_whole(&cluster);
}

/// Autovacuum, as eager as it can be, on all tables of the trail while it grows.
#[test]
fn autovacuum_at_work_on_the_trail_disturbs_nothing() {
    let cluster = Cluster::builder()
        .setting("autovacuum_naptime", "'1s'")
        .setting("autovacuum_vacuum_threshold", "0")
        .setting("autovacuum_vacuum_scale_factor", "0")
        .setting("autovacuum_analyze_threshold", "1")
        .setting("autovacuum_analyze_scale_factor", "0")
        .setting("autovacuum_vacuum_cost_delay", "0")
        .start();
    let seq = {
        cluster.psql().run("SELECT 'dromedary'").ok();
        seq_of(&cluster, "statement LIKE '%dromedary%'")
    };
    // A dead row, and rows that come.
    erase(&cluster, seq, "{statement}");
    let done = || {
        cluster.value(
            "SELECT count(*) FILTER (WHERE autovacuum_count > 0) > 0 AND sum(autoanalyze_count) > 2
             FROM pg_stat_all_tables WHERE schemaname = 'audit'",
        ) == "t"
    };
    audit_cluster_tests::wait_until("autovacuum was there", Duration::from_secs(60), || {
        cluster
            .psql()
            .run("DO $$ BEGIN FOR i IN 1 .. 300 LOOP EXECUTE 'SELECT ' || i; END LOOP; END $$")
            .ok();
        cluster.flush();
        done()
    });
    assert_whole(&cluster);
    assert!(
        !cluster.log().contains("cannot store events"),
        "{}",
        cluster.log()
    );
    // ANALYZE kept no sample of what can be erased.
    assert_eq!(
        cluster.value(
            "SELECT count(*) FROM pg_stats WHERE schemaname = 'audit' AND tablename ~ '^(event|session|statement)' AND attname IN ('text', 'error', 'parameters', 'details', 'context', 'salt')"
        ),
        "0"
    );
}
