//! One `audit.ring_directory` that two servers are given, as where a copy of a server keeps an absolute path: it is
//! the first one's, and the second says so.

use audit_cluster_tests::{Cluster, Shutdown, kill};

use crate::assert_mentions;
use crate::inflight::pid;
use crate::load::check_order;

/// A copy of a server that has the original's directory.
fn second(first: &Cluster) -> Cluster {
    let second = first.base_backup(false);
    second.configure(
        "audit.ring_directory",
        &format!("'{}'", first.data_dir().join("pg_audit").display()),
    );
    second
}

/// It runs unrecorded, and says why.
#[track_caller]
fn refused(second: &Cluster) {
    assert_mentions(
        &second.log(),
        &[
            "cannot make its ring",
            "another server uses it",
            "HINT:  Give each server an audit.ring_directory of its own, and restart.",
        ],
    );
    assert_eq!(second.query("app", "SELECT 1"), ["1"]);
    assert_eq!(
        second.value(
            "SELECT last_error LIKE '%another server uses it%' AND ring_size IS NULL FROM audit.status"
        ),
        "t"
    );
    let commit = "SET audit.durability = 'commit'; CREATE TABLE refused ()";
    assert_mentions(&second.psql().run(commit).error(), &["has no ring"]);
}

#[track_caller]
fn records(first: &Cluster, word: &str) {
    first.psql().run(format!("SELECT '{word}'")).ok();
    assert_eq!(first.count(&format!("statement ~ '''{word}'''")), 1);
}

#[test]
fn a_second_server_leaves_the_ring_of_the_first_alone() {
    let first = Cluster::builder().durable().start();
    let second = second(&first);
    let directory = first.data_dir().join("pg_audit");
    records(&first, "before");
    second.start_again();
    refused(&second);
    records(&first, "beside it");
    // A crash restart of either changes nothing.
    for (server, word) in [(&first, "first"), (&second, "second")] {
        let mut client = server.app();
        let pid = pid(&mut client);
        assert!(server.kill_child(pid));
        records(&first, word);
        refused(&second);
    }
    // A stop of the second notes nothing in the place of the first.
    second.stop(Shutdown::Fast);
    assert!(!directory.join("stopped_at").exists());
    second.start_again();
    refused(&second);
    records(&first, "to the end");
    assert_eq!(first.count("command = 'GAP'"), 0);
    check_order(&first);
    crate::integrity::assert_whole(&first);
}

/// Nothing is left of a server that was killed that would keep anybody from the directory.
#[test]
fn a_killed_server_keeps_nobody_from_its_directory() {
    let first = Cluster::builder().durable().start();
    let second = second(&first);
    records(&first, "before");
    // A child that doesn't notice lives on.
    let mut client = first.app();
    let stopped = pid(&mut client);
    assert!(kill(stopped, "STOP"));
    assert!(kill(first.postmaster_pid(), "KILL"));
    second.start_again();
    second.stop(Shutdown::Immediate);
    let log = second.log();
    assert!(!log.contains("another server uses it"), "{log}");
    assert!(kill(stopped, "KILL"));
    first.kill_postmaster();
    first.start_again();
    records(&first, "again");
}
