//! A text that a session repeats is in the ring once in a while only; every event is whole all the
//! same, whoever is killed and whatever changes between two of them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use audit_cluster_tests::{Cluster, eventually, kill};
use postgres::Client;

use crate::fails;
use crate::load::{check_event_numbers, check_order};

const TEXT: &str = "SELECT n FROM t WHERE n > 0";

fn cluster(ring_size: &str) -> Cluster {
    let cluster = Cluster::builder()
        .durable()
        .setting("audit.ring_size", ring_size)
        .start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    cluster
}

fn run(client: &mut Client, sql: &str, times: usize) {
    for _ in 0..times {
        client.batch_execute(sql).expect("runs");
    }
}

/// All that the event itself doesn't hold, of those of [`TEXT`].
fn whole(cluster: &Cluster) -> Vec<String> {
    let columns =
        "DISTINCT command, object_name, relations, user_name, outcome, transaction_outcome";
    cluster.flush();
    cluster.query(
        "postgres",
        &format!("SELECT {columns}, count(*) FROM audit.log WHERE statement = '{TEXT}' GROUP BY 1, 2, 3, 4, 5, 6"),
    )
}

fn expected(count: usize) -> [String; 1] {
    [format!(
        "SELECT | public.t | {{public.t}} | postgres | success | committed | {count}"
    )]
}

#[test]
fn what_a_repeat_refers_to_may_be_in_the_trail_when_everybody_is_killed() {
    let cluster = cluster("'1MB'");
    let mut client = cluster.app();
    run(&mut client, TEXT, 5);
    cluster.flush();
    // From here on only the ring's file knows; the records that say everything are drained.
    cluster.suspend_worker();
    run(&mut client, TEXT, 5);
    cluster.kill_all();
    let file = fs::read(cluster.data_dir().join("pg_audit/ring")).expect("the ring");
    let held = file.windows(TEXT.len()).filter(|w| *w == TEXT.as_bytes());
    let held = held.count();
    // In the record to which the others refer, and in the session's slot.
    assert_eq!(held, 2, "times in the ring's file");
    cluster.start_again();
    assert_eq!(whole(&cluster), expected(10));
    check_event_numbers(&cluster, "true");
    check_order(&cluster);
}

#[test]
fn a_worker_that_begins_between_the_two_reads_what_it_needs() {
    let cluster = cluster("'1MB'");
    let mut client = cluster.app();
    run(&mut client, TEXT, 3);
    for _ in 0..4 {
        cluster.flush();
        let old = cluster.worker_pid().expect("runs");
        cluster.query("postgres", &format!("SELECT pg_terminate_backend({old})"));
        run(&mut client, TEXT, 2);
        eventually("another worker runs", || {
            cluster.worker_pid().is_some_and(|new| new != old)
        });
    }
    assert_eq!(whole(&cluster), expected(11));
    check_event_numbers(&cluster, "true");
}

#[test]
fn workers_that_live_for_a_short_time_give_the_ring_back() {
    let cluster = cluster("'1MB'");
    let mut client = cluster.app();
    // Each life drains less than what stands for references; together it is more than the ring.
    let lives = 20;
    for _ in 0..lives {
        run(&mut client, TEXT, 600);
        cluster.flush();
        let old = cluster.worker_pid().expect("runs");
        cluster.query("postgres", &format!("SELECT pg_terminate_backend({old})"));
        eventually("another worker runs", || {
            cluster.worker_pid().is_some_and(|new| new != old)
        });
    }
    assert_eq!(whole(&cluster), expected(lives * 600));
    assert!(
        !cluster.log().contains("the audit ring is"),
        "it is never nearly full"
    );
}

#[test]
fn a_record_that_is_too_far_away_is_not_referred_to() {
    // The reach is 64 kB, some 680 repeats; what is pushed here has ten times that.
    let cluster = cluster("'1MB'");
    assert_eq!(cluster.value("SHOW audit.ring_size"), "1MB");
    let mut clients = [cluster.app(), cluster.app(), cluster.app()];
    for n in 0..400 {
        for client in &mut clients {
            run(client, TEXT, 1 + n % 7);
        }
        run(&mut clients[n % 3], &format!("SELECT {n} AS other"), n % 5);
    }
    let repeats = 3 * (0..400).map(|n| 1 + n % 7).sum::<usize>();
    assert_eq!(whole(&cluster), expected(repeats));
    let others = (0..400).map(|n| n % 5).sum::<usize>();
    assert_eq!(cluster.count("statement LIKE '% AS other'"), others);
    check_event_numbers(&cluster, "true");
    check_order(&cluster);
}

#[test]
fn what_changes_between_two_of_them_is_on_record() {
    let cluster = cluster("'1MB'");
    cluster
        .psql()
        .run("CREATE SCHEMA s; CREATE TABLE s.t (n int); CREATE ROLE other; GRANT SELECT ON t TO other; CREATE VIEW v AS SELECT 1 AS n")
        .ok();
    let mut client = cluster.app();
    for (change, seen) in [
        ("SELECT 1", "public.t | postgres |  |  | success"),
        (
            "SET search_path = s, public",
            "s.t | postgres |  |  | success",
        ),
        (
            "ALTER TABLE s.t RENAME TO gone",
            "public.t | postgres |  |  | success",
        ),
        (
            "SET application_name = 'app'",
            "public.t | postgres | app |  | success",
        ),
        (
            "SET audit.context = '{\"a\": 1}'",
            "public.t | postgres | app | {\"a\": 1} | success",
        ),
        (
            "SET ROLE other",
            "public.t | other | app | {\"a\": 1} | success",
        ),
        (
            "RESET ROLE",
            "public.t | postgres | app | {\"a\": 1} | success",
        ),
        (
            "ALTER TABLE public.t RENAME TO gone; ALTER VIEW v RENAME TO t",
            "public.t | postgres | app | {\"a\": 1} | success",
        ),
    ] {
        cluster.flush();
        let before = cluster.value("SELECT max(seq) FROM audit.log");
        run(&mut client, change, 1);
        run(&mut client, TEXT, 4);
        let found = cluster.trail(
            "concat_ws(' | ', object_name, role_name, application_name, coalesce(context::text, ''), outcome)",
            &format!("statement = '{TEXT}' AND seq > {before}"),
        );
        assert_eq!(found, [seen; 4], "{change}");
    }
    // A view by the same name is another kind of object.
    let kinds =
        format!("statement = '{TEXT}' AND object_type = 'VIEW' AND relations @> '{{public.t}}'");
    assert_eq!(cluster.count(&kinds), 4);
    // And one that fails says why.
    run(&mut client, "ALTER VIEW t RENAME TO v", 1);
    fails(&mut client, TEXT);
    let failed = format!("statement = '{TEXT}' AND outcome = 'failed' AND sqlstate = '42P01'");
    assert_eq!(cluster.count(&failed), 1);
    check_event_numbers(&cluster, "true");
}

/// The server doesn't plan these anew, so it is their begin alone that may look at the session.
#[test]
fn a_prepared_statement_has_the_session_of_its_time() {
    let cluster = cluster("'1MB'");
    let mut client = cluster.app();
    let texts = [TEXT, "INSERT INTO t VALUES (0)"];
    let prepared = texts.map(|text| client.prepare(text).expect("prepares"));
    let mut expected = Vec::new();
    let (mut context, mut app) = (0, 0);
    for n in 1..=12 {
        if n % 2 == 0 {
            app = n;
            run(
                &mut client,
                &format!("SELECT set_config('application_name', '{app}', false)"),
                1,
            );
        } else {
            context = n;
            run(
                &mut client,
                &format!("SET audit.context = '{{\"n\": {context}}}'"),
                1,
            );
        }
        // Each is the first after one of the changes, and each comes again.
        for turn in 0..4 {
            let which = (n / 2 + turn / 2) % 2;
            client.execute(&prepared[which], &[]).expect("runs");
            expected.push(format!("{} | {context} | {app}", texts[which]));
        }
    }
    let found = cluster.trail(
        "statement, context->>'n', coalesce(nullif(application_name, ''), '0')",
        "command IN ('SELECT', 'INSERT') AND statement NOT LIKE '%set_config%'",
    );
    assert_eq!(found, expected);
    check_event_numbers(&cluster, "true");
}

#[test]
fn a_prepared_statement_has_the_names_of_its_time() {
    let cluster = cluster("'1MB'");
    let mut client = cluster.app();
    let mut elsewhere = cluster.app();
    run(&mut client, "SET search_path = public, s, \"S 2\"", 1);
    run(&mut elsewhere, "CREATE SCHEMA s", 1);
    let prepared = client.prepare(TEXT).expect("prepares");
    let mut expected = Vec::new();
    for (change, name) in [
        ("SELECT 1", "public.t"),
        ("ALTER TABLE public.t SET SCHEMA s", "s.t"),
        ("ALTER SCHEMA s RENAME TO \"S 2\"", "\"S 2\".t"),
        ("ANALYZE \"S 2\".t", "\"S 2\".t"),
    ] {
        run(&mut elsewhere, change, 1);
        for _ in 0..5 {
            client.execute(&prepared, &[]).expect("runs");
            expected.push(format!("{name} | {name}"));
        }
    }
    cluster.flush();
    let found = cluster.trail(
        "object_name || ' | ' || array_to_string(relations, ', ')",
        &format!("statement = '{TEXT}'"),
    );
    assert_eq!(found, expected);
    check_event_numbers(&cluster, "true");
}

#[test]
fn the_fifth_time_says_what_the_first_did() {
    let cluster = cluster("'1MB'");
    cluster
        .psql()
        .run(
            "CREATE TABLE a (n int); CREATE TABLE b (n int); CREATE TABLE c (n int); CREATE TABLE d (n int);
             CREATE VIEW v AS SELECT n FROM a; CREATE VIEW w AS SELECT n FROM a;
             CREATE RULE also AS ON INSERT TO w DO ALSO INSERT INTO b VALUES (new.n);
             CREATE TABLE p (n int) PARTITION BY RANGE (n);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
             CREATE FUNCTION f(n int) RETURNS int LANGUAGE plpgsql AS
             $$ BEGIN PERFORM FROM a; INSERT INTO b VALUES (n); RETURN n; END $$;
             INSERT INTO t VALUES (1); INSERT INTO a VALUES (1)",
        )
        .ok();
    let times = 5;
    let texts = [
        "SELECT 1",
        "SELECT FROM a JOIN b ON true",
        "SELECT FROM t, a, b, c, d, p, v",
        "SELECT FROM v",
        "SELECT FROM pg_class LIMIT 1",
        "INSERT INTO v VALUES (1)",
        "INSERT INTO w VALUES (2)",
        "INSERT INTO p VALUES (3)",
        "INSERT INTO a SELECT n FROM t",
        "UPDATE a SET n = 1 FROM b",
        "UPDATE v SET n = 1",
        "DELETE FROM c USING d",
        "WITH x AS (INSERT INTO c VALUES (1) RETURNING n) SELECT FROM x, a",
        "SELECT f(n) FROM t",
        "SELECT FROM a WHERE n = (SELECT max(n) FROM b) FOR UPDATE",
        "EXPLAIN ANALYZE SELECT FROM a, b",
        "COPY (SELECT n FROM a WHERE n < 0) TO '/dev/null'",
        "DECLARE x CURSOR WITH HOLD FOR SELECT FROM a; FETCH x; CLOSE x",
        "VALUES (1), (2)",
    ];
    cluster.flush();
    let before = cluster.value("SELECT max(seq) FROM audit.log");
    let mut client = cluster.app();
    // One after the other, and each by itself: the frame that a statement gets had another one before,
    // or the same.
    for _ in 0..times {
        for text in texts {
            run(&mut client, text, 1);
        }
    }
    for text in texts {
        run(&mut client, text, times);
    }
    cluster.flush();
    let all =
        "class, command, object_type, object_name, relations, statement, user_name, outcome, depth";
    let odd = cluster.query(
        "postgres",
        &format!(
            "SELECT {all}, count(*) FROM audit.log WHERE seq > {before} AND class <> 'SESSION' AND statement NOT LIKE '%audit.%'
             GROUP BY {all} HAVING count(*) % {times} <> 0"
        ),
    );
    assert_eq!(odd, Vec::<String>::new());
    // And the first is right.
    for (text, object, relations) in [
        ("SELECT FROM a JOIN b ON true", "", "{public.a,public.b}"),
        ("SELECT FROM v", "", "{public.v,public.a}"),
        (
            "INSERT INTO v VALUES (1)",
            "VIEW public.v",
            "{public.a,public.v}",
        ),
        ("INSERT INTO p VALUES (3)", "TABLE public.p", "{public.p}"),
        (
            "UPDATE a SET n = 1 FROM b",
            "TABLE public.a",
            "{public.a,public.b}",
        ),
        (
            "SELECT FROM pg_class LIMIT 1",
            "TABLE pg_catalog.pg_class",
            "{pg_catalog.pg_class}",
        ),
    ] {
        let found = cluster.query(
            "postgres",
            &format!(
                "SELECT concat_ws(' ', object_type, object_name), (SELECT array_agg(r ORDER BY r) FROM unnest(relations) r) =
                 (SELECT array_agg(r ORDER BY r) FROM unnest('{relations}'::text[]) r), count(*)
                 FROM audit.log WHERE statement = '{text}' GROUP BY 1, 2"
            ),
        );
        assert_eq!(found, [format!("{object} | t | {}", 2 * times)], "{text}");
    }
    check_event_numbers(&cluster, "true");
}

#[test]
fn a_query_of_the_catalog_is_left_out_however_often_it_was_recorded() {
    let cluster = cluster("'1MB'");
    let mut client = cluster.app();
    let text = "SELECT FROM pg_class WHERE oid = 1259";
    let mut expected = 0;
    for (setting, recorded) in [("on", 4), ("off", 0), ("on", 4), ("off", 0)] {
        run(&mut client, &format!("SET audit.catalog = {setting}"), 1);
        run(&mut client, text, 4);
        expected += recorded;
        assert_eq!(
            cluster.count(&format!("statement = '{text}'")),
            expected,
            "{setting}"
        );
    }
    check_event_numbers(&cluster, "true");
}

#[test]
fn a_damaged_record_costs_those_that_repeat_it_and_no_more() {
    let cluster = cluster("'1MB'");
    let worker = cluster.suspend_worker();
    let mut client = cluster.app();
    run(&mut client, TEXT, 6);
    // The second to sixth refer to the first.
    let path = cluster.data_dir().join("pg_audit/ring");
    let bytes = fs::read(&path).expect("the ring");
    let first = bytes
        .windows(TEXT.len())
        .position(|window| window == TEXT.as_bytes());
    let file = OpenOptions::new().write(true).open(&path).expect("opens");
    file.write_at(b"X", first.expect("the first record") as u64)
        .expect("damages it");
    assert!(kill(worker, "CONT"));
    cluster.flush();
    let gaps = cluster.trail_of("details->>'reason'", "command = 'GAP'");
    assert_eq!(gaps[0], "the CRC is wrong");
    assert_eq!(gaps[1..], ["it repeats a record that cannot be read"; 5]);
    assert_eq!(whole(&cluster), Vec::<String>::new());
    // What the session does from now on refers to nothing of before.
    run(&mut client, TEXT, 5);
    assert_eq!(whole(&cluster), expected(5));
    assert_eq!(cluster.trail_of("seq", "command = 'GAP'").len(), 6);
    check_order(&cluster);
}

#[test]
fn a_ring_of_before_is_printed_whole_without_the_server() {
    let cluster = cluster("'1MB'");
    cluster.suspend_worker();
    let mut client = cluster.app();
    run(&mut client, TEXT, 5);
    cluster.kill_all();
    let done = cluster
        .program("audit-verify")
        .args([
            "ring".as_ref(),
            cluster.data_dir().join("pg_audit/ring").as_os_str(),
        ])
        .output()
        .expect("audit-verify runs");
    let printed = String::from_utf8_lossy(&done.stdout);
    let text = format!("relations {{public.t}} error - details - decides [] text {TEXT}");
    assert_eq!(printed.matches(&text).count(), 5, "{printed}");
}
