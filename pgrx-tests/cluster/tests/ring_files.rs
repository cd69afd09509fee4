//! Ring files that are damaged, missing, foreign or in the way: a clear message, a server that starts,
//! and nothing thrown away (issue "Delivery", bad input).

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use audit_cluster_tests::{Cluster, Shutdown, eventually, kill};

use crate::assert_mentions;
use crate::full::Disk;
use crate::load::check_order;
use crate::soak::{random, series};
use crate::told_once::{lock, unlock};

/// A cluster that was killed with records in its ring that the trail doesn't have.
fn killed_with_records() -> (Cluster, PathBuf) {
    let cluster = Cluster::builder()
        .durable()
        .setting("audit.ring_size", "'1MB'")
        .start();
    let ring = cluster.data_dir().join("pg_audit/ring");
    kill_with_records(&cluster);
    (cluster, ring)
}

fn kill_with_records(cluster: &Cluster) {
    cluster.suspend_worker();
    select_and_kill(cluster);
}

/// Statements that wait in the ring as the server dies.
fn select_and_kill(cluster: &Cluster) {
    let mut client = cluster.app();
    for n in 0..50 {
        client
            .simple_query(&format!("SELECT {n} AS kept"))
            .expect("selects");
    }
    cluster.kill_all();
}

/// The server works, and what happens from now on is recorded.
#[track_caller]
fn records_again(cluster: &Cluster) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let sql = format!("SELECT {number} AS again");
    cluster.psql().run(&sql).ok();
    assert_eq!(cluster.count(&format!("statement = '{sql}'")), 1);
    check_order(cluster);
}

/// What GAP events say.
fn gaps(cluster: &Cluster) -> Vec<String> {
    cluster.trail_of("details->>'reason'", "command = 'GAP'")
}

fn kept(ring: &Path) -> PathBuf {
    ring.with_file_name("ring.1.old.unreadable")
}

fn sh(script: &str, path: &Path) {
    let done = Command::new("sh")
        .args(["-ec", script, "sh"])
        .arg(path)
        .output()
        .expect("sh runs");
    assert!(done.status.success(), "{script}: {done:?}");
}

#[test]
fn files_that_are_no_ring_are_kept_and_told_of() {
    for (damage, expected) in [
        ("truncate -s 100000 \"$1\"", "100000 bytes, "),
        (
            "truncate -s 100 \"$1\"",
            "100 bytes are too few for a header",
        ),
        ("truncate -s 0 \"$1\"", "the file is empty"),
        (
            "printf nonsense | dd of=\"$1\" conv=notrunc status=none",
            "it begins with \"nonsense\"",
        ),
        (
            "printf '\\007' | dd of=\"$1\" bs=1 seek=8 conv=notrunc status=none",
            "format 7 is unknown, 3 is expected",
        ),
        (
            "printf '\\007' | dd of=\"$1\" bs=1 seek=20 conv=notrunc status=none",
            "the header's CRC is",
        ),
        ("rm \"$1\"; ln -s /etc/passwd \"$1\"", "cannot be read"),
        ("rm \"$1\"; mkfifo \"$1\"", "it is not a regular file"),
        ("rm \"$1\"; mkdir \"$1\"", "it is not a regular file"),
        ("chown root \"$1\"; chmod 600 \"$1\"", "Permission denied"),
    ] {
        let (cluster, ring) = killed_with_records();
        sh(damage, &ring);
        let before = fs::symlink_metadata(&ring).expect("a file").len();
        cluster.start_again();
        let gaps = gaps(&cluster);
        assert!(
            gaps.len() == 1 && gaps[0].contains(expected),
            "{damage}: {gaps:?}"
        );
        assert_eq!(
            fs::symlink_metadata(kept(&ring)).expect("kept aside").len(),
            before,
            "{damage}"
        );
        records_again(&cluster);
        assert!(!cluster.log().contains("PANIC"), "{damage}");
    }
}

#[test]
fn a_deleted_ring_or_directory_is_made_anew() {
    for what in ["rm \"$1\"", "rm -r \"$(dirname \"$1\")\""] {
        let (cluster, ring) = killed_with_records();
        sh(what, &ring);
        cluster.start_again();
        records_again(&cluster);
        assert_eq!(cluster.count("statement LIKE '% AS kept'"), 0, "{what}");
    }
}

#[test]
fn a_directory_that_is_a_link_or_somebody_elses_is_not_used() {
    for (what, expected) in [
        (
            "mv \"$1\" \"$1.real\"; ln -s \"$1.real\" \"$1\"",
            "it is not a directory (a symbolic link is not accepted)",
        ),
        ("chown root \"$1\"", "belongs to user id 0"),
        ("rm -r \"$1\"; touch \"$1\"", "it is not a directory"),
    ] {
        let (cluster, ring) = killed_with_records();
        let directory = ring.parent().expect("a folder");
        sh(what, directory);
        cluster.start_again();
        let log = cluster.log();
        assert!(
            log.contains("cannot make its ring") && log.contains(expected),
            "{what}: {log}"
        );
        // Unrecorded, and it says so to whoever asks.
        assert_eq!(cluster.query("app", "SELECT 1"), ["1"]);
        let refused = cluster
            .psql()
            .db("postgres")
            .run("SELECT audit.flush()")
            .error();
        assert!(refused.contains("has no ring"), "{refused}");
    }
}

#[test]
fn a_full_disk_at_the_start_costs_the_recording_until_there_is_room() {
    let disk = Disk::new(12);
    let directory = disk.folder().join("ring");
    let cluster = Cluster::builder()
        .durable()
        .setting("audit.ring_size", "'1MB'")
        .setting(
            "audit.ring_directory",
            &format!("'{}'", directory.display()),
        )
        .start();
    kill_with_records(&cluster);
    disk.fill();
    cluster.start_again();
    assert_mentions(
        &cluster.log(),
        &["cannot make its ring", "No space left on device"],
    );
    assert_eq!(
        cluster.psql().run("CREATE TABLE t (x int); SELECT 1").ok(),
        "1\n"
    );
    // What was made of the new ring is gone again, what the old one holds is not.
    assert!(!directory.join("ring.new").exists() && directory.join("ring.1.old").exists());
    assert_eq!(
        cluster.value(
            "SELECT last_error LIKE '%No space left%' AND ring_size IS NULL FROM audit.status"
        ),
        "t"
    );
    // Nobody who asked for records on disk is told that he has them.
    let refused = cluster
        .psql()
        .run("SET audit.durability = 'commit'; INSERT INTO t VALUES (1)")
        .error();
    assert_mentions(&refused, &["cannot be made durable", "has no ring"]);
    assert_eq!(cluster.query("app", "SELECT count(*) FROM t"), ["0"]);
    disk.free();
    // The next start finds room; so would a crash restart.
    let mut client = cluster.app();
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a pid")
        .get(0);
    assert!(cluster.kill_child(pid as u32));
    assert_eq!(cluster.count("statement LIKE '% AS kept'"), 50);
    records_again(&cluster);
    let log = cluster.log();
    assert!(!log.contains("PANIC") && !log.contains("signal 7"), "{log}");
}

/// How many rings were put aside and not drained yet.
fn put_aside(cluster: &Cluster) -> usize {
    let files = fs::read_dir(cluster.data_dir().join("pg_audit")).expect("a folder");
    let names = files.flatten().map(|entry| entry.file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(".old"))
        .count()
}

#[test]
fn a_standby_keeps_no_ring_with_nothing_in_it() {
    let primary = Cluster::builder().durable().start();
    let standby = primary.base_backup(true);
    standby.start_again();
    // What came with the copy.
    let first = put_aside(&standby);
    for _ in 0..3 {
        assert_eq!(standby.query("app", "SELECT 1"), ["1"]);
        standby.restart(Shutdown::Fast);
        assert_eq!(put_aside(&standby), first);
    }
    assert_eq!(standby.value("SELECT pg_promote()"), "t");
    eventually("all are drained", || put_aside(&standby) == 0);
    records_again(&standby);
}

#[test]
fn a_server_without_a_home_keeps_no_ring_with_nothing_in_it() {
    let cluster = Cluster::builder().without_extension().start();
    let restarts = |most| {
        for _ in 0..4 {
            assert_eq!(cluster.query("app", "SELECT 1"), ["1"]);
            cluster.restart(Shutdown::Fast);
            assert!(put_aside(&cluster) <= most);
        }
    };
    restarts(0);
    let home = |script: &str| assert_eq!(cluster.psql().db("postgres").run(script).code, 0);
    home("CREATE EXTENSION audit_ext");
    records_again(&cluster);
    home("SELECT audit.unlock('test'); DROP EXTENSION audit_ext");
    // What it held, and when the run after it began.
    restarts(2);
}

#[test]
fn another_size_needs_no_care() {
    let (cluster, _) = killed_with_records();
    cluster.configure("audit.ring_size", "'4MB'");
    cluster.configure("max_connections", "70");
    cluster.start_again();
    assert_eq!(cluster.count("statement LIKE '% AS kept'"), 50);
    assert_eq!(
        cluster.value("SELECT ring_size FROM audit.status"),
        (4 << 20).to_string()
    );
    records_again(&cluster);
}

#[test]
fn a_ring_that_is_cut_while_it_is_used_costs_a_restart_and_no_more() {
    let cluster = Cluster::builder()
        .durable()
        .setting("audit.ring_size", "'1MB'")
        .start();
    cluster.psql().run("SELECT 'before'").ok();
    cluster.flush();
    let ring = cluster.data_dir().join("pg_audit/ring");
    OpenOptions::new()
        .write(true)
        .open(&ring)
        .and_then(|file| file.set_len(4096))
        .expect("cut");
    // Whoever touches it dies of SIGBUS; the crash restart makes a new one.
    eventually("the server has a ring again", || {
        cluster.psql().run("SELECT 1").code == 0
            && cluster.log().contains("somebody cut the ring's file")
    });
    eventually("it records again", || {
        cluster.psql().run("SELECT 'recorded again'").code == 0
    });
    cluster.flush();
    assert!(cluster.count("statement = 'SELECT ''recorded again'''") >= 1);
    assert!(kept(&ring).exists());
    check_order(&cluster);
}

#[test]
fn bytes_scribbled_over_in_a_left_over_ring() {
    series(1, |faults| {
        let (cluster, ring) = killed_with_records();
        for fault in 1..=faults {
            if fault > 1 {
                kill_with_records(&cluster);
            }
            let file = OpenOptions::new().write(true).open(&ring).expect("opens");
            // Within the records (the header is a page) or the slots behind them.
            for _ in 0..1 + random(20) {
                let len = 1 + random(200) as usize;
                let bytes: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
                let span = if random(4) == 0 { 1 << 21 } else { 20_000 };
                file.write_all_at(&bytes, 4096 + random(span))
                    .expect("scribbles");
            }
            drop(file);
            cluster.start_again();
            let records = cluster.count("statement LIKE '% AS kept' AND outcome = 'success'");
            assert!(records <= 50 * fault as usize, "{records}");
            records_again(&cluster);
        }
        assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
    });
}

#[test]
fn a_left_over_ring_that_is_cut_while_it_is_drained_costs_nothing() {
    let cluster = Cluster::builder()
        .durable()
        .setting("audit.ring_size", "'1MB'")
        .setting("max_prepared_transactions", "2")
        .start();
    lock(&cluster);
    select_and_kill(&cluster);
    let before = cluster.log().len();
    cluster.start_again();
    eventually("the worker has begun with it", || {
        cluster.log()[before..].contains("cannot store events")
    });
    let old = cluster.data_dir().join("pg_audit/ring.1.old");
    OpenOptions::new()
        .write(true)
        .open(&old)
        .and_then(|file| file.set_len(4096))
        .expect("cut");
    unlock(&cluster);
    eventually("it is drained", || !old.exists());
    assert_eq!(cluster.count("statement LIKE '% AS kept'"), 50);
    assert!(!cluster.log().contains("signal 7"), "{}", cluster.log());
    records_again(&cluster);
}

/// What nothing seals: times and numbers in the heads of in-flight slots (audit_core::slot). `damage`:
/// also of the session's attributes, which are sealed.
fn scribble_over_heads_of_slots(ring: &Path, damage: bool) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(ring)
        .expect("opens");
    let len = file.metadata().expect("a file").len();
    for slot in (4096 + (1 << 20)..len).step_by(12 * 1024) {
        let mut owner = [0; 4];
        file.read_exact_at(&mut owner, slot).expect("reads");
        if owner == [0; 4] {
            continue;
        }
        // Start, what waits for its fate, transaction, last event's start, horizon.
        for at in [8, 32, 40, 48, 88] {
            let number = (i64::MAX - 5) as u64 | u64::from(at == 32) << 63;
            file.write_all_at(&number.to_ne_bytes(), slot + at)
                .expect("scribbles");
        }
        if damage {
            file.write_all_at(&[0xff; 1248], slot + 800)
                .expect("scribbles");
        }
    }
}

#[test]
fn impossible_times_and_numbers_of_dead_sessions_stop_nothing() {
    for damage in [false, true] {
        let (cluster, ring) = killed_with_records();
        cluster.start_again();
        let mut client = cluster.app();
        client.batch_execute("BEGIN").expect("begins");
        let sleeps = std::thread::spawn(move || {
            let _ = client.batch_execute("CREATE TABLE killed AS SELECT 1 FROM pg_sleep(60)");
        });
        std::thread::sleep(std::time::Duration::from_secs(1));
        cluster.kill_all();
        sleeps.join().expect("its end");
        scribble_over_heads_of_slots(&ring, damage);
        cluster.start_again();
        eventually("the old ring is drained", || {
            !ring.with_file_name("ring.1.old").exists()
        });
        records_again(&cluster);
        let killed = "statement LIKE '%killed%' AND outcome = 'unfinished'";
        assert_eq!(
            cluster.trail_of("transaction_outcome", killed),
            vec!["rolled back"; usize::from(!damage)],
            "{damage}"
        );
        assert_eq!(
            cluster.count("started_at > now() + interval '1 year'"),
            0,
            "{damage}"
        );
        let log = cluster.log();
        assert!(!log.contains("cannot store events"), "{damage}: {log}");
        crate::integrity::assert_whole(&cluster);
    }
}

#[test]
fn bytes_scribbled_over_in_the_ring_in_use() {
    series(1, |faults| {
        let cluster = Cluster::builder()
            .durable()
            .setting("audit.ring_size", "'1MB'")
            .start();
        for fault in 1..=faults {
            scribble_over_the_ring_in_use(&cluster, fault);
            assert!(gaps(&cluster).len() as u64 >= fault);
            records_again(&cluster);
            cluster.restart(Shutdown::Fast);
            records_again(&cluster);
        }
    });
}

fn scribble_over_the_ring_in_use(cluster: &Cluster, fault: u64) {
    let worker = cluster.suspend_worker();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(cluster.data_dir().join("pg_audit/ring"))
        .expect("opens");
    let head = || {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 128 + 128).expect("reads");
        u64::from_ne_bytes(bytes)
    };
    let mut client = cluster.app();
    let first = head();
    for n in 0..100 {
        client
            .simple_query(&format!("SELECT {n} AS kept{fault}"))
            .expect("selects");
    }
    let last = head();
    assert!(last < 1 << 20, "the ring is young: {last}");
    for _ in 0..1 + random(10) {
        // Zeros, too: they look like a record that was reserved and never written.
        let byte = if random(3) == 0 { 0 } else { random(256) as u8 };
        let at = first + random(last - first);
        let len = (1 + random(100)).min(last - at) as usize;
        file.write_all_at(&vec![byte; len], 4096 + at)
            .expect("scribbles");
    }
    assert!(kill(worker, "CONT"));
    cluster.flush();
    let records = cluster.count(&format!("statement LIKE '% AS kept{fault}'"));
    assert!(records < 100, "{records}");
}

#[test]
fn a_busy_session_has_the_ring_mapped_ahead_of_it() {
    // The resident part of its mapping of the ring, in kB.
    let resident = |pid: i32| -> u64 {
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("smaps");
        let ring = maps
            .split("/pg_audit/ring")
            .nth(1)
            .expect("the ring is mapped");
        let line = ring.lines().find(|line| line.starts_with("Rss:"));
        let kb = line.and_then(|line| line.split_whitespace().nth(1));
        kb.and_then(|kb| kb.parse().ok()).expect("Rss in kB")
    };
    let cluster = Cluster::start();
    let mut client = cluster.app();
    let pid = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a pid")
        .get(0);
    let mut run = |times: u32| {
        let loops = format!(
            "DO $$ DECLARE n int; BEGIN FOR i IN 1 .. {times} LOOP SELECT 1 INTO n FROM pg_am LIMIT 1; END LOOP; END $$"
        );
        client.batch_execute(&loops).expect("a loop");
    };
    run(10);
    let before = resident(pid);
    // 96 bytes each, five pieces of 64 kB. What it writes to alone makes six at most.
    run(5 * 65536 / 96);
    let grown = resident(pid) - before;
    assert!(grown >= 8 * 64, "{grown} kB for {} kB of records", 5 * 64);
}
