//! Faults while the worker makes up for earlier ones, or changes the trail's partitions.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use audit_cluster_tests::{Cluster, Shutdown, eventually, kill, wait_until};
use postgres::NoTls;

use crate::load::{Load, check_event_numbers, check_order};
use crate::shim::Clock;
use crate::soak::{a_while, random, rounds, series};

/// Rings that are still to be drained.
fn left_over(cluster: &Cluster) -> Vec<PathBuf> {
    fs::read_dir(cluster.data_dir().join("pg_audit"))
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".old"))
        .collect()
}

/// A process of the extension, whichever: the worker, or the one that closes and drops periods.
fn some_worker(cluster: &Cluster) -> Option<u32> {
    let mut client = cluster.config("postgres", "postgres").connect(NoTls).ok()?;
    let rows = client
        .query(
            "SELECT pid FROM pg_stat_activity WHERE backend_type ~ 'audit'",
            &[],
        )
        .ok()?;
    let row = rows.get(random(rows.len() as u64) as usize)?;
    Some(row.get::<_, i32>(0) as u32)
}

const RECORDS: usize = 20_000;

#[test]
fn a_replay_that_is_interrupted_again_and_again() {
    rounds(1, || {
        let cluster = Cluster::builder().durable().start();
        cluster.psql().run("CREATE TABLE t (x int)").ok();
        cluster.suspend_worker();
        cluster
            .psql()
            .run(format!(
                "DO $$ BEGIN FOR n IN 1..{RECORDS} LOOP EXECUTE format('UPDATE /* n%s */ t SET x = 1', n); END LOOP; END $$"
            ))
            .ok();
        cluster.kill_all();
        cluster.start_again();
        let mut interrupted = 0;
        while !left_over(&cluster).is_empty() && interrupted < 8 {
            interrupt(&cluster);
            interrupted += 1;
        }
        assert!(interrupted > 0, "the replay was over before it began");
        wait_until_up(&cluster);
        cluster.flush();
        assert_eq!(
            cluster.query(
                "postgres",
                "SELECT count(*), count(DISTINCT statement) FROM audit.log
                 WHERE command = 'UPDATE' AND depth = 1 AND transaction_outcome = 'committed'"
            ),
            [format!("{RECORDS} | {RECORDS}")]
        );
        check_order(&cluster);
        check_event_numbers(&cluster, "true");
        assert!(left_over(&cluster).is_empty());
    });
}

fn wait_until_up(cluster: &Cluster) {
    eventually("the server is up", || {
        let connected = cluster.config("postgres", "postgres").connect(NoTls);
        connected.is_ok()
    });
}

fn interrupt(cluster: &Cluster) {
    a_while(150);
    match random(6) {
        0 => {
            // A fast shutdown while a crash restart starts up never ends in PostgreSQL 15, with or
            // without us: the postmaster waits for a checkpointer that nobody tells to go
            // (PM_WAIT_BACKENDS with FatalError still set, postmaster.c).
            wait_until_up(cluster);
            cluster.restart(Shutdown::Fast);
        }
        1 => cluster.restart(Shutdown::Immediate),
        2 => {
            cluster.kill_postmaster();
            cluster.start_again();
        }
        3 => {
            kill(cluster.postmaster_pid(), "HUP");
        }
        4 => {
            if let Some(worker) = some_worker(cluster) {
                kill(worker, "TERM");
            }
        }
        _ => {
            if let Some(worker) = some_worker(cluster) {
                kill(worker, "KILL");
                thread::sleep(Duration::from_millis(300));
            }
        }
    }
}

/// A cluster with the shortest periods that there are, by a clock of its own.
fn with_periods(clock: &Clock, retention: &str) -> Cluster {
    clock
        .of(Cluster::builder().durable())
        .setting("audit.partition_interval", "'1min'")
        .setting("audit.retention", retention)
        .start()
}

/// Periods end, and whoever is at work on them is killed.
fn change_periods(cluster: &Cluster, clock: &Clock, faults: u64) -> Load {
    Load::during(cluster, |load| {
        for n in 1..=faults as i64 {
            clock.set_ahead(61 * n);
            load.more(10);
            a_while(400);
            // It may have ended by itself meanwhile: then nothing is thrown out.
            if let Some(worker) = some_worker(cluster) {
                kill(worker, "KILL");
            }
            a_while(200);
            load.more(10);
        }
    })
}

#[test]
fn a_worker_killed_while_it_makes_and_closes_partitions() {
    series(2, |faults| {
        let clock = Clock::new();
        let cluster = with_periods(&clock, "0");
        let load = change_periods(&cluster, &clock, faults);
        load.check(&cluster);
        assert_eq!(
            cluster.query("postgres", "SELECT * FROM audit.verify()"),
            Vec::<String>::new()
        );
    });
}

#[test]
fn a_worker_killed_while_it_drops_partitions() {
    series(4, |faults| {
        let clock = Clock::new();
        let cluster = with_periods(&clock, "'90s'");
        change_periods(&cluster, &clock, faults);
        cluster.flush();
        // What is left is whole; what was dropped is told of, once.
        assert_eq!(
            cluster.query("postgres", "SELECT * FROM audit.verify()"),
            Vec::<String>::new()
        );
        assert_eq!(
            cluster.query(
                "postgres",
                "SELECT statement, count(*) FROM audit.log WHERE statement ~ '/\\* n' GROUP BY statement HAVING count(*) > 1"
            ),
            Vec::<String>::new()
        );
        clock.set_ahead(61 * (faults as i64 + 4));
        cluster.psql().run("SELECT 'much later'").ok();
        cluster.flush();
        // A drop that failed, for the locks of audit.verify() say, is tried again half a minute later.
        wait_until("the rest is dropped", Duration::from_secs(60), || {
            cluster.psql().run("SELECT 'knock'").ok();
            cluster.flush();
            cluster.value("SELECT min(seq) > 100 FROM audit.log") == "t"
        });
        assert_eq!(
            cluster.query(
                "postgres",
                "SELECT details->>'from', count(*) FROM audit.log WHERE command = 'RETENTION' GROUP BY 1 HAVING count(*) > 1"
            ),
            Vec::<String>::new()
        );
    });
}
