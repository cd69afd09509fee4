//! Replication: the commands of walsenders, and what a subscription applies (spec/capture.md, rule 1).

use audit_cluster_tests::{Builder, Cluster, eventually, server};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const COLUMNS: &str = "class, command, outcome, coalesce(database_name, '-'), statement";

fn of_walsenders(cluster: &Cluster, columns: &str, filter: &str) -> Vec<String> {
    cluster.trail_of(columns, &format!("backend_type = 'walsender' AND {filter}"))
}

#[test]
fn replication_commands_are_recorded_when_they_start() {
    let cluster = Cluster::start();
    let target = cluster.data_dir().with_file_name("backup");
    let backup = cluster
        .program("pg_basebackup")
        .args(["-X", "none", "-c", "fast", "-D"])
        .arg(&target)
        .output()
        .unwrap();
    assert!(backup.status.success(), "{backup:?}");
    let commands = of_walsenders(&cluster, "command", "class <> 'AUDIT'");
    assert_eq!(
        commands,
        [
            "CONNECT",
            "SHOW",
            "SHOW",
            "IDENTIFY_SYSTEM",
            "BASE_BACKUP",
            "DISCONNECT"
        ]
    );
    let events = of_walsenders(&cluster, COLUMNS, "command = 'BASE_BACKUP'");
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(
        events[0].starts_with("READ | BASE_BACKUP | success | - | BASE_BACKUP ("),
        "{events:?}"
    );
    assert!(
        !cluster.log().contains("received replication command"),
        "the log stays as it was:\n{}",
        cluster.log()
    );
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn streaming_is_on_record_while_it_goes_on() {
    let cluster = Cluster::start();
    let target = cluster.data_dir().with_file_name("wal");
    fs::create_dir(&target).unwrap();
    let mut receiver = cluster
        .program("pg_receivewal")
        .arg("-D")
        .arg(&target)
        .spawn()
        .unwrap();
    eventually("START_REPLICATION is on record", || {
        !of_walsenders(&cluster, "seq", "command = 'START_REPLICATION'").is_empty()
    });
    assert_eq!(
        of_walsenders(
            &cluster,
            "class, outcome, duration",
            "command = 'START_REPLICATION'"
        ),
        ["READ | success | ~"]
    );
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    eventually("its session ends", || {
        !of_walsenders(&cluster, "seq", "command = 'DISCONNECT'").is_empty()
    });
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn a_walsender_with_a_database_and_commands_that_fail() {
    let cluster = Cluster::builder().setting("wal_level", "logical").start();
    let play = |text: &str| {
        let mut psql = cluster.program("psql");
        psql.args(["-X", "-d", "dbname=app replication=database"]);
        for line in text.lines() {
            psql.arg("-c").arg(line);
        }
        psql.output().unwrap()
    };
    let output = play(
        "IDENTIFY_SYSTEM\n\
         SELECT 1 AS one\n\
         DISCARD ALL\n\
         CREATE_REPLICATION_SLOT s LOGICAL test_decoding\n\
         CREATE_REPLICATION_SLOT s LOGICAL test_decoding\n\
         DROP_REPLICATION_SLOT nosuch\n\
         START_REPLICATION SLOT s LOGICAL nonsense\n\
         DROP_REPLICATION_SLOT s",
    );
    let events = of_walsenders(
        &cluster,
        "class, command, outcome, sqlstate, database_name, \
         statement_id - min(statement_id) OVER (), statement",
        "class NOT IN ('SESSION', 'AUDIT')",
    );
    assert_eq!(
        events,
        [
            "MISC | IDENTIFY_SYSTEM | success | ~ | app | 0 | IDENTIFY_SYSTEM",
            "READ | SELECT | success | ~ | app | 1 | SELECT 1 AS one",
            "MISC | DISCARD ALL | success | ~ | app | 2 | DISCARD ALL",
            "DDL | CREATE_REPLICATION_SLOT | success | ~ | app | 3 | CREATE_REPLICATION_SLOT s LOGICAL test_decoding",
            "DDL | CREATE_REPLICATION_SLOT | success | ~ | app | 4 | CREATE_REPLICATION_SLOT s LOGICAL test_decoding",
            "DDL | CREATE_REPLICATION_SLOT | failed | 42710 | app | 4 | CREATE_REPLICATION_SLOT s LOGICAL test_decoding",
            "DDL | DROP_REPLICATION_SLOT | success | ~ | app | 5 | DROP_REPLICATION_SLOT nosuch",
            "DDL | DROP_REPLICATION_SLOT | failed | 42704 | app | 5 | DROP_REPLICATION_SLOT nosuch",
            "MISC | UNKNOWN | failed | 42601 | app | 6 | ~",
            "DDL | DROP_REPLICATION_SLOT | success | ~ | app | 7 | DROP_REPLICATION_SLOT s",
        ],
        "{output:?}"
    );
}

#[test]
fn what_the_administrator_wants_in_the_log_is_in_the_log() {
    let cluster = Cluster::builder()
        .setting("log_replication_commands", "on")
        .start();
    let output = cluster
        .program("psql")
        .args([
            "-X",
            "-d",
            "dbname=app replication=true",
            "-c",
            "IDENTIFY_SYSTEM",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        cluster
            .log()
            .contains("LOG:  received replication command: IDENTIFY_SYSTEM")
    );
    assert_eq!(
        of_walsenders(&cluster, "command", "class = 'MISC'"),
        ["IDENTIFY_SYSTEM"]
    );
}

#[test]
fn a_client_of_logical_decoding() {
    let cluster = Cluster::builder().setting("wal_level", "logical").start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    let slot = |action: &[&str]| {
        let mut command = cluster.program("pg_recvlogical");
        command.args(["-d", "app", "-S", "s"]).args(action);
        command
    };
    let made = slot(&["--create-slot", "-P", "test_decoding"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut reader = slot(&["--start", "-f", "-", "-F", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cluster.psql().run("INSERT INTO t VALUES (42)").ok();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    let read = lines.find(|line| line.as_ref().unwrap().contains("x[integer]:42"));
    assert!(read.is_some(), "the change was sent");
    // It reads on, and is on record.
    let commands = || {
        of_walsenders(
            &cluster,
            "class, command, outcome, database_name, statement LIKE '%\"s\"%'",
            "command ~ 'REPLICATION'",
        )
    };
    assert_eq!(
        commands(),
        [
            "DDL | CREATE_REPLICATION_SLOT | success | app | t",
            "READ | START_REPLICATION | success | app | t",
        ]
    );
    reader.kill().unwrap();
    reader.wait().unwrap();
    eventually("its slot is free", || {
        slot(&["--drop-slot"]).output().unwrap().status.success()
    });
    assert_eq!(
        commands().last().unwrap(),
        "DDL | DROP_REPLICATION_SLOT | success | app | t"
    );
}

/// Publisher and subscriber are two databases of one cluster.
fn with_subscription() -> Cluster {
    subscribed(Cluster::builder(), false)
}

/// `two_phase`: prepared transactions are applied as such.
fn subscribed(builder: Builder, two_phase: bool) -> Cluster {
    let cluster = builder.setting("wal_level", "logical").start();
    let publisher = cluster.psql().db("app");
    publisher
        .run(format!(
            "CREATE TABLE a (x int PRIMARY KEY, y text); CREATE TABLE b (x int PRIMARY KEY);
             INSERT INTO a VALUES (100, 'copied'), (101, 'copied');
             CREATE PUBLICATION p FOR TABLE a, b;
             SELECT pg_create_logical_replication_slot('s', 'pgoutput', false, {two_phase});
             CREATE DATABASE copy",
        ))
        .ok();
    let dsn = format!(
        "host={} port={} user=postgres dbname=app",
        cluster.socket_dir().display(),
        cluster.port()
    );
    cluster
        .psql()
        .db("copy")
        .run(format!(
            "CREATE TABLE a (x int PRIMARY KEY, y text); CREATE TABLE b (x int PRIMARY KEY);
             CREATE SUBSCRIPTION sub CONNECTION '{dsn}' PUBLICATION p \
             WITH (create_slot = false, slot_name = 's', two_phase = {two_phase})"
        ))
        .ok();
    eventually("the tables are copied", || {
        cluster.query(
            "copy",
            "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'",
        ) == ["0"]
    });
    cluster
}

/// The process that applies changes: 17 has a name of its own for it.
const APPLIES: &str =
    "backend_type IN ('logical replication worker', 'logical replication apply worker')";

fn applied(cluster: &Cluster, columns: &str) -> Vec<String> {
    cluster.trail_of(columns, "command = 'APPLY' AND details ? 'lsn'")
}

#[test]
fn what_a_subscription_applies_is_one_event_per_transaction() {
    let cluster = with_subscription();
    let copied = cluster.trail_of(
        "class, object_name, rows, details->>'subscription', details ? 'lsn'",
        "command = 'APPLY'",
    );
    assert_eq!(copied, ["WRITE | public.a | 2 | sub | f"], "the first copy");
    cluster
        .psql()
        .run(
            "BEGIN; INSERT INTO a VALUES (1, 'x'), (2, 'y'); INSERT INTO b VALUES (1);
             UPDATE a SET y = 'z' WHERE x = 1; DELETE FROM a WHERE x = 2; COMMIT;
             BEGIN; INSERT INTO b VALUES (9); ROLLBACK;
             TRUNCATE b;",
        )
        .ok();
    eventually("both transactions are applied", || {
        applied(&cluster, "seq").len() == 2
    });
    assert_eq!(
        applied(
            &cluster,
            &format!(
                "class, (SELECT array_agg(r ORDER BY r) FROM unnest(relations) r), rows, outcome, transaction_outcome, depth, database_name, \
                 {APPLIES}, details->>'subscription', transaction_id IS NOT NULL, \
                 (details->>'lsn')::pg_lsn > '0/0'"
            ),
        ),
        [
            "WRITE | {public.a,public.b} | 5 | success | committed | 0 | copy | t | sub | t | t",
            "WRITE | {public.b} | 0 | success | committed | 0 | copy | t | sub | t | t",
        ]
    );
}

#[test]
fn what_a_subscription_fails_to_apply_is_on_record() {
    let cluster = with_subscription();
    cluster
        .psql()
        .db("copy")
        .run("INSERT INTO b VALUES (7)")
        .ok();
    cluster.psql().run("INSERT INTO b VALUES (7)").ok();
    eventually("the conflict is on record", || {
        let failed = cluster.trail_of(
            "class, command, sqlstate, transaction_outcome",
            "command = 'APPLY' AND outcome = 'failed'",
        );
        failed
            .first()
            .is_some_and(|row| row == "WRITE | APPLY | 23505 | rolled back")
    });
    cluster.psql().db("copy").run("DELETE FROM b").ok();
    eventually("it is applied in the end", || {
        !applied(&cluster, "seq").is_empty()
    });
}

/// Of table b, where changes are applied, too.
const TRIGGER: &str = "
    CREATE TABLE seen (x int);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.seen VALUES (new.x); RETURN new; END $$;
    CREATE TRIGGER see AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION see();
    ALTER TABLE b ENABLE ALWAYS TRIGGER see";

#[test]
fn what_a_trigger_has_run_is_not_what_failed_to_be_applied_behind_it() {
    let cluster = with_subscription();
    cluster.psql().db("copy").run(TRIGGER).ok();
    cluster
        .psql()
        .db("copy")
        .run("INSERT INTO a VALUES (7, 'here')")
        .ok();
    let script = "BEGIN; INSERT INTO b VALUES (1); INSERT INTO a VALUES (7, 'there'); COMMIT";
    cluster.psql().run(script).ok();
    let events = || {
        cluster.trail_of(
            "command, outcome, sqlstate, transaction_outcome",
            &format!(
                "{APPLIES} AND class NOT IN ('SESSION', 'AUDIT') \
                 AND (outcome = 'failed' OR command = 'INSERT')"
            ),
        )
    };
    eventually("the conflict is on record", || {
        events().iter().any(|event| event.contains("23505"))
    });
    assert_eq!(
        events()[..2],
        [
            "INSERT | success | ~ | rolled back",
            "APPLY | failed | 23505 | rolled back",
        ]
    );
}

#[test]
fn triggers_of_applied_changes_are_recorded() {
    let cluster = with_subscription();
    cluster.psql().db("copy").run(TRIGGER).ok();
    cluster.psql().run("INSERT INTO b VALUES (1)").ok();
    eventually("it is applied", || applied(&cluster, "seq").len() == 1);
    assert_eq!(
        cluster.trail_of(
            "command, (SELECT array_agg(r ORDER BY r) FROM unnest(relations) r), transaction_outcome",
            &format!(
                "database_name = 'copy' AND {APPLIES} AND (details ? 'lsn' OR command = 'INSERT')"
            ),
        ),
        [
            "APPLY | {public.b,public.seen} | committed",
            "INSERT | {public.seen} | committed",
        ]
    );
}

/// A large transaction arrives before it has ended. From 16 on a process of its own can apply it meanwhile
/// (18's default).
#[test]
fn what_is_applied_while_it_arrives_is_one_event() {
    let builder = Cluster::builder().setting("logical_decoding_work_mem", "'64kB'");
    let cluster = subscribed(builder, false);
    let how = if server().major < 16 {
        "on"
    } else {
        "parallel"
    };
    cluster
        .psql()
        .db("copy")
        .run(format!("ALTER SUBSCRIPTION sub SET (streaming = {how})"))
        .ok();
    let transaction = |first: u32| {
        format!(
            "BEGIN; INSERT INTO a SELECT x, 'x' FROM generate_series({first}, {first} + 4999) x; \
             SAVEPOINT s; INSERT INTO b VALUES ({first}); ROLLBACK TO s; \
             INSERT INTO b VALUES ({first} + 1); COMMIT"
        )
    };
    cluster.psql().run(transaction(1000)).ok();
    eventually("it is applied", || !applied(&cluster, "seq").is_empty());
    assert_eq!(
        applied(
            &cluster,
            "(SELECT array_agg(r ORDER BY r) FROM unnest(relations) r), rows, outcome, transaction_outcome",
        ),
        ["{public.a,public.b} | 5001 | success | committed"]
    );
    cluster
        .psql()
        .db("copy")
        .run("INSERT INTO b VALUES (20001)")
        .ok();
    cluster.psql().run(transaction(20000)).ok();
    eventually("the conflict is on record", || {
        !cluster
            .trail_of(
                "seq",
                "command = 'APPLY' AND sqlstate = '23505' AND transaction_outcome = 'rolled back'",
            )
            .is_empty()
    });
    assert_eq!(applied(&cluster, "seq").len(), 1);
}

#[test]
fn what_a_subscription_applies_is_on_disk_before_its_commit() {
    let cluster = subscribed(
        Cluster::builder().setting("audit.durability", "commit"),
        false,
    );
    cluster
        .psql()
        .run("BEGIN; INSERT INTO a VALUES (1, 'x'); INSERT INTO b VALUES (1); COMMIT")
        .ok();
    eventually("it is applied", || applied(&cluster, "seq").len() == 1);
    let columns = "(SELECT array_agg(r ORDER BY r) FROM unnest(relations) r), rows, outcome";
    assert_eq!(
        applied(&cluster, columns),
        ["{public.a,public.b} | 2 | success"]
    );
    eventually("its fate follows", || {
        applied(&cluster, "transaction_outcome") == ["committed"]
    });
}

#[test]
fn prepared_transactions_that_a_subscription_applies() {
    let cluster = subscribed(
        Cluster::builder().setting("max_prepared_transactions", "10"),
        true,
    );
    let columns = "command, relations, rows, transaction_outcome, details->>'subscription'";
    for end in ["COMMIT", "ROLLBACK"] {
        let number = if end == "COMMIT" { 1 } else { 2 };
        cluster
            .psql()
            .run(format!(
                "BEGIN; INSERT INTO b VALUES ({number}); PREPARE TRANSACTION 'g{number}'"
            ))
            .ok();
        eventually("it is prepared", || {
            applied(&cluster, columns).last().map(String::as_str)
                == Some("APPLY | {public.b} | 1 | prepared | sub")
        });
        cluster
            .psql()
            .run(format!("{end} PREPARED 'g{number}'"))
            .ok();
        eventually("it has ended", || {
            let left = cluster.query("copy", "SELECT count(*) FROM pg_prepared_xacts");
            left == ["0"]
        });
    }
}
