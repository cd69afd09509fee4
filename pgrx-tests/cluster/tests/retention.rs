//! How long and how large the trail becomes: periods dropped, what they leave, and what keeps them.

use audit_cluster_tests::{Builder, Cluster, Shutdown, eventually, wait_until};
use postgres::error::SqlState;
use std::time::Duration;

const HOME: &str = "postgres";

/// A trail with short periods. The first minutes of a cluster are made to look older by hand: an
/// unlocked superuser moves the bounds of a period's partitions, as no test can wait for hours.
fn cluster() -> Builder {
    Cluster::builder().setting("audit.partition_interval", "'1min'")
}

/// Makes the trail's present period end, so that what comes goes into a new one: moves the period with
/// all of its partitions so many days into the past.
fn age(cluster: &Cluster, days: u32) {
    cluster.flush();
    // The worker attaches anew afterwards, and finds that its present period isn't there.
    let sql = format!(
        "SELECT audit.unlock('test: age the trail');
         DO $age$
         DECLARE p audit.period; t text; part text; c text; old interval := '{days} days';
                 starts timestamptz; ends timestamptz;
         BEGIN
             SET LOCAL session_replication_role = replica;
             FOR p IN SELECT * FROM audit.period WHERE starts_at > now() - interval '1 hour' LOOP
                 starts := p.starts_at - old; ends := p.ends_at - old;
                 FOREACH t IN ARRAY ARRAY['event', 'fate', 'batch'] LOOP
                     part := 'audit.' || t || '_' || p.suffix;
                     EXECUTE 'ALTER TABLE audit.' || t || ' DETACH PARTITION ' || part;
                     EXECUTE 'UPDATE ' || part || ' SET recorded_at = recorded_at - ' || quote_literal(old) || '::interval';
                     IF t = 'event' THEN
                         FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = part::regclass AND conname LIKE '%started_at' LOOP
                             EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', part, c);
                         END LOOP;
                         EXECUTE 'UPDATE ' || part || ' SET started_at = started_at - ' || quote_literal(old) || '::interval';
                     END IF;
                     EXECUTE format('ALTER TABLE audit.%s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', t, part, starts, ends);
                 END LOOP;
                 -- References begin with the minute of their period.
                 EXECUTE format('UPDATE audit.event_%s SET session = session - (%s::bigint << 36), statement = statement - (%s::bigint << 36)',
                                p.suffix, {days} * 1440, {days} * 1440);
                 FOREACH t IN ARRAY ARRAY['session', 'statement'] LOOP
                     part := 'audit.' || t || '_' || p.suffix;
                     EXECUTE 'ALTER TABLE audit.' || t || ' DETACH PARTITION ' || part;
                     EXECUTE format('UPDATE %s SET ref = ref - (%s::bigint << 36)', part, {days} * 1440);
                     EXECUTE format('ALTER TABLE audit.%s ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)', t, part,
                                    (extract(epoch FROM starts - '2000-01-01 00:00Z') / 60)::bigint << 36,
                                    (extract(epoch FROM ends - '2000-01-01 00:00Z') / 60)::bigint << 36);
                 END LOOP;
                 -- The worker may make a period of that minute again.
                 FOR c IN SELECT relname FROM pg_class WHERE relnamespace = 'audit'::regnamespace
                             AND relkind IN ('r', 'i') AND relname LIKE '%' || p.suffix || '%' LOOP
                     EXECUTE format('ALTER %s audit.%I RENAME TO %I', CASE WHEN c LIKE '%' || p.suffix THEN 'TABLE' ELSE 'INDEX' END,
                                    c, replace(c, p.suffix, 'old' || p.suffix));
                 END LOOP;
                 UPDATE audit.period SET starts_at = starts, ends_at = ends, suffix = 'old' || p.suffix,
                        closed_at = NULL, frozen_at = NULL, size = NULL WHERE suffix = p.suffix;
             END LOOP;
         END $age$;"
    );
    let output = cluster.psql().db(HOME).run(sql);
    assert!(!output.stderr.contains("ERROR"), "{output:?}");
    cluster.restart(Shutdown::Fast);
}

fn periods(cluster: &Cluster) -> String {
    cluster.value("SELECT count(*) FROM audit.period WHERE ends_at < now() - interval '1 hour'")
}

/// Statements go on, so that the worker looks.
fn knock(cluster: &Cluster) {
    cluster.psql().run("SELECT 'knock'").ok();
    cluster.flush();
}

#[track_caller]
fn until(cluster: &Cluster, what: &str, mut condition: impl FnMut(&Cluster) -> bool) {
    wait_until(what, Duration::from_secs(60), || {
        knock(cluster);
        condition(cluster)
    });
}

#[test]
fn what_is_too_old_goes_and_says_so() {
    let cluster = cluster().start();
    cluster.psql().run("SELECT 'long ago'").ok();
    age(&cluster, 30);
    cluster.psql().run("SELECT 'lately'").ok();
    knock(&cluster);
    assert_eq!(cluster.count("statement LIKE '%long ago%'"), 1);
    let old = cluster.value("SELECT concat_ws(' ', min(seq), max(seq), count(*)) FROM audit.event WHERE recorded_at < now() - interval '1 hour'");
    cluster.configure("audit.retention", "'7d'");
    cluster.reload();
    until(&cluster, "the old periods go", |c| periods(c) == "0");
    assert_eq!(cluster.count("statement LIKE '%long ago%'"), 0);
    assert_eq!(cluster.count("statement LIKE '%lately%'"), 1);
    until(&cluster, "the trail tells", |c| {
        c.value("SELECT count(*) FROM audit.dropped WHERE told_by IS NULL") == "0"
    });
    // Each drop is one event, which names what went.
    let told = cluster.trail_of(
        "(details ->> 'events')::int, details ->> 'reason'",
        "class = 'AUDIT' AND command = 'RETENTION' AND (details ->> 'events')::int > 0",
    );
    let events: Vec<&str> = told[0].split(" | ").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(events[1], "retention");
    assert_eq!(
        cluster.value("SELECT concat_ws(' ', details ->> 'first_seq', details ->> 'last_seq', details ->> 'events') FROM audit.log WHERE command = 'RETENTION' AND details ? 'first_seq'"),
        old
    );
    assert_eq!(
        cluster.value("SELECT bool_and(l.command = 'RETENTION') FROM audit.dropped d JOIN audit.log l ON l.seq = d.told_by"),
        "t"
    );
    assert_eq!(
        cluster.value(
            "SELECT count(*) = count(DISTINCT seq) FROM audit.log WHERE command = 'RETENTION'"
        ),
        "t"
    );
    // No table of it is left, and seq goes on after a restart.
    assert_eq!(
        cluster.value("SELECT count(*) FROM pg_class c WHERE relnamespace = 'audit'::regnamespace AND relkind = 'r' AND relname ~ '_(old)?\\d{8}_' AND NOT EXISTS (SELECT FROM audit.period p WHERE c.relname LIKE '%' || p.suffix)"),
        "0"
    );
    let last = cluster.flush();
    cluster.restart(Shutdown::Immediate);
    knock(&cluster);
    assert!(cluster.flush() > last);
    assert_eq!(
        cluster.value("SELECT count(*) = max(seq) - min(seq) + 1 FROM audit.log"),
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
    cluster.psql().run("SELECT 'evidence'").ok();
    age(&cluster, 30);
    knock(&cluster);
    let mut keeper = cluster.connect("keeper", HOME);
    let hold =
        "SELECT audit.hold(now() - interval '40 days', now() - interval '20 days', 'case 12')";
    let id: i64 = keeper.query_one(hold, &[]).expect("held").get(0);
    cluster.configure("audit.retention", "'7d'");
    cluster.reload();
    for _ in 0..3 {
        knock(&cluster);
        std::thread::sleep(Duration::from_secs(3));
    }
    assert_eq!(cluster.count("statement LIKE '%evidence%'"), 1);
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
    keeper
        .query_one("SELECT audit.release($1, 'closed')", &[&id])
        .expect("released");
    until(&cluster, "the released period goes", |c| periods(c) == "0");
    assert_eq!(cluster.count("statement LIKE '%evidence%'"), 0);
    assert_eq!(
        cluster.trail_of("details -> 'hold' ->> 'reason'", "command = 'RELEASE'"),
        ["closed"]
    );
}

/// Somebody who has read and idles in his transaction keeps a period from being dropped, and nothing
/// from being recorded.
#[test]
fn an_idle_reader_delays_the_drop_and_not_the_trail() {
    let cluster = cluster().start();
    cluster.psql().run("SELECT 'long ago'").ok();
    age(&cluster, 30);
    knock(&cluster);
    let mut reader = cluster.connect("postgres", HOME);
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM audit.log")
        .expect("reads");
    cluster.configure("audit.retention", "'7d'");
    cluster.reload();
    let end = std::time::Instant::now() + Duration::from_secs(12);
    while std::time::Instant::now() < end {
        let begun = std::time::Instant::now();
        knock(&cluster);
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "the drain stood still"
        );
    }
    assert_ne!(periods(&cluster), "0");
    assert!(
        !cluster.log().contains("cannot store events"),
        "{}",
        cluster.log()
    );
    reader.batch_execute("COMMIT").expect("ends");
    until(&cluster, "the period goes", |c| periods(c) == "0");
}

/// What became of a held event's transaction stays known when the period of the decision is dropped.
#[test]
fn fates_of_what_is_kept_are_kept() {
    let cluster = cluster().start();
    let mut client = cluster.app();
    client
        .batch_execute("CREATE TABLE t (x int); BEGIN; INSERT INTO t VALUES (4711)")
        .expect("begins");
    cluster.flush();
    // The decision comes into a later period than the event.
    wait_until("the next minute", Duration::from_secs(70), || {
        std::thread::sleep(Duration::from_millis(500));
        knock(&cluster);
        cluster
            .value("SELECT count(DISTINCT date_trunc('minute', recorded_at)) > 1 FROM audit.event")
            == "t"
    });
    client.batch_execute("ROLLBACK").expect("rolls back");
    knock(&cluster);
    assert_eq!(
        cluster.trail("transaction_outcome", "statement LIKE '%4711%'"),
        ["rolled back"]
    );
    let first: String =
        cluster.value("SELECT min(recorded_at) - interval '30 days' FROM audit.event");
    age(&cluster, 30);
    knock(&cluster);
    cluster.query(
        HOME,
        &format!(
            "SELECT audit.hold('{first}'::timestamptz, '{first}'::timestamptz, 'the first period')"
        ),
    );
    cluster.configure("audit.retention", "'7d'");
    cluster.reload();
    until(&cluster, "all but the held period go", |c| {
        periods(c) == "1"
    });
    assert_eq!(
        cluster.trail("transaction_outcome", "statement LIKE '%4711%'"),
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

#[test]
fn a_full_trail_drops_its_oldest_periods() {
    let cluster = cluster().start();
    fill(&cluster, 8000);
    age(&cluster, 2);
    fill(&cluster, 100);
    cluster.configure("audit.max_size", "'4MB'");
    cluster.configure("audit.on_max_size", "drop_oldest");
    cluster.reload();
    until(&cluster, "the oldest period goes", |c| {
        c.value("SELECT count(*) FROM audit.event WHERE recorded_at < now() - interval '1 hour'")
            == "0"
    });
    assert_eq!(cluster.value("SELECT count(*) > 0 FROM audit.event"), "t");
    until(&cluster, "the trail tells", |c| {
        !c.trail_of(
            "seq",
            "command = 'RETENTION' AND details ->> 'reason' = 'max_size'",
        )
        .is_empty()
    });
    assert!(
        cluster
            .value("SELECT store_size FROM audit.status")
            .parse::<u64>()
            .expect("a size")
            < 6 << 20
    );
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
