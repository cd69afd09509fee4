//! What the worker tells of once (how the server had stopped, a new key, a ring that can't be read): in
//! the trail, whenever the worker dies, and not twice.

use audit_cluster_tests::{Cluster, Shutdown, eventually};
use std::fs;

use crate::integrity::assert_whole;

const HOME: &str = "postgres";

/// From here on nothing can be stored, whoever starts: a prepared transaction has locked the partitions.
pub fn lock(cluster: &Cluster) {
    eventually("the trail has begun", || {
        !rows(cluster, "seq", "KEY").is_empty()
    });
    let periods = cluster.query(HOME, "SELECT suffix FROM audit.period");
    let partitions: Vec<_> = periods
        .iter()
        .map(|suffix| format!("audit.batch_{suffix}"))
        .collect();
    cluster
        .psql()
        .db(HOME)
        .run(format!(
            "SELECT audit.unlock('to lock them'); BEGIN; LOCK TABLE {} IN EXCLUSIVE MODE; PREPARE TRANSACTION 'x'",
            partitions.join(", ")
        ))
        .ok();
}

pub fn unlock(cluster: &Cluster) {
    cluster.psql().db(HOME).run("COMMIT PREPARED 'x'").ok();
}

fn rows(cluster: &Cluster, columns: &str, command: &str) -> Vec<String> {
    cluster.trail_of(columns, &format!("command = '{command}'"))
}

/// START, GAP and KEY events, each with what matters here.
fn told(cluster: &Cluster) -> Vec<String> {
    let columns = "command, coalesce(details ->> 'last_stop', details ->> 'previous', \
                   substring(details ->> 'reason' FROM 'it begins.*'))";
    cluster.trail_of(columns, "command IN ('START', 'GAP', 'KEY')")
}

#[test]
fn what_a_worker_could_not_store_the_next_one_tells() {
    let cluster = Cluster::builder()
        .durable()
        .setting("audit.level", "'none'")
        .setting("max_prepared_transactions", "2")
        .start();
    let audit = cluster.data_dir().join("pg_audit");
    let file = |name: &str| audit.join(name);
    lock(&cluster);
    let old_key = cluster.value("SELECT details ->> 'key' FROM audit.log WHERE command = 'KEY'");
    let old_key_file = fs::read(file("key")).expect("a key");
    cluster.stop(Shutdown::Fast);
    let ring = fs::read(file("ring")).expect("a ring");
    let mut damaged = ring;
    damaged[..8].copy_from_slice(b"nonsense");
    fs::write(file("ring"), damaged).expect("writes");
    // As on a copy: this node is to have its own key.
    cluster.configure("audit.branch", "'preview'");
    let worker = || cluster.worker_pid().expect("the worker runs");
    let fails_after = |what: &dyn Fn()| {
        let failures = || cluster.log().matches("cannot store events").count();
        let before = failures();
        what();
        eventually("the worker fails", || failures() > before);
    };
    fails_after(&|| cluster.start_again());
    fails_after(&|| {
        cluster.value(&format!("SELECT pg_terminate_backend({})", worker()));
    });
    // Shared memory is made anew.
    fails_after(&|| assert!(cluster.kill_child(worker())));
    unlock(&cluster);
    eventually("all is stored", || told(&cluster).len() > 2);
    let mut expected = vec![
        "START | ~".into(),
        "KEY | ~".into(),
        "START | clean".into(),
        format!("KEY | {old_key}"),
        "GAP | it begins with \"nonsense\"".into(),
    ];
    assert_eq!(told(&cluster), expected);
    eventually("the ring is set aside", || {
        file("ring.1.old.unreadable").exists()
    });
    assert!(!file("last_stop").exists() && !file("key.new").exists());

    // A worker that died right after the commit, before it did what follows.
    let new_key_file = fs::read(file("key")).expect("a key");
    assert_ne!(new_key_file, old_key_file);
    fs::write(file("key.new"), &new_key_file).expect("writes");
    fs::write(file("key"), &old_key_file).expect("writes");
    for name in ["key", "key.new"] {
        own(&file(name), &file("ring"));
    }
    fs::write(file("last_stop"), "2 0 0\n").expect("writes");
    own(&file("last_stop"), &file("ring"));
    fs::rename(file("ring.1.old.unreadable"), file("ring.1.old")).expect("renames");
    assert!(cluster.kill_child(worker()));
    eventually("all is stored", || told(&cluster).len() > expected.len());
    expected.push("START | ~".into());
    assert_eq!(told(&cluster), expected);
    assert!(file("ring.1.old.unreadable").exists());
    assert!(!file("last_stop").exists() && !file("key.new").exists());
    assert_eq!(fs::read(file("key")).expect("a key"), new_key_file);
    assert_whole(&cluster);
}

/// The server's user may be another than the test's.
fn own(file: &std::path::Path, like: &std::path::Path) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let owner = fs::metadata(like).expect("there");
    chown(file, Some(owner.uid()), Some(owner.gid())).expect("chown");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("chmod");
}

/// A run without the library is told of although the server crashed before it could be.
#[test]
fn a_crash_does_not_hide_a_run_without_the_library() {
    let cluster = Cluster::builder()
        .durable()
        .setting("max_prepared_transactions", "2")
        .start();
    lock(&cluster);
    cluster.without_library(|| {
        cluster.query("app", "CREATE TABLE unseen (x int)");
    });
    cluster.kill_postmaster();
    cluster.start_again();
    unlock(&cluster);
    let starts = rows(
        &cluster,
        "details ->> 'last_stop', details ? 'wal_without_library'",
        "START",
    );
    assert_eq!(starts, ["~ | f", "crash | t"]);
}
