//! How long and how large the trail becomes: periods dropped, what they leave, and what keeps them.

use audit_cluster_tests::{Builder, Cluster, Shutdown, eventually, wait_until};
use postgres::error::SqlState;
use std::time::Duration;

use crate::shim::Clock;

const HOME: &str = "postgres";

/// A trail with the shortest periods that there are.
pub fn cluster() -> Builder {
    Cluster::builder().setting("audit.partition_interval", "'1min'")
}

/// Makes sure that a test has some seconds within one period.
pub fn early_in_a_period() {
    let second = || {
        let since_1970 = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("a clock");
        since_1970.as_secs() % 60
    };
    while second() > 40 {
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Waits until the trail's present period has ended and another has events.
pub fn next_period(cluster: &Cluster) {
    let current = "SELECT count(*) FROM audit.period p WHERE EXISTS (SELECT FROM audit.batch b WHERE b.recorded_at >= p.starts_at AND b.recorded_at < p.ends_at)";
    knock(cluster);
    let before = cluster.value(current);
    wait_until("the next period", Duration::from_secs(90), || {
        std::thread::sleep(Duration::from_millis(300));
        knock(cluster);
        cluster.value(current) != before
    });
}

pub fn set(cluster: &Cluster, name: &str, value: &str) {
    cluster.configure(name, value);
    cluster.reload();
}

/// Statements go on, so that the worker looks.
pub fn knock(cluster: &Cluster) {
    cluster.psql().run("SELECT 'knock'").ok();
    cluster.flush();
}

#[track_caller]
pub fn until(cluster: &Cluster, what: &str, mut condition: impl FnMut(&Cluster) -> bool) {
    wait_until(what, Duration::from_secs(60), || {
        knock(cluster);
        condition(cluster)
    });
}

pub fn is_gone(cluster: &Cluster, word: &str) -> bool {
    cluster.count(&format!("statement LIKE '%{word}%'")) == 0
}

#[test]
fn what_is_too_old_goes_and_says_so() {
    let cluster = cluster().start();
    early_in_a_period();
    cluster.psql().run("SELECT 'long ago'").ok();
    next_period(&cluster);
    cluster.psql().run("SELECT 'lately'").ok();
    assert!(!is_gone(&cluster, "long ago"));
    let old = cluster.value(
        "SELECT concat_ws(' ', min(e.seq), max(e.seq), count(*)) FROM audit.event e \
         JOIN (SELECT ends_at FROM audit.period ORDER BY starts_at LIMIT 1) p ON e.recorded_at < p.ends_at",
    );
    set(&cluster, "audit.retention", "'3s'");
    until(&cluster, "the old period goes", |c| is_gone(c, "long ago"));
    set(&cluster, "audit.retention", "'1d'");
    until(&cluster, "the trail tells", |c| {
        c.value("SELECT count(*) FROM audit.dropped WHERE told_by IS NULL") == "0"
    });
    // A drop is one event, which names what went. (On a busy machine the next period has gone, too.)
    let told = cluster.trail_of(
        "concat_ws(' ', details ->> 'first_seq', details ->> 'last_seq', details ->> 'events'), details ->> 'reason'",
        "class = 'AUDIT' AND command = 'RETENTION'",
    );
    assert_eq!(told[0], format!("{old} | retention"));
    let dropped = cluster.value("SELECT count(*) FROM audit.dropped");
    assert_eq!(told.len().to_string(), dropped);
    assert!(!is_gone(&cluster, "lately") || told.len() > 1);
    assert_eq!(
        cluster.value("SELECT bool_and(l.command = 'RETENTION') FROM audit.dropped d JOIN audit.log l ON l.seq = d.told_by"),
        "t"
    );
    // No table of it is left; what remains is whole, and seq goes on after a crash.
    assert_eq!(
        cluster.value("SELECT count(*) FROM pg_class c WHERE relnamespace = 'audit'::regnamespace AND relkind = 'r' AND relname ~ '_\\d{8}_' AND NOT EXISTS (SELECT FROM audit.period p WHERE c.relname LIKE '%' || p.suffix)"),
        "0"
    );
    assert_eq!(cluster.query(HOME, "SELECT * FROM audit.verify()"), [""; 0]);
    let last = cluster.flush();
    cluster.restart(Shutdown::Immediate);
    knock(&cluster);
    assert!(cluster.flush() > last);
    assert_eq!(
        cluster.value("SELECT count(*) = max(seq) - min(seq) + 1 FROM audit.log"),
        "t"
    );
    assert_eq!(
        cluster.value("SELECT count(*) = (SELECT count(*) FROM audit.dropped WHERE told_by IS NOT NULL) FROM audit.log WHERE command = 'RETENTION'"),
        "t"
    );
}

#[test]
fn a_legal_hold_keeps_what_it_covers_until_it_is_released() {
    let cluster = cluster().start();
    cluster
        .psql()
        .run("CREATE ROLE keeper LOGIN; GRANT audit_admin TO keeper; CREATE ROLE mallory LOGIN; GRANT audit_reader TO mallory")
        .ok();
    early_in_a_period();
    cluster.psql().run("SELECT 'evidence'").ok();
    next_period(&cluster);
    let mut keeper = cluster.connect("keeper", HOME);
    let hold = "SELECT audit.hold(now() - interval '1 day', now(), 'case 12')";
    let id: i64 = keeper.query_one(hold, &[]).expect("held").get(0);
    set(&cluster, "audit.retention", "'3s'");
    for _ in 0..4 {
        knock(&cluster);
        std::thread::sleep(Duration::from_secs(3));
    }
    assert!(!is_gone(&cluster, "evidence"));
    assert_eq!(
        cluster.trail_of(
            "details -> 'hold' ->> 'reason', user_name, transaction_outcome",
            "class = 'AUDIT' AND command = 'HOLD'"
        ),
        ["case 12 | keeper | committed"]
    );
    assert_eq!(
        cluster.value(
            "SELECT reason || ' ' || held_by || ' ' || (released_at IS NULL) FROM audit.holds"
        ),
        "case 12 keeper true"
    );
    // Bad input.
    for (sql, code) in [
        (
            "SELECT audit.hold(now(), now(), NULL)",
            SqlState::INVALID_PARAMETER_VALUE,
        ),
        (
            "SELECT audit.hold(now(), now(), ' ')",
            SqlState::INVALID_PARAMETER_VALUE,
        ),
        (
            "SELECT audit.hold(NULL, now(), 'x')",
            SqlState::NULL_VALUE_NOT_ALLOWED,
        ),
        (
            "SELECT audit.hold('infinity', '-infinity', 'x')",
            SqlState::INVALID_PARAMETER_VALUE,
        ),
        ("SELECT audit.release(99, 'x')", SqlState::UNDEFINED_OBJECT),
        (
            "SELECT audit.release(NULL, 'x')",
            SqlState::UNDEFINED_OBJECT,
        ),
        (
            "SELECT audit.release(1, '')",
            SqlState::INVALID_PARAMETER_VALUE,
        ),
        (
            "INSERT INTO audit.hold VALUES (2, now(), now(), 'x', 'x', now())",
            SqlState::INSUFFICIENT_PRIVILEGE,
        ),
        ("DELETE FROM audit.hold", SqlState::INSUFFICIENT_PRIVILEGE),
    ] {
        let error = keeper.batch_execute(sql).expect_err(sql);
        let error = error.as_db_error().expect("from the server");
        assert_eq!(
            (
                error.code(),
                error.hint().is_some() || code == SqlState::INSUFFICIENT_PRIVILEGE
            ),
            (&code, true),
            "{sql}: {error:?}"
        );
    }
    let mut mallory = cluster.connect("mallory", HOME);
    for sql in [
        "SELECT audit.hold(now(), now(), 'x')",
        "SELECT audit.release(1, 'x')",
    ] {
        let error = mallory.batch_execute(sql).expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    }
    // A hold that is rolled back holds nothing, and the trail shows that.
    keeper
        .batch_execute("BEGIN; SELECT audit.hold('-infinity', 'infinity', 'undone'); ROLLBACK")
        .expect("rolled back");
    assert_eq!(
        cluster.trail_of(
            "transaction_outcome",
            "command = 'HOLD' AND details -> 'hold' ->> 'reason' = 'undone'"
        ),
        ["rolled back"]
    );
    // The guard was open for its own statement only.
    let error = cluster
        .connect("postgres", HOME)
        .batch_execute("SELECT audit.hold(now(), now(), 'second'); DELETE FROM audit.hold")
        .expect_err("guarded");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    // And it is closed again where that statement fails.
    let mut first = cluster.connect("postgres", HOME);
    first
        .batch_execute("BEGIN; SELECT audit.hold(now(), now(), 'in the way')")
        .expect("held");
    let mut second = cluster.connect("postgres", HOME);
    second
        .batch_execute("SET lock_timeout = '200ms'")
        .expect("set");
    let error = second
        .batch_execute("SELECT audit.hold(now(), now(), 'too late')")
        .expect_err("has to wait");
    assert_eq!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE));
    first.batch_execute("ROLLBACK").expect("ends");
    let error = second
        .batch_execute("DELETE FROM audit.hold")
        .expect_err("guarded");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    keeper
        .query_one("SELECT audit.release($1, 'closed')", &[&id])
        .expect("released");
    until(&cluster, "the released period goes", |c| {
        is_gone(c, "evidence")
    });
    assert_eq!(
        cluster.trail_of("details -> 'hold' ->> 'reason'", "command = 'RELEASE'"),
        ["closed"]
    );
}

/// What fits better than a function of the server's would run where the trail is open.
#[test]
fn a_hold_calls_nothing_of_others() {
    let cluster = Cluster::start();
    let mut admin = cluster.connect("postgres", HOME);
    admin
        .batch_execute(
            "CREATE FUNCTION pg_catalog.jsonb_build_object(text, bigint, text, timestamptz, text, timestamptz, text, text)
                 RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN DELETE FROM audit.event; RETURN '{}'; END $$;
             SELECT audit.hold('-infinity', 'infinity', 'a \"case\"'); SELECT audit.release(1, 'closed')",
        )
        .expect("held and released");
    assert_eq!(
        cluster.trail_of(
            "command, details ->> 'hold'",
            "command IN ('HOLD', 'RELEASE')"
        ),
        [
            r#"HOLD | {"id": 1, "to": "infinity", "from": "-infinity", "reason": "a \"case\""}"#,
            r#"RELEASE | {"id": 1, "to": "infinity", "from": "-infinity", "reason": "closed"}"#
        ]
    );
    crate::integrity::assert_whole(&cluster);
}

/// What became of a held event's transaction stays known when the period of the decision is dropped.
#[test]
fn fates_of_what_is_kept_are_kept() {
    let cluster = cluster().start();
    early_in_a_period();
    let mut client = cluster.app();
    client
        .batch_execute("CREATE TABLE t (x int); BEGIN; INSERT INTO t VALUES (4711)")
        .expect("begins");
    cluster.flush();
    let held = cluster.value("SELECT min(started_at) FROM audit.log WHERE statement LIKE '%4711%'");
    // The decision comes into a later period than the event.
    next_period(&cluster);
    client.batch_execute("ROLLBACK").expect("rolls back");
    cluster.psql().run("SELECT 'in the second'").ok();
    knock(&cluster);
    let outcome = |c: &Cluster| c.trail("transaction_outcome", "statement LIKE '%4711%'");
    assert_eq!(outcome(&cluster), ["rolled back"]);
    next_period(&cluster);
    let hold = format!("SELECT audit.hold('{held}', '{held}', 'the first period')");
    cluster.query(HOME, &hold);
    set(&cluster, "audit.retention", "'3s'");
    until(&cluster, "the second period goes", |c| {
        is_gone(c, "in the second")
    });
    assert_eq!(outcome(&cluster), ["rolled back"]);
}

/// The same where the clock shows a time that there is no period for, as it was set back.
#[test]
fn fates_are_kept_although_the_clock_was_set_back() {
    let clock = Clock::new();
    let cluster = clock.of(cluster()).start();
    let mut client = cluster.app();
    client
        .batch_execute("CREATE TABLE t (x int); BEGIN; INSERT INTO t VALUES (4711)")
        .expect("begins");
    cluster.flush();
    let held = cluster.value("SELECT min(started_at) FROM audit.log WHERE statement LIKE '%4711%'");
    clock.set_ahead(61);
    client
        .batch_execute("ROLLBACK; SELECT 'in the second'")
        .expect("rolls back");
    knock(&cluster);
    clock.set_ahead(122);
    fill(&cluster, 2000);
    let hold = format!("SELECT audit.hold('{held}', '{held}', 'the first period')");
    cluster.query(HOME, &hold);
    clock.set_ahead(-3600);
    cluster.configure("audit.on_max_size", "'drop_oldest'");
    set(&cluster, "audit.max_size", "'1MB'");
    until(&cluster, "the second period goes", |c| {
        is_gone(c, "in the second")
    });
    assert_eq!(
        cluster.trail(
            "transaction_outcome",
            "command = 'INSERT' AND statement LIKE '%4711%'"
        ),
        ["rolled back"]
    );
}

fn fill(cluster: &Cluster, statements: u32) {
    cluster
        .psql()
        .run(format!(
            "DO $$ BEGIN FOR i IN 1..{statements} LOOP EXECUTE 'SELECT ' || i || ' /* ' || repeat(md5(i::text), 20) || '*/'; END LOOP; END $$"
        ))
        .ok();
    cluster.flush();
}

#[test]
fn a_full_trail_warns() {
    let cluster = cluster().setting("audit.max_size", "'4MB'").start();
    fill(&cluster, 8000);
    until(&cluster, "the log warns", |c| {
        c.log().contains("% of audit.max_size")
    });
    // Nothing is dropped or refused, and it isn't said again and again.
    knock(&cluster);
    std::thread::sleep(Duration::from_secs(11));
    knock(&cluster);
    let warnings = cluster.log().matches("% of audit.max_size").count();
    assert!((1..=2).contains(&warnings), "{}", cluster.log());
    assert!(cluster.count("true") > 8000);
}

/// At 75 % the log warns, and again when it is full.
#[test]
fn a_trail_that_is_nearly_full_warns_early() {
    let cluster = Cluster::start();
    fill(&cluster, 2000);
    until(&cluster, "the next period is made", |c| {
        c.value("SELECT count(*) FROM audit.period") == "2"
    });
    let size: u64 = cluster
        .value("SELECT store_size FROM audit.status")
        .parse()
        .expect("bytes");
    let warnings = |cluster: &Cluster| -> Vec<u64> {
        let log = cluster.log();
        let said = log.split("bytes, ").skip(1);
        said.filter_map(|rest| rest.split_once(" % of audit.max_size"))
            .map(|(percent, _)| percent.parse().expect("a number"))
            .collect()
    };
    for (percent, expected) in [(50, 0), (85, 1), (88, 1), (130, 2)] {
        let limit = format!("'{}kB'", size * 100 / percent / 1024);
        set(&cluster, "audit.max_size", &limit);
        until(&cluster, "as many warnings as due", |c| {
            warnings(c).len() >= expected
        });
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(100));
            knock(&cluster);
        }
        let said = warnings(&cluster);
        assert_eq!(said.len(), expected, "at {percent} %: {said:?}");
    }
    let said = warnings(&cluster);
    assert!((75..100).contains(&said[0]) && said[1] >= 100, "{said:?}");
}

#[test]
fn a_full_trail_drops_its_oldest_periods() {
    let cluster = cluster().start();
    early_in_a_period();
    cluster.psql().run("SELECT 'the oldest'").ok();
    fill(&cluster, 8000);
    next_period(&cluster);
    cluster.psql().run("SELECT 'the newest'").ok();
    set(&cluster, "audit.on_max_size", "drop_oldest");
    set(&cluster, "audit.max_size", "'4MB'");
    until(&cluster, "the oldest period goes", |c| {
        is_gone(c, "the oldest")
    });
    assert!(!is_gone(&cluster, "the newest"));
    until(&cluster, "the trail tells", |c| {
        !c.trail_of(
            "seq",
            "command = 'RETENTION' AND details ->> 'reason' = 'max_size'",
        )
        .is_empty()
    });
    let size = cluster.value("SELECT store_size FROM audit.status");
    assert!(size.parse::<u64>().expect("a size") < 6 << 20, "{size}");
}

#[test]
fn a_full_trail_refuses_whoever_is_no_superuser() {
    let cluster = cluster()
        .setting("audit.max_size", "'4MB'")
        .setting("audit.on_max_size", "refuse")
        .start();
    cluster.psql().run("CREATE ROLE bob LOGIN").ok();
    let mut bob = cluster.connect("bob", "app");
    bob.batch_execute("SELECT 1").expect("not full yet");
    fill(&cluster, 8000);
    until(&cluster, "bob is refused", |_| {
        match bob.batch_execute("SELECT 2") {
            Ok(()) => false,
            Err(error) => {
                let error = error.as_db_error().expect("from the server");
                assert_eq!(error.code(), &SqlState::CONFIGURATION_LIMIT_EXCEEDED);
                assert!(
                    error
                        .hint()
                        .is_some_and(|hint| hint.contains("audit.max_size"))
                );
                true
            }
        }
    });
    // A superuser mends it, on record.
    cluster
        .psql()
        .run("ALTER SYSTEM SET audit.max_size = '1GB'")
        .ok();
    cluster.psql().run("SELECT pg_reload_conf()").ok();
    eventually("bob is let in again", || {
        bob.batch_execute("SELECT 3").is_ok()
    });
}

/// Members of audit_admin change retention and size, without being superusers.
#[test]
fn an_administrator_may_change_the_limits() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("CREATE ROLE keeper LOGIN; GRANT audit_admin TO keeper")
        .ok();
    let mut keeper = cluster.connect("keeper", "app");
    for sql in [
        "ALTER SYSTEM SET audit.retention = '90d'",
        "ALTER SYSTEM SET audit.max_size = '10GB'",
        "ALTER SYSTEM SET audit.on_max_size = 'drop_oldest'",
        "ALTER SYSTEM SET audit.partition_interval = '1h'",
        "SET audit.role = 'keeper'",
    ] {
        keeper
            .batch_execute(sql)
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    cluster.reload();
    assert_eq!(
        cluster.value("SELECT concat_ws(' ', current_setting('audit.retention'), current_setting('audit.max_size'), current_setting('audit.on_max_size'))"),
        "90d 10GB drop_oldest"
    );
    assert_eq!(
        cluster.trail_of("details ->> 'setting'", "command = 'SETTING' AND details ->> 'setting' = 'audit.retention' AND database_name = 'app'").len(),
        0
    );
}
