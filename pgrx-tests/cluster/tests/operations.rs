//! What else a database administrator meets: processes killed in groups or stopped for a while, a
//! server without free connections or worker slots, a database that goes while its records wait, a
//! clock that is set back.

use std::thread;
use std::time::Duration;

use audit_cluster_tests::{Cluster, Shutdown, children, eventually, kill, server};
use postgres::NoTls;

use crate::assert_mentions;
use crate::full::with_the_trail_locked;
use crate::load::{Load, check_event_numbers, check_order};
use crate::shim::{Clock, library};
use crate::soak::{a_while, random, rounds, series};

fn client_backends(cluster: &Cluster) -> Vec<u32> {
    cluster
        .query(
            "postgres",
            "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND backend_type = 'client backend'",
        )
        .iter()
        .map(|pid| pid.parse().expect("a pid"))
        .collect()
}

#[test]
fn processes_killed_in_groups_as_for_want_of_memory() {
    series(2, |faults| {
        let cluster = Cluster::builder().durable().start();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                a_while(300);
                let ready = || {
                    cluster
                        .log()
                        .matches("is ready to accept connections")
                        .count()
                };
                let before = ready();
                // Any of them, and one at least: backends, the worker, the checkpointer ...
                let mut all = children(cluster.postmaster_pid());
                all.retain(|_| random(2) == 0);
                all.extend(cluster.worker_pid());
                for pid in all {
                    kill(pid, "KILL");
                }
                eventually("the crash restart is over", || ready() > before);
                load.more(50);
            }
        });
        load.check(&cluster);
    });
}

#[test]
fn a_backend_that_is_stopped_for_a_while_delays_and_loses_nothing() {
    series(4, |faults| {
        let cluster = Cluster::start();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                let mut backends = client_backends(&cluster);
                let victim = backends.swap_remove(random(backends.len() as u64) as usize);
                // Wherever it is: between reserving a record and publishing it, too.
                kill(victim, "STOP");
                thread::sleep(Duration::from_millis(100));
                a_while(200);
                kill(victim, "CONT");
                load.more(10);
            }
        });
        load.check(&cluster);
        assert_eq!(
            cluster.trail_of("details", "command = 'GAP'"),
            Vec::<String>::new()
        );
    });
}

#[test]
fn without_a_worker_slot_records_wait_for_a_server_that_has_one() {
    let cluster = Cluster::start();
    cluster.flush();
    // The server's own launcher of logical replication takes the only one.
    cluster.configure("max_worker_processes", "1");
    cluster.restart(Shutdown::Fast);
    for n in 0..50 {
        cluster.psql().run(format!("SELECT {n} AS kept")).ok();
    }
    assert_mentions(&cluster.log(), &["too many background workers"]);
    assert_eq!(
        cluster.value("SELECT worker_pid IS NULL AND ring_fill > 0 FROM audit.status"),
        "t"
    );
    cluster.configure("max_worker_processes", "8");
    cluster.restart(Shutdown::Fast);
    assert_eq!(cluster.count("statement LIKE 'SELECT % AS kept'"), 50);
    check_event_numbers(&cluster, "true");
    check_order(&cluster);
}

#[test]
fn sessions_for_whom_there_is_no_slot_are_counted_and_recorded() {
    // Twice seven slots (on 18 eight), and nobody who tells of the dead and gives theirs back.
    let mut builder = Cluster::builder();
    if server().major >= 18 {
        builder = builder.setting("autovacuum_worker_slots", "1");
    }
    let cluster = builder
        .durable()
        .setting("max_connections", "4")
        .setting("superuser_reserved_connections", "0")
        .setting("max_wal_senders", "0")
        .setting("autovacuum_max_workers", "1")
        .setting("max_worker_processes", "1")
        .start();
    for _ in 0..4 {
        let mut sessions: Vec<_> = (0..4).map(|_| cluster.app()).collect();
        for client in &mut sessions {
            client.batch_execute("SELECT 'one more'").expect("selects");
        }
        let pid: i32 = sessions[0]
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("a pid")
            .get(0);
        assert!(cluster.kill_child(pid as u32));
    }
    let mut sessions: Vec<_> = (0..3).map(|_| cluster.app()).collect();
    for client in &mut sessions {
        client.batch_execute("SELECT 'one more'").expect("selects");
    }
    assert_eq!(
        cluster.value("SELECT unprotected >= 3 FROM audit.status"),
        "t"
    );
    cluster.configure("max_worker_processes", "8");
    cluster.restart(Shutdown::Fast);
    assert_eq!(cluster.count("statement = 'SELECT ''one more'''"), 19);
    check_order(&cluster);
}

#[test]
fn without_a_free_connection_the_worker_works_and_who_was_turned_away_is_on_record() {
    let cluster = Cluster::builder()
        .setting("max_connections", "6")
        .setting("superuser_reserved_connections", "0")
        .start();
    cluster.psql().run("CREATE ROLE many LOGIN").ok();
    let mut taken = Vec::new();
    let refused = loop {
        match cluster.config("many", "app").connect(NoTls) {
            Ok(client) => taken.push(client),
            Err(error) => break error,
        }
    };
    assert_eq!(
        refused.code().map(|code| code.code()),
        Some("53300"),
        "{refused:?}"
    );
    for client in &mut taken {
        client
            .batch_execute("SELECT 'one of many'")
            .expect("selects");
    }
    let connected = taken.len();
    drop(taken);
    eventually("there is room", || {
        cluster
            .config("postgres", "postgres")
            .connect(NoTls)
            .is_ok()
    });
    assert!(cluster.count("statement = 'SELECT ''one of many'''") >= 4);
    assert_eq!(
        cluster.trail_of(
            "command, outcome, sqlstate, user_name, database_name",
            "class = 'SESSION' AND outcome = 'failed'"
        ),
        ["AUTHENTICATE | failed | 53300 | many | app"]
    );
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT ended, ended_at IS NOT NULL, count(*) FROM audit.sessions WHERE user_name = 'many' \
             GROUP BY 1, 2 ORDER BY 3"
        ),
        ["refused | t | 1".to_string(), format!("disconnected | t | {connected}")]
    );
    check_event_numbers(&cluster, "user_name = 'many'");
}

#[test]
fn a_database_that_is_dropped_while_its_records_wait() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE DATABASE other").ok();
    cluster.flush();
    let mut other = with_the_trail_locked(&cluster);
    for n in 0..50 {
        let sql = format!("CREATE TABLE t{n} (x int)");
        cluster.psql().db("other").run(&sql).ok();
    }
    cluster.psql().run("DROP DATABASE other").ok();
    other.batch_execute("COMMIT").expect("ends");
    cluster.flush();
    assert_eq!(
        cluster.value("SELECT count(DISTINCT relations) FROM audit.log WHERE database_name = 'other' AND command = 'CREATE TABLE'"),
        "50"
    );
    check_order(&cluster);
}

#[test]
fn a_standby_that_is_promoted_as_it_starts() {
    rounds(1, || {
        let primary = Cluster::builder().durable().start();
        let load = Load::during(&primary, |load| load.more(50));
        primary.flush();
        let standby = primary.base_backup(true);
        primary.stop(Shutdown::Fast);
        standby.start_again();
        a_while(50);
        assert_eq!(standby.value("SELECT pg_promote()"), "t");
        load.go_on(&standby, |load| load.more(100));
        load.check(&standby);
    });
}

#[test]
fn a_clock_that_is_set_back_is_on_record_and_changes_no_order() {
    let clock = Clock::new();
    let cluster = clock.of(Cluster::builder().durable()).start();
    cluster.flush();
    let load = Load::during(&cluster, |load| {
        for ahead in [-3600, -7200] {
            clock.set_ahead(ahead);
            load.more(100);
            cluster.flush();
        }
        // Also for a worker that was not there.
        cluster.stop(Shutdown::Fast);
        clock.set_ahead(-10_000);
        cluster.start_again();
        load.more(100);
    });
    load.check(&cluster);
    assert_eq!(
        cluster.trail_of(
            "command, round((details->>'seconds')::numeric / 100)",
            "command = 'CLOCK'"
        ),
        ["CLOCK | 36", "CLOCK | 36", "CLOCK | 100"]
    );
    assert_eq!(
        cluster.query("postgres", "SELECT * FROM audit.verify()"),
        Vec::<String>::new()
    );
}

/// What a process runs before somebody else's turn, in nanoseconds; `None` where all have the same (Linux
/// before 6.12).
fn turn(pid: u32) -> Option<u64> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(6), Some(12)) {
        return None;
    }
    let told = std::fs::read_to_string(format!("/proc/{pid}/sched")).ok()?;
    let line = told.lines().find(|line| line.starts_with("se.slice"))?;
    line.split(':').nth(1)?.trim().parse().ok()
}

#[test]
fn the_worker_lets_statements_go_first() {
    let cluster = Cluster::start();
    eventually("the worker runs", || cluster.worker_pid().is_some());
    let worker = cluster.worker_pid().expect("a worker");
    let Some(sessions) = turn(cluster.postmaster_pid()) else {
        return; // Nothing to be told apart.
    };
    eventually("the worker's turns are the longest there are", || {
        turn(worker) == Some(100_000_000)
    });
    assert!(sessions < 100_000_000, "{sessions}");
    let mut client = cluster.connect("postgres", "app");
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    assert_eq!(turn(pid as u32), Some(sessions), "a session's are as ever");
}

#[test]
fn where_the_system_is_closed_to_it_the_worker_asks_for_nothing() {
    let cluster = Cluster::builder()
        .env("LD_PRELOAD", &library("filtered"))
        .start();
    eventually("the worker runs", || cluster.worker_pid().is_some());
    let worker = cluster.worker_pid().expect("a worker");
    let sessions = turn(cluster.postmaster_pid());
    assert_eq!(turn(worker), sessions);
    cluster.query("app", "SELECT 'in a closed house'");
    cluster.flush();
    assert_eq!(cluster.worker_pid(), Some(worker), "it lives on");
    assert!(!cluster.log().contains("terminated by signal"));
}
