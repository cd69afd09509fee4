//! Stops, kills and crashes under load: nothing acknowledged is lost, nothing is stored twice.

use std::thread;
use std::time::Duration;

use audit_cluster_tests::{Cluster, Shutdown, children, eventually, kill};

use crate::load::{Load, check_order};

#[test]
fn fast_and_immediate_restarts_under_load() {
    let cluster = Cluster::builder().durable().start();
    let load = Load::during(&cluster, |load| {
        for how in [Shutdown::Fast, Shutdown::Immediate, Shutdown::Fast] {
            cluster.restart(how);
            load.more(200);
        }
    });
    load.check(&cluster);
}

#[test]
fn a_killed_postmaster_under_load() {
    let cluster = Cluster::builder().durable().start();
    let load = Load::during(&cluster, |load| {
        for _ in 0..2 {
            cluster.kill_postmaster();
            cluster.start_again();
            load.more(200);
        }
    });
    load.check(&cluster);
}

#[test]
fn a_killed_backend_under_load() {
    let cluster = Cluster::builder().durable().start();
    let load = Load::during(&cluster, |load| {
        for _ in 0..2 {
            // Crash-restart: everybody is thrown out, shared memory is made anew.
            let victim = cluster
                .query(
                    "postgres",
                    "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND query LIKE '%/* n%' LIMIT 1",
                )
                .pop()
                .expect("a client of the load");
            assert!(kill(victim.parse().expect("a pid"), "KILL"));
            thread::sleep(Duration::from_millis(200));
            load.more(200);
        }
    });
    load.check(&cluster);
}

#[test]
fn a_killed_worker_under_load() {
    let cluster = Cluster::builder().durable().start();
    let load = Load::during(&cluster, |load| {
        for _ in 0..2 {
            eventually("the worker runs", || cluster.worker_pid().is_some());
            assert!(kill(cluster.worker_pid().expect("runs"), "KILL"));
            thread::sleep(Duration::from_millis(200));
            load.more(200);
        }
    });
    load.check(&cluster);
}

#[test]
fn a_terminated_worker_under_load_comes_back() {
    let cluster = Cluster::start();
    let load = Load::during(&cluster, |load| {
        for _ in 0..3 {
            eventually("the worker runs", || cluster.worker_pid().is_some());
            let old = cluster.worker_pid().expect("runs");
            assert_eq!(
                cluster.value(&format!("SELECT pg_terminate_backend({old})")),
                "t"
            );
            load.more(200);
            eventually("another worker runs", || {
                cluster.worker_pid().is_some_and(|new| new != old)
            });
        }
    });
    load.check(&cluster);
}

#[test]
fn nothing_is_stored_twice_when_the_commit_of_the_worker_is_not_durable() {
    let cluster = Cluster::builder()
        .durable()
        .setting("synchronous_commit", "off")
        .start();
    cluster
        .psql()
        .db("postgres")
        .run("ALTER DATABASE postgres SET synchronous_commit = off")
        .ok();
    cluster.psql().run("CREATE TABLE load (n int)").ok();
    let mut client = cluster.app();
    // The numbers themselves may be lost with synchronous_commit off: their records may not.
    client
        .batch_execute("SET synchronous_commit = on")
        .expect("sets");
    for n in 0..500 {
        client
            .batch_execute(&format!("/* n{n} */ INSERT INTO load VALUES ({n})"))
            .expect("inserts");
    }
    cluster.flush();
    for pid in children(cluster.postmaster_pid()) {
        kill(pid, "KILL");
    }
    cluster.kill_postmaster();
    cluster.start_again();
    let written: Vec<_> = (0..500)
        .map(|n| format!("/* n{n} */ INSERT INTO load VALUES ({n})"))
        .collect();
    assert_eq!(cluster.trail("statement", "command = 'INSERT'"), written);
    check_order(&cluster);
}

#[test]
fn what_is_in_the_ring_at_a_stop_is_in_the_trail_after_the_start() {
    let cluster = Cluster::builder().durable().start();
    cluster.flush();
    // A worker that can't drain: everything stays in the file.
    let worker = cluster.worker_pid().expect("runs");
    assert!(kill(worker, "STOP"));
    for n in 0..200 {
        cluster
            .psql()
            .run(format!("SELECT {n} /* in the ring */"))
            .ok();
    }
    let everybody = children(cluster.postmaster_pid());
    for pid in everybody {
        kill(pid, "KILL");
    }
    cluster.kill_postmaster();
    cluster.start_again();
    assert_eq!(cluster.count("statement LIKE '%in the ring%'"), 200);
    check_order(&cluster);
}
