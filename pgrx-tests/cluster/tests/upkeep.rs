//! What keeps the trail in shape besides storing, where something is in its way: periods are closed and
//! dropped all the same, and no event pays for it.

use audit_cluster_tests::{Cluster, eventually, wait_until};
use postgres::Client;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::home::unlocked;
use crate::integrity::assert_whole;
use crate::retention::{cluster, early_in_a_period, is_gone, knock, next_period, set, until};
use crate::shim::Clock;

/// What each period has a partition of.
const TABLES: [&str; 5] = ["event", "session", "statement", "fate", "batch"];
const HOME: &str = "postgres";
const MAINTENANCE: &str =
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'audit_ext maintenance'";

/// Suffix of the period of the last batch.
fn suffix(cluster: &Cluster) -> String {
    knock(cluster);
    cluster.value(
        "SELECT suffix FROM audit.period WHERE starts_at <= (SELECT max(recorded_at) FROM audit.batch) \
         ORDER BY starts_at DESC LIMIT 1",
    )
}

/// Has an unlocked superuser take away a table of the trail.
#[track_caller]
fn take_away(admin: &mut Client, table: &str) {
    for sql in ["ALTER EXTENSION audit_ext DROP TABLE", "DROP TABLE"] {
        admin
            .batch_execute(&format!("{sql} {table}"))
            .expect("unlocked");
    }
}

/// An INSERT with a parameter into a table that the worker can't store anything about.
#[track_caller]
fn worker_fails_at_an_insert(cluster: &Cluster) -> Client {
    let mut client = cluster.app();
    client
        .batch_execute("SET audit.parameters = on")
        .expect("sets");
    client
        .execute("INSERT INTO awkward VALUES ($1)", &[&4711_i32])
        .expect("inserts");
    eventually("the worker fails", || {
        cluster.log().contains("cannot store events")
    });
    client
}

#[track_caller]
fn assert_insert_is_whole(cluster: &Cluster) {
    assert_eq!(
        cluster.trail("parameters, details -> 'unstorable'", "command = 'INSERT'"),
        ["{4711} | ~"]
    );
}

/// A period is closed although anybody's own table has a constraint of the name that it gets.
#[test]
fn a_name_of_somebody_elses_keeps_no_period_open() {
    let clock = Clock::new();
    let cluster = clock.of(cluster()).start();
    cluster.psql().run("CREATE ROLE mallory LOGIN").ok();
    early_in_a_period();
    let suffix = suffix(&cluster);
    let mut mallory = cluster.connect("mallory", HOME);
    mallory
        .batch_execute(&format!(
            "CREATE TEMP TABLE t (x int CONSTRAINT event_{suffix}_started_at CHECK (x > 0))"
        ))
        .expect("makes");
    clock.set_ahead(60);
    let closed =
        format!("SELECT frozen_at IS NOT NULL FROM audit.period WHERE suffix = '{suffix}'");
    until(&cluster, "the period is closed", |c| {
        c.value(&closed) == "t"
    });
    assert_eq!(
        cluster.value(&format!(
            "SELECT convalidated FROM pg_constraint \
             WHERE conname = 'event_{suffix}_started_at' AND conrelid = 'audit.event_{suffix}'::regclass"
        )),
        "t"
    );
}

/// A period that can't be closed, as a superuser has taken something of it away, keeps no older one from
/// being dropped.
#[test]
fn a_period_that_cannot_be_closed_keeps_no_other() {
    let clock = Clock::new();
    let cluster = clock.of(cluster()).start();
    early_in_a_period();
    cluster.psql().run("SELECT 'long ago'").ok();
    knock(&cluster);
    clock.set_ahead(60);
    let suffix = suffix(&cluster);
    let mut admin = unlocked(&cluster);
    take_away(&mut admin, &format!("audit.fate_{suffix}"));
    clock.set_ahead(120);
    until(&cluster, "it can't be closed", |c| {
        c.log().contains(&format!("audit.fate_{suffix} is gone"))
    });
    set(&cluster, "audit.retention", "'1min'");
    until(&cluster, "the older period goes", |c| {
        is_gone(c, "long ago")
    });
    let log = cluster.log();
    assert!(!log.contains("terminated by signal"), "{log}");
}

/// Periods of which a superuser has taken the events away, or everything, keep no later one from being dropped.
#[test]
fn a_period_whose_tables_are_gone_keeps_no_other() {
    let clock = Clock::new();
    let cluster = clock.of(cluster()).start();
    early_in_a_period();
    let periods: Vec<_> = (1..=3)
        .map(|n| {
            cluster.psql().run(format!("SELECT 'period {n}'")).ok();
            let suffix = suffix(&cluster);
            clock.set_ahead(60 * n);
            suffix
        })
        .collect();
    knock(&cluster);
    let mut admin = unlocked(&cluster);
    for (suffix, gone) in periods.iter().zip([&TABLES[..1], &TABLES[..]]) {
        for table in gone {
            take_away(&mut admin, &format!("audit.{table}_{suffix}"));
        }
    }
    set(&cluster, "audit.retention", "'3s'");
    until(&cluster, "the third period goes", |c| {
        is_gone(c, "period 3")
    });
    let left = |suffix: &str| {
        cluster.value(&format!(
            "SELECT count(*) FROM audit.period WHERE suffix = '{suffix}'"
        ))
    };
    // Of the second nothing is left to refuse; what became of its events audit.verify() asks as before.
    until(&cluster, "the second period goes", |_| {
        left(&periods[1]) == "0"
    });
    let told = "command = 'RETENTION' AND NOT details ? 'first_seq'";
    until(&cluster, "it is told", |c| {
        c.trail_of("details ->> 'events'", told) == ["0"]
    });
    let problems = cluster.query(HOME, "SELECT DISTINCT problem FROM audit.verify()");
    assert!(
        problems.iter().any(|p| p.starts_with("removed")),
        "{problems:?}"
    );
    let log = cluster.log();
    assert!(!log.contains("terminated by signal"), "{log}");
}

/// A drop locks what goes, and the tables that it is a part of: not what stays.
#[test]
fn a_reader_of_another_period_does_not_delay_the_drop() {
    let clock = Clock::new();
    let cluster = clock.of(cluster()).start();
    early_in_a_period();
    cluster.psql().run("SELECT 'long ago'").ok();
    knock(&cluster);
    clock.set_ahead(60);
    let suffix = suffix(&cluster);
    let mut reader = cluster.connect("postgres", HOME);
    reader
        .batch_execute(&format!("BEGIN; SELECT count(*) FROM audit.event_{suffix}"))
        .expect("reads");
    set(&cluster, "audit.retention", "'3s'");
    until(&cluster, "the old period goes", |c| is_gone(c, "long ago"));
    reader.batch_execute("COMMIT").expect("ends");
    assert_whole(&cluster);
}

/// Somebody who changes an old partition, and takes his time, keeps no other period from being dropped and closed.
#[test]
fn a_partition_that_is_locked_keeps_no_other_period() {
    let clock = Clock::new();
    let cluster = clock.of(cluster()).start();
    early_in_a_period();
    let [first, second, third] = [60, 120, 180].map(|ahead| {
        let suffix = suffix(&cluster);
        clock.set_ahead(ahead);
        suffix
    });
    let is_closed = |suffix: &str| {
        let sql = "SELECT frozen_at IS NOT NULL FROM audit.period WHERE suffix =";
        cluster.value(&format!("{sql} '{suffix}'")) == "t"
    };
    until(&cluster, "all are closed", |_| {
        [&first, &second, &third]
            .iter()
            .all(|suffix| is_closed(suffix))
    });
    let fourth = suffix(&cluster);
    let mut admin = unlocked(&cluster);
    admin.batch_execute("BEGIN").expect("begins");
    for table in TABLES {
        admin
            .batch_execute(&format!(
                "LOCK TABLE audit.{table}_{second} IN ACCESS EXCLUSIVE MODE"
            ))
            .expect("unlocked");
    }
    // Of another time; who looks whether it holds a period's events has to wait for these.
    cluster
        .psql()
        .db(HOME)
        .run("SELECT audit.hold('2001-01-01', '2001-01-02', 'long ago')")
        .ok();
    set(&cluster, "audit.retention", "'1min'");
    let is_there = |suffix: &str| {
        let sql = "SELECT count(*) FROM audit.period WHERE suffix =";
        cluster.value(&format!("{sql} '{suffix}'")) == "1"
    };
    until(&cluster, "the first period goes", |_| !is_there(&first));
    clock.set_ahead(240);
    // Some time later it is due to be dropped.
    until(&cluster, "another is closed", |_| {
        !is_there(&fourth) || is_closed(&fourth)
    });
    until(&cluster, "a younger one goes", |_| !is_there(&third));
    assert!(is_there(&second));
    admin.batch_execute("COMMIT").expect("ends");
    until(&cluster, "what was locked goes", |_| !is_there(&second));
    assert_whole(&cluster);
}

/// Where nothing can be stored, as on a full disk, what is due to be dropped goes, which may mend it; and
/// what waited is stored as it was, although the failure could have been due to what it holds.
#[test]
fn a_trail_that_cannot_be_written_to_drops_what_is_due() {
    let clock = Clock::new();
    let cluster = clock.of(cluster()).start();
    early_in_a_period();
    cluster
        .psql()
        .run("CREATE TABLE awkward (x int); SELECT 'long ago'")
        .ok();
    knock(&cluster);
    clock.set_ahead(60);
    knock(&cluster);
    let mut admin = unlocked(&cluster);
    admin
        .batch_execute(
            "ALTER TABLE audit.statement ADD CONSTRAINT fault \
             CHECK (relations IS NULL OR 'public.awkward' <> ALL (relations)) NOT VALID",
        )
        .expect("unlocked");
    cluster.flush();
    let _client = worker_fails_at_an_insert(&cluster);
    set(&cluster, "audit.retention", "'3s'");
    wait_until("the old period goes", Duration::from_secs(60), || {
        cluster.value("SELECT count(*) FROM audit.dropped") != "0"
    });
    assert_eq!(
        cluster.value("SELECT last_error LIKE '%fault%' FROM audit.status"),
        "t"
    );
    admin
        .batch_execute("ALTER TABLE audit.statement DROP CONSTRAINT fault")
        .expect("unlocked");
    assert_insert_is_whole(&cluster);
    assert_eq!(
        cluster.trail_of("details ->> 'reason'", "command = 'RETENTION'")[0],
        "retention"
    );
    assert_whole(&cluster);
}

/// What made the storing fail is gone before the last resort, an event without its content, is tried.
#[test]
fn what_heals_between_two_tries_costs_no_event_its_content() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE awkward (x int)").ok();
    cluster.flush();
    // Each try takes half a second.
    let mut admin = unlocked(&cluster);
    admin
        .batch_execute(
            "ALTER TABLE audit.statement ADD CONSTRAINT fault \
             CHECK (relations IS NULL OR 'public.awkward' <> ALL (relations) OR pg_sleep(0.5)::text IS NULL) \
             NOT VALID",
        )
        .expect("unlocked");
    let worker = cluster.worker_pid().expect("the worker runs");
    let mut watcher = cluster.connect("postgres", HOME);
    let _client = worker_fails_at_an_insert(&cluster);
    // Behind a pause the event is tried as it is.
    let mut quiet = 0;
    eventually("it tries again", || {
        let tries: bool = watcher
            .query_one(
                "SELECT wait_event IS NOT DISTINCT FROM 'PgSleep' FROM pg_stat_activity WHERE pid = $1",
                &[&(worker as i32)],
            )
            .expect("asks")
            .get(0);
        let begins = tries && quiet >= 10;
        quiet = if tries { 0 } else { quiet + 1 };
        begins
    });
    admin
        .batch_execute("ALTER TABLE audit.statement DROP CONSTRAINT fault")
        .expect("unlocked");
    assert_insert_is_whole(&cluster);
    assert_whole(&cluster);
}

/// REINDEX CONCURRENTLY puts another index in the place of the one that the worker writes to.
#[test]
fn an_index_that_is_made_anew_costs_no_event_its_content() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client
        .batch_execute("SET audit.parameters = on")
        .expect("sets");
    let suffix = suffix(&cluster);
    let mut admin = cluster.connect("postgres", HOME);
    admin
        .batch_execute(&format!(
            "REINDEX INDEX CONCURRENTLY audit.event_{suffix}_brin"
        ))
        .expect("made anew");
    client.query("SELECT $1::int", &[&4711_i32]).expect("a row");
    assert_eq!(
        cluster.trail(
            "parameters, details -> 'unstorable'",
            "statement = 'SELECT $1::int'"
        ),
        ["{4711} | ~"]
    );
    let log = cluster.log();
    assert!(
        !log.contains("without its content") && !log.contains("cannot store events"),
        "{log}"
    );
    assert_whole(&cluster);
}

/// Somebody who has read and idles in his transaction keeps a period from being dropped, and nothing
/// from being recorded.
#[test]
fn an_idle_reader_delays_the_drop_and_not_the_trail() {
    let cluster = cluster().start();
    early_in_a_period();
    cluster.psql().run("SELECT 'long ago'").ok();
    next_period(&cluster);
    let mut reader = cluster.connect("postgres", HOME);
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM audit.log")
        .expect("reads");
    set(&cluster, "audit.retention", "'3s'");
    // Whoever waits for such a lock has everybody behind him wait, too. Without waiting it is asked for
    // twenty times; then it is waited for, half a second.
    let mut watcher = cluster.connect("postgres", "app");
    let waits = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted";
    let (mut looks, mut waiting) = (0, 0);
    let (mut tries, mut statistics) = (BTreeSet::new(), BTreeSet::new());
    let end = std::time::Instant::now() + Duration::from_secs(12);
    while std::time::Instant::now() < end {
        looks += 1;
        let found: i64 = watcher.query_one(waits, &[]).expect("asks").get(0);
        waiting += i64::from(found > 0);
        if looks % 50 == 0 {
            knock(&cluster);
            tries.extend(cluster.query(HOME, MAINTENANCE));
            statistics.insert(cluster.value(
                "SELECT max(xmin::text::bigint) FROM pg_statistic WHERE starelid = 'audit.event'::regclass",
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        looks > 50 && waiting * 4 < looks,
        "{waiting} of {looks} times it waited"
    );
    // The one before may have been about closing the period.
    assert!(tries.len() <= 2, "tried again at once: {tries:?}");
    assert!(statistics.len() <= 2, "with ANALYZE: {statistics:?}");
    assert!(!is_gone(&cluster, "long ago"));
    assert!(
        !cluster.log().contains("cannot store events"),
        "{}",
        cluster.log()
    );
    // The process that drops dies in the middle of a try, when it has written what is kept of the period;
    // the reader with it, as the whole server restarts. It goes once, and leaves one event.
    until(&cluster, "it is tried again", |c| {
        !c.query(HOME, MAINTENANCE).is_empty()
    });
    std::thread::sleep(Duration::from_millis(150));
    for pid in cluster.query(HOME, MAINTENANCE) {
        cluster.kill_child(pid.parse().expect("a pid"));
    }
    drop(reader);
    eventually("the worker runs", || cluster.worker_pid().is_some());
    until(&cluster, "the period goes", |c| is_gone(c, "long ago"));
    until(&cluster, "it is told", |c| {
        !c.trail_of("seq", "command = 'RETENTION'").is_empty()
    });
    // A minute has passed: the period after it may have gone, too.
    let told = cluster.trail_of("details ->> 'from'", "command = 'RETENTION'");
    let periods: BTreeSet<_> = told.iter().collect();
    assert_eq!(periods.len(), told.len(), "told twice: {told:?}");
    assert_whole(&cluster);
}
