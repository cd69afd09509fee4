//! Sessions that are killed: what they had begun is on record as unfinished, with the fate of their
//! transaction and the session's end (spec/delivery.md, "In-flight slots").

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use audit_cluster_tests::{Cluster, Shutdown, eventually};
use postgres::Client;

use crate::load::{Load, check_event_numbers, check_order};
use crate::soak::{a_while, random, series};

const COLUMNS: &str = "depth, command, outcome, transaction_outcome, statement";

/// The process that serves this client.
pub fn pid(client: &mut Client) -> u32 {
    let row = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a pid");
    row.get::<_, i32>(0) as u32
}

/// All that session `pid` did after its question for the pid.
fn session(cluster: &Cluster, pid: u32) -> Vec<String> {
    cluster
        .trail_of(
            COLUMNS,
            &format!("pid = {pid} AND backend_type = 'client backend' AND command <> 'CONNECT'"),
        )
        .into_iter()
        .filter(|line| !line.contains("pg_backend_pid"))
        .collect()
}

fn sleep_in_background(mut client: Client, sql: &'static str) -> thread::JoinHandle<()> {
    let handle = thread::spawn(move || {
        let _ = client.batch_execute(sql);
    });
    thread::sleep(Duration::from_millis(500));
    handle
}

#[test]
fn a_backend_killed_in_mid_statement() {
    let cluster = Cluster::builder().durable().start();
    let mut client = cluster.app();
    let victim = pid(&mut client);
    client
        .batch_execute("CREATE TABLE t (x int)")
        .expect("creates");
    let waits = sleep_in_background(
        client,
        "INSERT INTO t SELECT 1 FROM pg_sleep(60) /* killed */",
    );
    assert!(cluster.kill_child(victim));
    waits.join().expect("the client sees its end");
    assert_eq!(
        session(&cluster, victim),
        [
            "0 | CREATE TABLE | success | committed | CREATE TABLE t (x int)",
            "0 | INSERT | unfinished | rolled back | INSERT INTO t SELECT 1 FROM pg_sleep(60) /* killed */",
            "0 | DISCONNECT | unfinished | ~ | ~",
        ]
    );
    assert_eq!(
        cluster.trail_of(
            "object_name, relations, user_name, details->>'reason'",
            &format!("pid = {victim} AND outcome = 'unfinished'")
        ),
        [
            "public.t | {public.t} | postgres | ~",
            "~ | ~ | postgres | crash restart"
        ]
    );
    assert_eq!(
        cluster.query(
            "postgres",
            &format!("SELECT ended FROM audit.sessions WHERE pid = {victim}")
        ),
        ["died"]
    );
    check_event_numbers(&cluster, "true");
    check_order(&cluster);
}

#[test]
fn a_backend_killed_inside_a_function_of_a_transaction() {
    let cluster = Cluster::builder().durable().start();
    let mut client = cluster.app();
    let victim = pid(&mut client);
    client
        .batch_execute("CREATE TABLE t (x int); CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (2); PERFORM pg_sleep(60); END $$")
        .expect("creates");
    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
        .expect("begins");
    let waits = sleep_in_background(client, "SELECT f()");
    assert!(cluster.kill_child(victim));
    waits.join().expect("the client sees its end");
    let all = session(&cluster, victim);
    assert_eq!(
        all[all.len() - 7..],
        [
            "0 | BEGIN | success | rolled back | BEGIN",
            "0 | INSERT | success | rolled back | INSERT INTO t VALUES (1)",
            "1 | EXECUTE | success | rolled back | ~",
            "1 | INSERT | success | rolled back | INSERT INTO t VALUES (2)",
            "1 | SELECT | unfinished | rolled back | SELECT pg_sleep(60)",
            "0 | SELECT | unfinished | rolled back | SELECT f()",
            "0 | DISCONNECT | unfinished | ~ | ~",
        ]
    );
    check_event_numbers(&cluster, "true");
}

#[test]
fn a_backend_killed_idle_in_transaction_and_one_idle() {
    let cluster = Cluster::builder().durable().start();
    let (mut in_transaction, mut idle) = (cluster.app(), cluster.app());
    let victim = pid(&mut in_transaction);
    let bystander = pid(&mut idle);
    in_transaction
        .batch_execute("CREATE TABLE t (x int)")
        .expect("creates");
    in_transaction
        .batch_execute(
            "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (1); ROLLBACK TO s; INSERT INTO t VALUES (2)",
        )
        .expect("begins");
    assert!(cluster.kill_child(victim));
    let all = session(&cluster, victim);
    let ends: Vec<_> = all
        .iter()
        .filter(|line| line.contains("INSERT") || line.contains("DISCONNECT"))
        .collect();
    assert_eq!(
        ends,
        [
            "0 | INSERT | success | rolled back | INSERT INTO t VALUES (1)",
            "0 | INSERT | success | rolled back | INSERT INTO t VALUES (2)",
            "0 | DISCONNECT | unfinished | ~ | ~",
        ]
    );
    // The crash restart threw everybody out.
    assert_eq!(
        session(&cluster, bystander),
        ["0 | DISCONNECT | unfinished | ~ | ~"]
    );
    check_event_numbers(&cluster, "true");
}

/// What a session is about when it is killed.
#[derive(Clone, Copy, Debug)]
enum Doing {
    /// One statement that takes long.
    Statement,
    /// Statement after statement in one transaction.
    Transaction,
    /// Nothing, in a transaction.
    Idle,
}

/// Kills a backend that does that at some moment; its pid and the statements that it has answered.
fn kill_while(cluster: &Cluster, doing: Doing) -> (u32, u32) {
    let mut client = cluster.app();
    let victim = pid(&mut client);
    let (answered, dead) = (AtomicU32::new(0), AtomicBool::new(false));
    let begun = random(20) as u32 + 1;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = client;
            if !matches!(doing, Doing::Statement) {
                client.batch_execute("BEGIN").expect("begins");
            }
            for n in 1.. {
                let sql = match doing {
                    Doing::Statement if n > begun => {
                        "INSERT /* v0 */ INTO victim SELECT 0 FROM pg_sleep(60)".into()
                    }
                    Doing::Idle if n > begun => break,
                    _ => format!("INSERT /* v{n} */ INTO victim VALUES ({n})"),
                };
                if client.batch_execute(&sql).is_err() {
                    break;
                }
                answered.store(n, Ordering::SeqCst);
            }
            // Its end would be told, if it came first.
            while !dead.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
        });
        eventually("it is at it", || answered.load(Ordering::SeqCst) >= begun);
        a_while(100);
        assert!(cluster.kill_child(victim));
        dead.store(true, Ordering::SeqCst);
    });
    (victim, answered.into_inner())
}

/// Each statement that was answered is on record once, with its fate; perhaps one more, which was
/// under way; and the session's end.
#[track_caller]
fn check_victim(cluster: &Cluster, doing: Doing, (victim, answered): (u32, u32)) {
    let fate = match doing {
        Doing::Statement => "committed",
        _ => "rolled back",
    };
    let mut all = session(cluster, victim);
    let what = format!("{doing:?}, {answered} answered: {all:#?}");
    assert_eq!(
        all.pop().as_deref(),
        Some("0 | DISCONNECT | unfinished | ~ | ~"),
        "{what}"
    );
    all.retain(|line| !line.contains("| BEGIN |"));
    for n in 1..=answered {
        let expected =
            format!("0 | INSERT | success | {fate} | INSERT /* v{n} */ INTO victim VALUES ({n})");
        assert_eq!(all[n as usize - 1], expected, "{what}");
    }
    let rest = &all[answered as usize..];
    let unfinished =
        |line: &String| line.starts_with("0 | INSERT | unfinished | rolled back | INSERT /* v");
    match doing {
        Doing::Idle => assert!(rest.is_empty(), "{what}"),
        Doing::Statement => assert!(rest.len() == 1 && unfinished(&rest[0]), "{what}"),
        // It may have been killed between its end and its answer, or before it was sent.
        Doing::Transaction => assert!(
            rest.len() <= 1
                && rest
                    .iter()
                    .all(|line| unfinished(line) || line.contains("| success | rolled back |")),
            "{what}"
        ),
    }
}

#[test]
fn backends_killed_at_whatever_they_do_under_load() {
    series(1, |faults| {
        let cluster = Cluster::builder().durable().start();
        cluster.psql().run("CREATE TABLE victim (n int)").ok();
        let all = [Doing::Statement, Doing::Transaction, Doing::Idle];
        let mut killed = Vec::new();
        let load = Load::during(&cluster, |load| {
            for doing in all.into_iter().cycle().take(3 * faults as usize) {
                killed.push((doing, kill_while(&cluster, doing)));
                load.more(30);
            }
        });
        load.check(&cluster);
        for (doing, found) in killed {
            check_victim(&cluster, doing, found);
        }
    });
}

#[test]
fn sessions_of_an_immediate_shutdown_end_at_the_next_start() {
    let cluster = Cluster::builder().durable().start();
    let mut client = cluster.app();
    let victim = pid(&mut client);
    let waits = sleep_in_background(client, "SELECT pg_sleep(60)");
    cluster.stop(Shutdown::Immediate);
    waits.join().expect("the client sees its end");
    cluster.start_again();
    assert_eq!(
        session(&cluster, victim),
        [
            "0 | SELECT | unfinished | rolled back | SELECT pg_sleep(60)",
            "0 | DISCONNECT | unfinished | ~ | ~",
        ]
    );
    // Once: a second restart finds nothing more.
    cluster.restart(Shutdown::Immediate);
    assert_eq!(session(&cluster, victim).len(), 2);
    check_event_numbers(&cluster, "true");
}

#[test]
fn what_the_level_leaves_out_is_not_unfinished_either() {
    let cluster = Cluster::builder()
        .durable()
        .setting("audit.level", "'write'")
        .start();
    let mut client = cluster.app();
    let victim = pid(&mut client);
    client
        .batch_execute("CREATE TABLE t (x int)")
        .expect("creates");
    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
        .expect("inserts");
    let waits = sleep_in_background(client, "SELECT pg_sleep(60)");
    assert!(cluster.kill_child(victim));
    waits.join().expect("the client sees its end");
    assert_eq!(
        session(&cluster, victim),
        [
            "0 | INSERT | success | rolled back | INSERT INTO t VALUES (1)",
            "0 | FATE | success | ~ | ~"
        ]
    );
    check_event_numbers(&cluster, "true");
}

#[test]
fn a_killed_worker_tells_of_dead_sessions_once() {
    let cluster = Cluster::builder().durable().start();
    for _ in 0..5 {
        let mut client = cluster.app();
        let victim = pid(&mut client);
        let waits = sleep_in_background(client, "SELECT pg_sleep(60)");
        assert!(cluster.kill_child(victim));
        waits.join().expect("the client sees its end");
        // While the worker may be about to tell.
        for _ in 0..3 {
            if let Ok(mut ask) = cluster
                .config("postgres", "postgres")
                .connect(postgres::NoTls)
            {
                let found = ask.query_opt(
                    "SELECT pid FROM pg_stat_activity WHERE backend_type ~ 'audit'",
                    &[],
                );
                if let Ok(Some(row)) = found {
                    cluster.kill_child(row.get::<_, i32>(0) as u32);
                }
            }
        }
        assert_eq!(
            session(&cluster, victim),
            [
                "0 | SELECT | unfinished | rolled back | SELECT pg_sleep(60)",
                "0 | DISCONNECT | unfinished | ~ | ~",
            ]
        );
    }
    check_event_numbers(&cluster, "true");
    check_order(&cluster);
}

#[test]
fn a_long_statement_is_cut_and_says_so() {
    let cluster = Cluster::builder().durable().start();
    let mut client = cluster.app();
    let victim = pid(&mut client);
    let waits = thread::spawn(move || {
        let long = "x".repeat(5000);
        let _ = client.batch_execute(&format!("SELECT pg_sleep(60), '{long}'"));
    });
    thread::sleep(Duration::from_millis(500));
    assert!(cluster.kill_child(victim));
    waits.join().expect("the client sees its end");
    session(&cluster, victim);
    assert_eq!(
        cluster.trail_of(
            "left(statement, 22), length(statement) BETWEEN 1000 AND 1300, statement_length",
            &format!("pid = {victim} AND command = 'SELECT' AND outcome = 'unfinished'")
        ),
        ["SELECT pg_sleep(60), ' | t | 5023"]
    );
}
