//! audit.erase(): the value is gone from the files, the trail still verifies, and says who did it.

use super::evidence::{Files, audit_verify, key, python_agrees};
use super::{assert_whole, problems, tamper, unlocked};
use crate::fails;
use audit_cluster_tests::Cluster;
use std::fs;
use std::path::Path;

/// Files below the data directory that hold a text, without WAL and what is no table: paths.
pub fn files_with(cluster: &Cluster, text: &str) -> Vec<String> {
    cluster.psql().db("postgres").run("CHECKPOINT").ok();
    let mut found = Vec::new();
    search(
        &cluster.data_dir().join("base"),
        text.as_bytes(),
        &mut found,
    );
    search(
        &cluster.data_dir().join("global"),
        text.as_bytes(),
        &mut found,
    );
    found
}

fn search(folder: &Path, text: &[u8], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            search(&path, text, found);
        } else if let Ok(bytes) = fs::read(&path)
            && bytes.windows(text.len()).any(|w| w == text)
        {
            found.push(path.display().to_string());
        }
    }
}

pub fn seq_of(cluster: &Cluster, filter: &str) -> i64 {
    cluster.flush();
    cluster
        .value(&format!(
            "SELECT min(seq) FROM audit.log WHERE database_name = 'app' AND {filter}"
        ))
        .parse()
        .expect("a seq")
}

#[track_caller]
pub fn erase(cluster: &Cluster, seq: i64, fields: &str) -> String {
    let rows = cluster.query(
        "postgres",
        &format!(
            "SELECT audit.unlock('r'); SELECT audit.erase({seq}, '{fields}', 'Article 17, request 4711')"
        ),
    );
    rows.last().expect("a count").clone()
}

#[test]
fn an_erased_value_is_gone_and_everything_still_verifies() {
    let cluster = Cluster::start();
    // A text in the event, its error, its parameters; and a neighbour.
    cluster
        .psql()
        .run("SELECT 'walrus-' || 1/0; SELECT 'neighbour'")
        .error();
    let mut client = cluster.app();
    client
        .batch_execute("SET audit.parameters = on")
        .expect("sets");
    client
        .query("SELECT $1::text", &[&"hedgehog-parameter"])
        .expect("selects");
    let seq = seq_of(&cluster, "statement LIKE '%walrus%'");
    let with_parameters = seq_of(&cluster, "parameters IS NOT NULL");
    // Samples would keep it.
    cluster
        .psql()
        .db("postgres")
        .run("ANALYZE audit.event, audit.statement, audit.session")
        .ok();
    assert!(!files_with(&cluster, "walrus-").is_empty());
    assert!(!files_with(&cluster, "hedgehog-parameter").is_empty());
    let before = cluster.value("SELECT audit.checkpoint()");

    assert_eq!(erase(&cluster, seq, "{statement}"), "1");
    assert_eq!(files_with(&cluster, "walrus-"), Vec::<String>::new());
    assert_eq!(erase(&cluster, with_parameters, "{parameters}"), "1");
    assert_eq!(
        files_with(&cluster, "hedgehog-parameter"),
        Vec::<String>::new()
    );
    assert_whole(&cluster);
    assert_eq!(
        cluster.value(&format!(
            "SELECT statement, error, outcome, details -> 'erased' FROM audit.log WHERE seq = {seq}"
        )),
        "~ | division by zero | failed | [\"statement\"]"
    );
    // Then the error, too: what was erased before stays so.
    assert_eq!(erase(&cluster, seq, "{error}"), "1");
    assert_whole(&cluster);
    assert_eq!(
        cluster.value(&format!(
            "SELECT details -> 'erased' FROM audit.log WHERE seq = {seq}"
        )),
        "[\"statement\", \"error\"]"
    );
    // Who, what, why.
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT user_name, details ->> 'seq', details -> 'fields', details ->> 'reason'
             FROM audit.log WHERE command = 'ERASE' AND class = 'AUDIT' ORDER BY seq"
        ),
        [
            format!("postgres | {seq} | [\"statement\"] | Article 17, request 4711"),
            format!("postgres | {with_parameters} | [\"parameters\"] | Article 17, request 4711"),
            format!("postgres | {seq} | [\"error\"] | Article 17, request 4711"),
        ]
    );
    // Whoever has the checkpoint from before still finds his trail; and without the database.
    let size = before.lines().nth(1).expect("a size").to_string();
    let files = Files::of(&cluster);
    let proof = cluster.value(&format!("SELECT audit.inclusion_proof({seq}, {size})"));
    let event = cluster.value(&format!("SELECT * FROM audit.evidence({seq}, {seq})"));
    let output = audit_verify(&[
        "inclusion",
        &files.write("proof", &proof),
        "--event",
        &files.write("event", &event),
        "--checkpoint",
        &files.write("before", &before),
        "--key",
        &key(&cluster),
    ]);
    assert!(output.status.success(), "{output:?}");
    python_agrees(&cluster);
}

#[test]
fn what_is_kept_once_is_erased_for_all() {
    let cluster = Cluster::start();
    let script = "SELECT 'badger';\n".repeat(20);
    cluster
        .psql()
        .run(format!(
            "SET audit.context = '{{\"name\": \"otter\"}}'; {script}"
        ))
        .ok();
    let seq: i64 = cluster
        .value("SELECT max(seq) FROM audit.log WHERE database_name = 'app' AND statement LIKE '%badger%'")
        .parse()
        .unwrap_or_else(|_| {
            cluster.flush();
            cluster
                .value("SELECT max(seq) FROM audit.log WHERE database_name = 'app' AND statement LIKE '%badger%'")
                .parse()
                .expect("a seq")
        });
    // Repeated texts are kept once from the fourth time on, so three or four may be inline.
    let count: i64 = erase(&cluster, seq, "{statement}")
        .parse()
        .expect("a number");
    assert!((16..=17).contains(&count), "{count}");
    let contexts: i64 = erase(&cluster, seq, "{context}").parse().expect("a number");
    assert!(contexts >= 20, "{contexts}");
    assert_whole(&cluster);
    assert_eq!(
        cluster.value(&format!(
            "SELECT statement, context, details -> 'erased' FROM audit.log WHERE seq = {seq}"
        )),
        "~ | ~ | [\"statement\", \"context\"]"
    );
    let rest: i64 = cluster
        .value("SELECT count(*) FROM audit.log WHERE database_name = 'app' AND statement LIKE '%badger%' AND command = 'SELECT'")
        .parse()
        .expect("a number");
    assert_eq!(rest, 20 - count);
    // The same text from now on is a new value.
    cluster.psql().run("SELECT 'badger'; SELECT 'badger'").ok();
    cluster.flush();
    assert_eq!(
        cluster.value("SELECT count(*) FROM audit.log WHERE database_name = 'app' AND statement LIKE '%badger%' AND command = 'SELECT'"),
        (rest + 2).to_string()
    );
    assert_whole(&cluster);
    python_agrees(&cluster);
}

#[test]
fn long_values_are_gone_from_toast() {
    let cluster = Cluster::start();
    // Nothing that compresses (lz4 finds repetitions in hexadecimal digits): it goes to the TOAST
    // table in chunks, as it is.
    let noise = cluster.value(
        "SELECT string_agg(rtrim(encode(sha256((i::text || random())::bytea), 'base64'), '='), '') FROM generate_series(1, 460) AS i",
    );
    cluster.psql().run(format!("SELECT length('{noise}')")).ok();
    let seq = seq_of(&cluster, "statement LIKE 'SELECT length(%'");
    let pieces = [&noise[100..140], &noise[9000..9040], &noise[19000..19040]];
    for piece in pieces {
        assert!(
            !files_with(&cluster, piece).is_empty(),
            "it was to be there"
        );
    }
    assert_eq!(erase(&cluster, seq, "{statement}"), "1");
    for piece in pieces {
        assert_eq!(files_with(&cluster, piece), Vec::<String>::new());
    }
    assert_whole(&cluster);
    cluster.psql().db("postgres").run("VACUUM").ok();
    assert_whole(&cluster);
}

#[test]
fn an_older_snapshot_sees_no_garbage() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'marmot-1'").ok();
    let seq = seq_of(&cluster, "statement LIKE '%marmot%'");
    let mut reader = cluster.connect("postgres", "postgres");
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM audit.log")
        .expect("a snapshot");
    assert_eq!(erase(&cluster, seq, "{statement}"), "1");
    let row = reader
        .query_one(
            "SELECT statement, command FROM audit.log WHERE seq = $1",
            &[&seq],
        )
        .expect("a row");
    assert_eq!(row.get::<_, Option<String>>(0), None);
    assert_eq!(row.get::<_, &str>(1), "SELECT");
    reader.batch_execute("COMMIT").expect("ends");
    assert_eq!(files_with(&cluster, "marmot-1"), Vec::<String>::new());
}

#[test]
fn erasing_takes_effect_whatever_becomes_of_the_transaction() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'lemming-1'").ok();
    let seq = seq_of(&cluster, "statement LIKE '%lemming%'");
    cluster
        .psql()
        .db("postgres")
        .run(format!(
            "SELECT audit.unlock('r'); BEGIN; SELECT audit.erase({seq}, '{{statement}}', 'r'); ROLLBACK"
        ))
        .ok();
    assert_eq!(files_with(&cluster, "lemming-1"), Vec::<String>::new());
    assert_whole(&cluster);
}

/// A hold keeps the values, too, until it is released.
#[test]
fn nothing_under_a_legal_hold_is_erased() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'stoat-1'").ok();
    let seq = seq_of(&cluster, "statement LIKE '%stoat%'");
    let mut client = unlocked(&cluster);
    let erase_it = format!("SELECT audit.erase({seq}, '{{statement}}', 'r')");
    for hold in [
        "SELECT audit.hold('2000-01-01', '2000-01-02', 'of other times')",
        "SELECT audit.hold('-infinity', now(), 'case 12')",
    ] {
        client.batch_execute(hold).expect("holds");
    }
    let release = "SELECT audit.release(2, 'case 12 is closed')";
    // A release that may yet be rolled back is none.
    for sql in [
        erase_it.clone(),
        format!("{release}; {erase_it}"),
        format!(
            "DO $$ BEGIN PERFORM audit.release(2, 'r'); EXCEPTION WHEN division_by_zero THEN END $$; {erase_it}"
        ),
    ] {
        let error = client.batch_execute(&sql).expect_err("it is held");
        let error = error.as_db_error().expect("of the server");
        assert_eq!(error.code().code(), "55000", "{sql}: {error}");
        assert_eq!(
            error.message(),
            format!("event {seq} is under legal hold 2")
        );
        assert!(error.hint().is_some());
    }
    assert_ne!(files_with(&cluster, "stoat-1"), Vec::<String>::new());
    client.batch_execute(release).expect("releases");
    client.batch_execute(&erase_it).expect("erases");
    assert_eq!(files_with(&cluster, "stoat-1"), Vec::<String>::new());
    assert_whole(&cluster);
}

#[test]
fn erasing_is_refused_with_a_reason() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'x'; CREATE ROLE bob LOGIN").ok();
    let seq = seq_of(&cluster, "statement = 'SELECT ''x'''");
    let start: i64 = cluster
        .value("SELECT min(seq) FROM audit.log WHERE command = 'START'")
        .parse()
        .expect("a seq");
    let mut client = cluster.connect("postgres", "postgres");
    let locked = format!("SELECT audit.erase({seq}, '{{statement}}', 'r')");
    let error = fails(&mut client, &locked);
    assert_eq!(error.code().code(), "55000");
    assert_eq!(error.message(), "the audit trail is locked");
    client
        .batch_execute("SELECT audit.unlock('r')")
        .expect("unlocks");
    for (sql, code, what) in [
        (
            format!("SELECT audit.erase({seq}, '{{statement}}', '')"),
            "22023",
            "needs a reason",
        ),
        (
            format!("SELECT audit.erase({seq}, '{{statement}}', NULL)"),
            "22023",
            "needs a reason",
        ),
        (
            format!("SELECT audit.erase({seq}, '{{}}', 'r')"),
            "22023",
            "no field",
        ),
        (
            format!("SELECT audit.erase({seq}, NULL, 'r')"),
            "22023",
            "no field",
        ),
        (
            format!("SELECT audit.erase({seq}, '{{salary}}', 'r')"),
            "22023",
            "\"salary\" is not a field",
        ),
        (
            format!("SELECT audit.erase({seq}, '{{parameters}}', 'r')"),
            "55000",
            "has no parameters",
        ),
        (
            "SELECT audit.erase(1000000, '{statement}', 'r')".into(),
            "22023",
            "there is no event 1000000",
        ),
        (
            "SELECT audit.erase(NULL, '{statement}', 'r')".into(),
            "22023",
            "there is no event 0",
        ),
        (
            format!("SELECT audit.erase({start}, '{{details}}', 'r')"),
            "55000",
            "is of class AUDIT",
        ),
    ] {
        let error = fails(&mut client, &sql);
        assert_eq!(error.code().code(), code, "{sql}: {error}");
        assert!(error.message().contains(what), "{sql}: {error}");
        assert!(error.hint().is_some(), "{sql}");
    }
    cluster.psql().run("GRANT audit_admin TO bob").ok();
    let refused = cluster
        .psql()
        .db("postgres")
        .user("bob")
        .run(format!("SELECT audit.erase({seq}, '{{statement}}', 'r')"))
        .error();
    assert!(refused.contains("permission denied"), "{refused}");
    assert_eq!(
        cluster.value("SELECT count(*) FROM audit.log WHERE command = 'ERASE' AND class = 'AUDIT'"),
        "0"
    );
}

#[test]
fn a_value_that_somebody_removed_himself_is_found() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'a'; SELECT 'b'").ok();
    let seq = seq_of(&cluster, "statement = 'SELECT ''a'''");
    erase(&cluster, seq, "{statement}");
    assert_whole(&cluster);
    // As audit.erase() would have done it: with the digest in the place of the salt.
    let other = seq_of(&cluster, "statement = 'SELECT ''b'''");
    tamper(
        &mut unlocked(&cluster),
        &format!(
            "UPDATE audit.event SET text = NULL, salt = '\\x81' || sha256('\\x0201' || substring(sha256('\\x07' || salt || '\\x01') for 16) || convert_to(text, 'UTF8')) WHERE seq = {other}"
        ),
    );
    let found = problems(&cluster);
    assert_eq!(
        found,
        [format!(
            "{other} | removed value | statement is gone, and no ERASE event says why"
        )]
    );
}

/// A query for the event in the same statement keeps its page in use: no wait without an end, and
/// the next call finishes.
#[test]
fn a_page_in_use_is_an_error_and_the_next_call_finishes() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'dromedary'").ok();
    let seq = seq_of(&cluster, "statement LIKE '%dromedary%'");
    let out = cluster.psql().db("postgres").run(
        "SELECT audit.unlock('r');\n\
         SELECT audit.erase((SELECT seq FROM audit.log WHERE statement LIKE 'SELECT ''drom%' LIMIT 1), '{statement}', 'r')",
    );
    assert!(
        out.stderr
            .contains("could not be erased from the files yet"),
        "{out:?}"
    );
    assert_eq!(erase(&cluster, seq, "{statement}"), "0");
    let left = cluster.value(&format!(
        "SELECT statement FROM audit.log WHERE seq = {seq}"
    ));
    assert!(!left.contains("dromedary"), "{left}");
    assert_whole(&cluster);
}
