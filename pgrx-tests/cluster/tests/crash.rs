//! Stops, kills and crashes under load: nothing acknowledged is lost, nothing is stored twice.

use std::time::Instant;

use audit_cluster_tests::{Cluster, Shutdown, eventually};

use crate::load::{Load, check_order};
use crate::soak::{a_while, mixed_run, random, series};

#[test]
fn shutdowns_under_load() {
    series(1, |faults| {
        let cluster = Cluster::builder().durable().start();
        let load = Load::during(&cluster, |_| ());
        for _ in 0..faults {
            load.go_on(&cluster, |load| {
                for how in [Shutdown::Fast, Shutdown::Immediate] {
                    a_while(300);
                    cluster.restart(how);
                    load.more(50);
                }
            });
            // Smart: it waits for the clients, so they have to be gone.
            cluster.restart(Shutdown::Smart);
        }
        load.check(&cluster);
    });
}

#[test]
fn a_killed_postmaster_under_load() {
    series(2, |faults| {
        let cluster = Cluster::builder().durable().start();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                a_while(300);
                cluster.kill_postmaster();
                cluster.start_again();
                load.more(50);
            }
        });
        load.check(&cluster);
    });
}

#[test]
fn a_killed_backend_under_load() {
    series(2, |faults| {
        let cluster = Cluster::builder().durable().start();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                a_while(300);
                kill_a_client(&cluster);
                load.more(50);
            }
        });
        load.check(&cluster);
    });
}

/// Crash restart: everybody is thrown out, shared memory is made anew.
fn kill_a_client(cluster: &Cluster) {
    let victims = "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND backend_type = 'client backend'";
    let mut pids = cluster.query("postgres", victims);
    if !pids.is_empty() {
        let pid = pids.swap_remove(random(pids.len() as u64) as usize);
        cluster.kill_child(pid.parse().expect("a pid"));
    }
}

#[test]
fn a_killed_worker_under_load() {
    series(2, |faults| {
        let cluster = Cluster::builder().durable().start();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                a_while(300);
                eventually("the worker runs", || cluster.worker_pid().is_some());
                cluster.kill_child(cluster.worker_pid().expect("runs"));
                load.more(50);
            }
        });
        load.check(&cluster);
    });
}

#[test]
fn a_terminated_worker_under_load_comes_back() {
    series(3, |faults| {
        let cluster = Cluster::start();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                eventually("the worker runs", || cluster.worker_pid().is_some());
                a_while(100);
                let old = cluster.worker_pid().expect("runs");
                assert_eq!(
                    cluster.value(&format!("SELECT pg_terminate_backend({old})")),
                    "t"
                );
                load.more(50);
                eventually("another worker runs", || {
                    cluster.worker_pid().is_some_and(|new| new != old)
                });
            }
        });
        load.check(&cluster);
    });
}

#[test]
fn a_mixed_run_of_kills() {
    let cluster = Cluster::builder().durable().start();
    let end = Instant::now() + mixed_run();
    let load = Load::during(&cluster, |load| {
        while Instant::now() < end {
            a_while(1500);
            match random(4) {
                0 => {
                    cluster.kill_postmaster();
                    cluster.start_again();
                }
                1 => {
                    if let Some(worker) = cluster.worker_pid() {
                        cluster.kill_child(worker);
                    }
                }
                _ => kill_a_client(&cluster),
            }
            load.more(10);
        }
    });
    load.check(&cluster);
}

/// A server whose commits, by everybody's settings, reach the disk only after a while.
fn asynchronous() -> Cluster {
    let cluster = Cluster::builder()
        .durable()
        .setting("synchronous_commit", "off")
        .start();
    cluster
        .psql()
        .db("postgres")
        .run("ALTER DATABASE postgres SET synchronous_commit = off; ALTER ROLE postgres SET synchronous_commit = off; ALTER SYSTEM SET synchronous_commit = off")
        .ok();
    cluster.psql().run("CREATE TABLE load (n int)").ok();
    cluster
}

fn numbered(n: u32) -> String {
    format!("/* n{n} */ INSERT INTO load VALUES ({n})")
}

/// Everything dies at once, and starts again: each of the first `count` numbers is on record once.
#[track_caller]
fn kill_all_and_find(cluster: &Cluster, count: u32) {
    cluster.kill_all();
    cluster.start_again();
    let written: Vec<_> = (0..count).map(numbered).collect();
    assert_eq!(cluster.trail("statement", "command = 'INSERT'"), written);
    check_order(cluster);
}

#[test]
fn asynchronous_commits_of_everybody_and_a_kill() {
    series(1, |faults| {
        // Rows may be lost that were acknowledged: what users asked for. Their records must not, nor
        // must any come twice.
        let cluster = asynchronous();
        for fault in 0..faults as u32 {
            let mut client = cluster.app();
            for n in 0..300 {
                let insert = numbered(fault * 300 + n);
                client.batch_execute(&insert).expect("inserts");
            }
            a_while(300);
            kill_all_and_find(&cluster, (fault + 1) * 300);
        }
    });
}

#[test]
fn nothing_is_stored_twice_when_the_commit_of_the_worker_is_not_durable() {
    let cluster = asynchronous();
    let mut client = cluster.app();
    client
        .batch_execute("SET synchronous_commit = on")
        .expect("sets");
    for n in 0..500 {
        client.batch_execute(&numbered(n)).expect("inserts");
    }
    cluster.flush();
    kill_all_and_find(&cluster, 500);
}

#[test]
fn what_is_in_the_ring_at_a_stop_is_in_the_trail_after_the_start() {
    let cluster = Cluster::builder().durable().start();
    // A worker that can't drain: everything stays in the file.
    cluster.suspend_worker();
    for n in 0..200 {
        cluster
            .psql()
            .run(format!("SELECT {n} /* in the ring */"))
            .ok();
    }
    cluster.kill_all();
    cluster.start_again();
    assert_eq!(cluster.count("statement LIKE '%in the ring%'"), 200);
    check_order(&cluster);
}
