//! A trail that can't be changed unnoticed: audit.verify() against a superuser who changes, removes,
//! inserts, swaps and cuts, in tables and in files.

use audit_cluster_tests::{Cluster, Shutdown, kill};
use postgres::Client;
use std::os::unix::fs::FileExt;

mod dropped;
mod encoding;
mod erase;
mod evidence;
mod independent;
mod keys;
mod killed;
mod origin;

/// The problems that audit.verify() finds.
#[track_caller]
pub fn problems(cluster: &Cluster) -> Vec<String> {
    cluster.flush();
    cluster.query(
        "postgres",
        "SELECT seq, problem, detail FROM audit.verify() ORDER BY seq NULLS LAST, problem",
    )
}

#[track_caller]
pub fn assert_whole(cluster: &Cluster) {
    assert_eq!(problems(cluster), Vec::<String>::new());
}

/// Statements of all kinds: every column of every table has a value somewhere.
pub fn some_work(cluster: &Cluster) {
    cluster
        .psql()
        .run(
            "SET audit.parameters = on; SET audit.context = '{\"user\": 1}';
             CREATE TABLE t (a int PRIMARY KEY, b text);
             INSERT INTO t SELECT i, 'x' FROM generate_series(1, 20) AS i;
             PREPARE p(int) AS SELECT b FROM t WHERE a = $1;
             EXECUTE p(1); EXECUTE p(1); EXECUTE p(2);
             SELECT 1; SELECT 1; SELECT 1; SELECT 1;
             BEGIN; UPDATE t SET b = 'y' WHERE a = 1; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT;",
        )
        .ok();
    cluster
        .psql()
        .tcp()
        .run("SELECT 1/0; SELECT 'ünïcödé'")
        .error();
    // A transaction whose events are in several batches.
    let mut client = cluster.app();
    client.batch_execute("BEGIN; SELECT 1").expect("runs");
    cluster.flush();
    client.batch_execute("SELECT 2").expect("runs");
    cluster.flush();
    client.batch_execute("ROLLBACK").expect("runs");
    drop(client);
    cluster.flush();
}

/// A superuser to whom the trail is open.
#[track_caller]
fn unlocked(cluster: &Cluster) -> Client {
    let mut client = cluster.connect("postgres", "postgres");
    client
        .batch_execute("SELECT audit.unlock('to see it found')")
        .expect("unlocks");
    client
}

#[track_caller]
fn tamper(client: &mut Client, sql: &str) {
    client
        .batch_execute(sql)
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

#[test]
fn a_whole_trail_verifies_while_it_grows() {
    let cluster = Cluster::start();
    assert_whole(&cluster);
    some_work(&cluster);
    assert_whole(&cluster);
    cluster.restart(Shutdown::Fast);
    some_work_again(&cluster);
    assert_whole(&cluster);
    cluster.restart(Shutdown::Immediate);
    some_work_again(&cluster);
    assert_whole(&cluster);
    // A range is verified for itself.
    assert_eq!(
        cluster.query("postgres", "SELECT * FROM audit.verify(5, 9)"),
        Vec::<String>::new()
    );
}

#[test]
fn crashes_under_load_leave_a_whole_trail() {
    let cluster = Cluster::builder().durable().start();
    crate::load::Load::during(&cluster, |load| {
        load.more(200);
        cluster.kill_postmaster();
        cluster.start_again();
        load.more(200);
        cluster.restart(Shutdown::Immediate);
        load.more(200);
    });
    assert_whole(&cluster);
}

fn some_work_again(cluster: &Cluster) {
    cluster
        .psql()
        .run("SELECT count(*) FROM t; SELECT 1; SELECT 1")
        .ok();
}

/// Fails unless `problem` is among the findings: of the event `seq`, or of any where that is None.
#[track_caller]
pub fn found(all: &[String], seq: Option<i64>, problem: &str) {
    let seq = seq.map(|seq| seq.to_string());
    let is = |line: &String| {
        let mut parts = line.splitn(3, " | ");
        let its_seq = parts.next();
        (seq.is_none() || its_seq == seq.as_deref()) && parts.next() == Some(problem)
    };
    assert!(
        all.iter().any(is),
        "{problem:?} of {seq:?} is not among {all:#?}"
    );
}

/// Each table of evidence with a column that tells the row, and a query for a row that has a value
/// in the given column; then an expression for another value of each type.
#[test]
fn any_changed_column_of_any_row_is_found() {
    let cluster = Cluster::start();
    some_work(&cluster);
    assert_whole(&cluster);
    let mut client = unlocked(&cluster);
    let columns = cluster.query(
        "postgres",
        "SELECT c.relname, a.attname, format_type(a.atttypid, NULL)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'audit'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
           AND c.relname IN ('event', 'session', 'statement', 'fate', 'batch', 'checkpoint', 'origin')
         ORDER BY 1, a.attnum",
    );
    assert!(columns.len() > 50, "{columns:?}");
    for column in columns {
        let parts: Vec<_> = column.split(" | ").collect();
        let [table, name, kind] = parts[..] else {
            panic!("{column}")
        };
        let other = match kind {
            "bigint" | "integer" => format!("{name} + 100000"),
            "smallint" => format!("{name} + 1"),
            "timestamp with time zone" => format!("{name} + interval '1 microsecond'"),
            "text" => format!("{name} || ' '"),
            "bytea" => format!("set_bit({name}, 3, 1 - get_bit({name}, 3))"),
            "text[]" => format!("{name} || '{{x}}'"),
            "jsonb" => format!("{name} || '{{\"x\": 1}}'"),
            "inet" => format!("{name} + 1"),
            other => panic!("{table}.{name} is of type {other}"),
        };
        // A row with a value; then one without, which gets one.
        for (filter, other) in [
            (format!("{name} IS NOT NULL"), other),
            (format!("{name} IS NULL"), sample(kind).to_string()),
        ] {
            change_one(&cluster, &mut client, table, name, &filter, &other);
        }
    }
    assert_whole(&cluster);
}

fn sample(kind: &str) -> &'static str {
    match kind {
        "text" => "'x'",
        "bytea" => "'\\x00112233445566778899aabbccddeeff'",
        "text[]" => "'{x}'",
        "jsonb" => "'{}'",
        "inet" => "'10.0.0.1'",
        "timestamp with time zone" => "now()",
        _ => "1",
    }
}

/// Changes one column of one row, sees it found, and puts it back.
#[track_caller]
fn change_one(
    cluster: &Cluster,
    client: &mut Client,
    table: &str,
    name: &str,
    filter: &str,
    other: &str,
) {
    // In the middle of the trail; a partition key must not move the row to where none is.
    let order = match table {
        "event" | "origin" => "seq",
        "session" | "statement" => "ref",
        "checkpoint" => "size",
        _ => "recorded_at",
    };
    let rows = cluster.query(
        "postgres",
        &format!(
            "SELECT tableoid::regclass, ctid, {} FROM audit.{table} WHERE {filter}
             ORDER BY {order} LIMIT 1 OFFSET (SELECT count(*) / 2 FROM audit.{table} WHERE {filter})",
            match table {
                "event" => "seq",
                _ => "NULL::bigint",
            }
        ),
    );
    let Some(row) = rows.first() else { return };
    let parts: Vec<_> = row.split(" | ").collect();
    let (partition, ctid, seq) = (parts[0], parts[1], parts[2]);
    tamper(
        client,
        &format!(
            "CREATE TABLE saved AS SELECT {name} AS value FROM {partition} WHERE ctid = '{ctid}';
             CREATE TABLE moved AS SELECT NULL::tid AS at;
             WITH u AS (UPDATE {partition} SET {name} = {other} WHERE ctid = '{ctid}' RETURNING ctid)
             UPDATE moved SET at = u.ctid FROM u;"
        ),
    );
    let found = problems(cluster);
    let what = format!("{table}.{name} ({filter})");
    assert!(
        !found.is_empty(),
        "{what} was changed to {other}, and nothing found"
    );
    if seq != "~" && name != "seq" {
        assert!(
            found
                .iter()
                .any(|line| line.starts_with(&format!("{seq} | "))),
            "{what} of event {seq}: {found:#?}"
        );
    }
    tamper(
        client,
        &format!(
            "UPDATE {partition} SET {name} = (SELECT value FROM saved) WHERE ctid = (SELECT at FROM moved);
             DROP TABLE saved, moved;"
        ),
    );
}

#[test]
fn removed_inserted_swapped_and_cut_rows_are_found() {
    let cluster = Cluster::builder()
        .setting("audit.checkpoint_interval", "'1s'")
        .start();
    some_work(&cluster);
    cluster.restart(Shutdown::Fast); // There are two STARTs.
    assert_whole(&cluster);
    // Each change is made, found and rolled back in a transaction that sees nothing newer.
    let mut client = unlocked(&cluster);
    let last = cluster.flush();
    audit_cluster_tests::eventually("the newest events have a checkpoint", || {
        let covered = format!("SELECT max(size) >= {last} FROM audit.checkpoint");
        cluster.value(&covered) == "t"
    });

    let middle: i64 = cluster
        .value("SELECT max(seq) / 2 FROM audit.event")
        .parse()
        .expect("a seq");
    let cases: Vec<(String, Option<i64>, &str)> = vec![
        (format!("DELETE FROM audit.event WHERE seq = {middle}"), Some(middle), "removed event"),
        (
            format!("INSERT INTO audit.event SELECT * FROM audit.event WHERE seq = {middle}"),
            Some(middle),
            "inserted event",
        ),
        (
            format!("INSERT INTO audit.event SELECT seq + 1000000, recorded_at, started_at, session, statement, numbers FROM audit.event WHERE seq = {middle}"),
            Some(middle + 1_000_000),
            "inserted event",
        ),
        (
            // Two events change places.
            format!("UPDATE audit.event SET seq = CASE seq WHEN {middle} THEN {middle} + 1 ELSE {middle} END WHERE seq IN ({middle}, {middle} + 1)"),
            Some(middle),
            "changed event",
        ),
        (
            format!("DELETE FROM audit.session WHERE ref = (SELECT session FROM audit.event WHERE seq = {middle})"),
            Some(middle),
            "changed event",
        ),
        (
            format!("DELETE FROM audit.statement WHERE ref = (SELECT statement FROM audit.event WHERE seq = {middle})"),
            Some(middle),
            "changed event",
        ),
        (
            "INSERT INTO audit.statement (ref, class, classes, command) SELECT max(ref) + 1, 'READ', '{READ}', 'SELECT' FROM audit.statement".into(),
            None,
            "inserted row",
        ),
        ("DELETE FROM audit.fate".into(), None, "changed event"),
        (
            format!("INSERT INTO audit.fate SELECT recorded_at, started_at, 1, 1, 2, 2, {middle} FROM audit.event WHERE seq = {middle}"),
            Some(middle),
            "changed event",
        ),
        (
            "INSERT INTO audit.fate SELECT recorded_at, started_at, 1, 1, 2, 2, 1000000 FROM audit.event WHERE seq = 1".into(),
            Some(1_000_000),
            "inserted fate",
        ),
        (
            format!("DELETE FROM audit.batch WHERE {middle} BETWEEN first_seq AND last_seq"),
            None,
            "removed batch",
        ),
        (
            "INSERT INTO audit.batch SELECT * FROM audit.batch ORDER BY last_seq LIMIT 1".into(),
            None,
            "inserted batch",
        ),
        (
            "DELETE FROM audit.origin WHERE command = 'KEY'".into(),
            None,
            "changed origin",
        ),
        (
            "DELETE FROM audit.origin WHERE command = 'START'".into(),
            None,
            "changed origin",
        ),
        (
            // As the worker would write it, had it taken the trail for a new one.
            "UPDATE audit.origin o SET (seq, recorded_at, details) =
                 (SELECT seq, recorded_at, details FROM audit.log WHERE command = 'START' ORDER BY seq DESC LIMIT 1)
             WHERE command = 'START'".into(),
            None,
            "changed origin",
        ),
        (
            // The newest events with their batches: what a checkpoint covers.
            "DELETE FROM audit.event WHERE seq > 1; DELETE FROM audit.batch WHERE first_seq > 1".into(),
            None,
            "cut tail",
        ),
    ];
    let mut told = last;
    for (sql, seq, problem) in cases {
        // What is stored meanwhile is seen, and a tail that more has been added to isn't cut.
        let stopped = (problem == "cut tail").then(|| cluster.suspend_worker());
        tamper(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ");
        tamper(&mut client, &sql);
        let all = verified_by(&mut client);
        found(&all, seq, problem);
        tamper(&mut client, "ROLLBACK");
        stopped.inspect(|worker| assert!(kill(*worker, "CONT")));
        // The trail says so itself, whatever became of the transaction.
        assert_eq!(
            cluster.trail_of(
                "details->'problems' > '0', details->>'first' <> ''",
                &format!("command = 'VERIFY' AND seq > {told}")
            ),
            ["t | t"]
        );
        told = cluster.flush();
    }
    assert_whole(&cluster);
}

/// What audit.verify() finds, as this session sees the trail.
fn verified_by(client: &mut Client) -> Vec<String> {
    client
        .query("SELECT seq, problem, detail FROM audit.verify()", &[])
        .expect("verifies")
        .iter()
        .map(|row| {
            let seq = row.get::<_, Option<i64>>(0);
            let seq = seq.map_or("~".into(), |seq| seq.to_string());
            format!(
                "{seq} | {} | {}",
                row.get::<_, &str>(1),
                row.get::<_, &str>(2)
            )
        })
        .collect()
}

/// The event of a statement that is there to be edited on disk, and the files it may be in.
fn on_disk(cluster: &Cluster) -> (i64, Vec<String>) {
    cluster
        .psql()
        .run("SELECT 'drop table of students'; SELECT 1")
        .ok();
    assert_whole(cluster);
    let seq = cluster
        // The trail keeps this question too: it must not hold the words that are looked for.
        .value("SELECT seq FROM audit.log WHERE statement LIKE '%of' || ' students%' AND database_name = 'app'")
        .parse()
        .expect("a seq");
    let files = cluster
        .query(
            "postgres",
            "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relname LIKE 'event\\_2%' AND relkind = 'r' ORDER BY 1",
        );
    (seq, files)
}

/// Edits the one place in these files that has `from`; the server is stopped.
#[track_caller]
fn edit(cluster: &Cluster, files: &[String], from: &[u8], to: &[u8]) {
    let mut changed = 0;
    for file in files {
        let path = cluster.data_dir().join(file);
        let bytes = std::fs::read(&path).expect("a heap file");
        let is_it = |(_, bytes): &(usize, &[u8])| *bytes == from;
        for (at, _) in bytes.windows(from.len()).enumerate().filter(is_it) {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .expect("opens");
            file.write_all_at(to, at as u64).expect("writes");
            changed += 1;
        }
    }
    assert_eq!(changed, 1);
}

#[test]
fn a_heap_file_that_was_edited_on_disk_is_found() {
    let cluster = Cluster::start();
    let (seq, files) = on_disk(&cluster);
    cluster.stop(Shutdown::Fast);
    // Who can edit files can do this, too, or put the page's checksum right.
    cluster.set_checksums(false);
    edit(&cluster, &files, b"of students", b"of teachers");
    cluster.start_again();
    found(&problems(&cluster), Some(seq), "changed event");
}

/// Where the server checks its pages (from 18 on by default) it refuses the edited one. Nothing can be
/// added to it either: events wait in the ring until it is mended, and who looks is told.
#[test]
fn a_page_that_the_server_refuses_is_waited_for() {
    let cluster = Cluster::start();
    let (_, files) = on_disk(&cluster);
    cluster.stop(Shutdown::Fast);
    cluster.set_checksums(true);
    edit(&cluster, &files, b"of students", b"of teachers");
    cluster.start_again();
    cluster.psql().run("SELECT 'meanwhile'").ok();
    audit_cluster_tests::eventually("the worker says why", || {
        let says =
            "SELECT coalesce(last_error LIKE 'invalid page in block %', false) FROM audit.status";
        cluster.value(says) == "t"
    });
    let mut client = cluster.connect("postgres", "postgres");
    let refused = crate::fails(&mut client, "SELECT * FROM audit.verify()");
    assert_eq!(refused.code().code(), "XX001", "{refused:?}");
    drop(client);
    cluster.stop(Shutdown::Fast);
    edit(&cluster, &files, b"of teachers", b"of students");
    cluster.start_again();
    assert_whole(&cluster);
    assert_eq!(cluster.count("statement = 'SELECT ''meanwhile'''"), 1);
}
