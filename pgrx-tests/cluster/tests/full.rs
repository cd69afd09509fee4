//! A ring that fills up, and a store that can't be written to: audit.on_full, GAP, back-off.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use audit_cluster_tests::{Cluster, Shutdown, eventually, kill};
use postgres::Client;
use postgres::error::SqlState;

use crate::load::{Load, check_order};
use crate::soak::{a_while, rounds, series};

/// A small ring with a worker that is stopped.
fn stopped(on_full: &str, timeout: &str) -> (Cluster, u32) {
    let cluster = Cluster::builder()
        .setting("audit.ring_size", "'1MB'")
        .setting("audit.on_full", on_full)
        .setting("audit.full_timeout", timeout)
        .start();
    let worker = cluster.suspend_worker();
    (cluster, worker)
}

/// A statement whose record has 5 kB and some.
fn large(n: usize) -> String {
    format!("SELECT {n} AS full, '{}'", "x".repeat(5_000))
}

fn recorded(cluster: &Cluster) -> usize {
    cluster.count("statement LIKE 'SELECT % AS full%'")
}

fn warnings(cluster: &Cluster) -> usize {
    cluster.log().matches("WARNING:  the audit ring is").count()
}

#[test]
fn drop_counts_exactly_what_it_drops() {
    rounds(1, || {
        let (cluster, worker) = stopped("'drop'", "'30s'");
        let mut client = cluster.app();
        let before = cluster.value("SELECT now()");
        const SENT: usize = 400;
        for n in 0..SENT {
            client.simple_query(&large(n)).expect("goes on");
        }
        let after = cluster.value("SELECT clock_timestamp()");
        assert!(kill(worker, "CONT"));
        cluster.flush();
        let lost = SENT - recorded(&cluster);
        assert!((100..300).contains(&lost), "{lost} lost");
        // What was asked for meanwhile was dropped, too: two sessions of CONNECT, SELECT, DISCONNECT
        // are at most six.
        let told: usize = cluster
            .value("SELECT sum((details->>'count')::int) FROM audit.log WHERE command = 'GAP'")
            .parse()
            .expect("a number");
        let numbers: usize = cluster
            .value("SELECT sum(holes) FROM (SELECT max(event_no) - count(*) AS holes FROM audit.log WHERE event_no IS NOT NULL GROUP BY session_id) s")
            .parse()
            .expect("a number");
        assert!(told >= lost && told <= lost + 6, "{told} told, {lost} lost");
        assert!(numbers <= told, "{numbers} holes, {told} told");
        assert_eq!(
            cluster.value(&format!(
                "SELECT min((details->>'first')::timestamptz) >= '{before}'
                        AND max((details->>'last')::timestamptz) <= '{after}'
                        AND bool_and((details->>'first')::timestamptz <= (details->>'last')::timestamptz)
                 FROM audit.log WHERE command = 'GAP'"
            )),
            "t"
        );
        assert_eq!(warnings(&cluster), 1, "once per episode");
        assert_eq!(
            cluster.value(&format!("SELECT dropped = {told} FROM audit.status")),
            "t"
        );
        check_order(&cluster);
    });
}

#[test]
fn refuse_lets_nothing_begin_but_what_was_let_in_ends() {
    rounds(1, || {
        let (cluster, worker) = stopped("'refuse'", "'30s'");
        let mut open = cluster.app();
        open.batch_execute("CREATE TABLE t (x int); BEGIN; INSERT INTO t VALUES (1)")
            .expect("begins");
        let mut client = cluster.app();
        let admitted = (0..400)
            .take_while(|n| client.simple_query(&large(*n)).is_ok())
            .count();
        assert!((100..200).contains(&admitted), "{admitted} admitted");
        let refused = cluster.psql().run("SELECT 1").error();
        assert!(
            refused.contains("statement refused: the audit ring is full"),
            "{refused}"
        );
        // What must always go through.
        open.batch_execute("COMMIT").expect("commits");
        assert_eq!(cluster.query("app", "COMMIT"), Vec::<String>::new());
        cluster.psql().run("SET audit.level = 'all'").ok();
        for sql in [
            "ALTER SYSTEM SET audit.full_timeout = '29s'",
            "SELECT count(*) FROM audit.verify()",
            "SELECT * FROM audit.evidence(1, 1) ORDER BY 1",
        ] {
            cluster.psql().db("postgres").run(sql).ok();
        }
        let refused = cluster.psql().run("SELECT * FROM now()").error();
        assert!(refused.contains("the audit ring is full"), "{refused}");
        let fill = cluster.value("SELECT ring_fill * 100 / ring_size FROM audit.status");
        assert!((75..100).contains(&fill.parse::<i32>().expect("a number")));
        assert!(kill(worker, "CONT"));
        cluster.flush();
        assert_eq!(
            cluster.count("statement LIKE 'SELECT % AS full%' AND outcome = 'success'"),
            admitted
        );
        assert_eq!(cluster.query("app", "SELECT x FROM t"), ["1"]);
        assert_eq!(
            cluster.trail_of("seq", "command = 'GAP'"),
            Vec::<String>::new()
        );
        // Refused statements are on record as failed.
        assert_eq!(
            cluster.trail("outcome, sqlstate", "statement = 'SELECT 1'"),
            ["failed | 53000"]
        );
        check_order(&cluster);
    });
}

#[test]
fn wait_waits_until_there_is_room() {
    rounds(1, || {
        let (cluster, worker) = stopped("'wait'", "'60s'");
        let client = cluster.app();
        let sent = thread::spawn(move || fill(client));
        thread::sleep(Duration::from_secs(2));
        assert!(!sent.is_finished(), "it waits");
        assert!(kill(worker, "CONT"));
        assert_eq!(sent.join().expect("ends"), 400);
        assert_eq!(recorded(&cluster), 400);
        assert_eq!(
            cluster.trail_of("seq", "command = 'GAP'"),
            Vec::<String>::new()
        );
        assert!(warnings(&cluster) >= 1);
        check_order(&cluster);
    });
}

fn fill(mut client: Client) -> usize {
    (0..400)
        .take_while(|n| client.simple_query(&large(*n)).is_ok())
        .count()
}

#[test]
fn waiting_can_be_cancelled_and_is_bounded() {
    let (cluster, worker) = stopped("'wait'", "'6s'");
    let client = cluster.app();
    let cancel = client.cancel_token();
    let sent = thread::spawn(move || {
        let mut client = client;
        let begun = Instant::now();
        let ended = (0..400).find_map(|n| Some((n, client.simple_query(&large(n)).err()?)));
        let (first, error) = ended.expect("the ring is full at some time");
        assert_eq!(
            error.code(),
            Some(&SqlState::QUERY_CANCELED),
            "{first}: {error}"
        );
        let cancelled_after = begun.elapsed();
        // Then it waits 6 s once, and goes on for good.
        let begun = Instant::now();
        for n in 0..300 {
            let Err(error) = client.simple_query(&large(n)) else {
                continue;
            };
            // The server signals a cancel to the process and to its group: the second may come late.
            let late = n == 0 && error.code() == Some(&SqlState::QUERY_CANCELED);
            assert!(late, "{n}: {error}");
        }
        (first, cancelled_after, begun.elapsed())
    });
    thread::sleep(Duration::from_millis(2500));
    cancel.cancel_query(postgres::NoTls).expect("cancels");
    let (first, cancelled_after, rest) = sent.join().expect("ends");
    assert!(
        first < 300 && cancelled_after < Duration::from_secs(10),
        "{first} {cancelled_after:?}"
    );
    assert!(
        rest > Duration::from_millis(5500) && rest < Duration::from_secs(60),
        "{rest:?}"
    );
    assert!(kill(worker, "CONT"));
    cluster.flush();
    let told: usize = cluster
        .value("SELECT sum((details->>'count')::int) FROM audit.log WHERE command = 'GAP'")
        .parse()
        .expect("a number");
    assert!(
        told > 0 && told + recorded(&cluster) >= first + 300,
        "{told}"
    );
}

/// A session that has waited in vain waits again when the ring is full the next time.
#[test]
fn each_overflow_is_waited_for() {
    let (cluster, worker) = stopped("'wait'", "'2s'");
    let mut client = cluster.app();
    for overflow in 1..=2 {
        let begun = Instant::now();
        for n in 0..400 {
            client.simple_query(&large(n)).expect("goes on");
        }
        let took = begun.elapsed();
        assert!(
            took > Duration::from_millis(1900) && took < Duration::from_secs(30),
            "overflow {overflow}: {took:?}"
        );
        assert_eq!(warnings(&cluster), overflow, "one for each");
        assert!(kill(worker, "CONT"));
        cluster.flush();
        if overflow == 1 {
            assert_eq!(cluster.suspend_worker(), worker);
        }
    }
}

/// A file system of a few megabytes.
pub struct Disk(PathBuf);

impl Disk {
    pub fn new(megabytes: u32) -> Disk {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("audit_disk.{}.{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={megabytes}m,mode=0777"))
            .args(["audit_test".as_ref(), dir.as_os_str()])
            .output()
            .expect("mount runs");
        assert!(
            done.status.success(),
            "a small file system is needed for a disk that is full; this test must run as root: {done:?}"
        );
        Disk(dir)
    }

    /// A folder of the server's on it.
    pub fn folder(&self) -> PathBuf {
        let folder = self.0.join("space");
        fs::create_dir(&folder).expect("a folder");
        let done = Command::new("chown").arg("postgres:").arg(&folder).status();
        assert!(done.expect("chown runs").success());
        folder
    }

    pub fn fill(&self) {
        let zeros = vec![0u8; 64 * 1024];
        let mut file = fs::File::create(self.0.join("filler")).expect("a file");
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
    }

    pub fn free(&self) {
        fs::remove_file(self.0.join("filler")).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_full_disk_of_the_trail_that_is_freed() {
    series(1, |faults| {
        let disk = Disk::new(48);
        let cluster = Cluster::builder()
            .durable()
            .without_extension()
            .setting("audit.ring_size", "'1MB'")
            .start();
        let space = disk.folder();
        for sql in [
            format!("CREATE TABLESPACE small LOCATION '{}'", space.display()),
            "ALTER DATABASE postgres SET TABLESPACE small".into(),
        ] {
            cluster.psql().run(&sql).ok();
        }
        cluster
            .psql()
            .db("postgres")
            .run("CREATE EXTENSION audit_ext");
        cluster.flush();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                a_while(300);
                disk.fill();
                eventually("the worker says why", || {
                    cluster.value("SELECT coalesce(last_error LIKE '%No space left%', false) FROM audit.status") == "t"
                });
                // Writers go on while there is room in the ring.
                load.more(20);
                a_while(1000);
                disk.free();
                load.more(100);
                eventually("the error is history", || {
                    cluster.value("SELECT last_error IS NULL FROM audit.status") == "t"
                });
            }
        });
        load.check(&cluster);
        let log = cluster.log();
        let times = |what| log.matches(what).count() as u64;
        assert_eq!(times("cannot store events"), faults, "said once each");
        assert_eq!(times("stores events again"), faults);
        cluster.stop(Shutdown::Immediate);
    });
}

/// Somebody who has locked a table of the trail, so that the worker can't store, until he commits.
pub fn with_the_trail_locked(cluster: &Cluster) -> Client {
    let mut other = cluster.connect("postgres", "postgres");
    other
        .batch_execute(
            "SELECT audit.unlock('a test'); BEGIN; LOCK TABLE audit.batch IN ACCESS EXCLUSIVE MODE",
        )
        .expect("locks");
    other
}

#[test]
fn a_locked_trail_is_waited_for() {
    let cluster = Cluster::start();
    cluster.flush();
    let mut other = with_the_trail_locked(&cluster);
    cluster.psql().run("SELECT 'behind the lock'").ok();
    eventually("the worker says why", || {
        cluster.value(
            "SELECT coalesce(last_error LIKE '%lock timeout%', false) FROM audit.worker_status()",
        ) == "t"
    });
    other.batch_execute("COMMIT").expect("ends");
    assert_eq!(cluster.count("statement = 'SELECT ''behind the lock'''"), 1);
}

/// A role's own hostile defaults would keep the test itself from going on.
const CALM: &str = "-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c search_path=public -c default_table_access_method=heap";

#[test]
fn hostile_settings_of_database_and_role_do_not_reach_the_worker() {
    let cluster = Cluster::start();
    for setting in [
        "default_transaction_read_only = on",
        "statement_timeout = 1",
        "idle_in_transaction_session_timeout = 1",
        "lock_timeout = 1",
        "search_path = 'pg_temp, public'",
        "default_transaction_isolation = 'serializable'",
        "default_table_access_method = 'nothing'",
        "session_replication_role = 'replica'",
        "row_security = off",
        "synchronous_commit = off",
        "work_mem = 64",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Australia/Eucla'",
        "standard_conforming_strings = off",
        "bytea_output = 'escape'",
        "enable_seqscan = off",
    ] {
        for scope in ["DATABASE postgres", "ROLE postgres"] {
            let done = cluster
                .psql()
                .env("PGOPTIONS", CALM)
                .command(&format!("ALTER {scope} SET {setting}"));
            assert_eq!(done.code, 0, "{done:?}");
        }
    }
    // A new period, too, is made under them.
    cluster.configure("audit.partition_interval", "'1min'");
    cluster.restart(Shutdown::Fast);
    // psql warns of the access method that there is none.
    let ask = |database: &str, sql: &str| {
        let done = cluster
            .psql()
            .db(database)
            .env("PGOPTIONS", CALM)
            .command(sql);
        assert_eq!(done.code, 0, "{done:?}");
        done.stdout
    };
    ask("app", "CREATE TABLE t (x int) USING heap");
    ask("app", "INSERT INTO t VALUES (1)");
    ask("postgres", "SELECT audit.flush()");
    assert_eq!(
        ask(
            "postgres",
            "SELECT command, outcome FROM audit.log WHERE relations = '{public.t}' ORDER BY seq"
        ),
        "CREATE TABLE|success\nINSERT|success\n"
    );
    assert_eq!(ask("postgres", "SELECT last_error FROM audit.status"), "\n");
}

#[test]
fn a_stop_is_bounded_where_the_trail_can_not_be_written() {
    let cluster = Cluster::builder().durable().start();
    cluster.flush();
    let mut other = cluster.connect("postgres", "postgres");
    other
        .batch_execute(
            "SELECT audit.unlock('a test'); BEGIN; LOCK TABLE audit.event IN ACCESS EXCLUSIVE MODE",
        )
        .expect("locks");
    for n in 0..50 {
        cluster.psql().run(format!("SELECT {n} AS waiting")).ok();
    }
    let begun = Instant::now();
    cluster.stop(Shutdown::Fast);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}");
    cluster.start_again();
    assert_eq!(cluster.count("statement LIKE 'SELECT % AS waiting'"), 50);
    check_order(&cluster);
}

/// The trail doesn't know the ring yet, and the worker that saw records being dropped is not the one that
/// stores the first batch.
#[test]
fn drops_before_the_first_batch_of_a_ring_are_told() {
    let cluster = Cluster::builder()
        .setting("audit.ring_size", "'1MB'")
        .setting("audit.on_full", "'drop'")
        .setting("max_prepared_transactions", "5")
        .start();
    // A lock that outlives the server's restart.
    cluster
        .psql()
        .db("postgres")
        .run("SELECT audit.unlock('to lock it'); BEGIN; LOCK TABLE audit.batch; PREPARE TRANSACTION 'x'")
        .ok();
    cluster.restart(Shutdown::Fast);
    let mut client = cluster.app();
    for n in 0..400 {
        client.simple_query(&large(n)).expect("goes on");
    }
    let mut admin = cluster.connect("postgres", "postgres");
    let dropped: i64 = admin
        .query_one("SELECT dropped FROM audit.worker_status()", &[])
        .expect("tells")
        .get(0);
    assert!(dropped > 100, "{dropped}");
    let worker = cluster.worker_pid();
    admin
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'audit_ext worker'",
        )
        .expect("ends it");
    eventually("another worker", || {
        cluster.worker_pid().is_some_and(|pid| Some(pid) != worker)
    });
    admin
        .batch_execute("ROLLBACK PREPARED 'x'")
        .expect("gives the lock back");
    cluster.flush();
    let told: i64 = cluster
        .value("SELECT sum((details->>'count')::int) FROM audit.log WHERE command = 'GAP'")
        .parse()
        .expect("a number");
    assert!(told >= dropped, "{told} told, {dropped} dropped");
    assert_eq!(
        cluster.value(&format!("SELECT dropped = {told} FROM audit.status")),
        "t"
    );
}
