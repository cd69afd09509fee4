//! What leaves the database: checkpoints, proofs, exported events; and those who check them without
//! it: `audit-verify`, and a verifier in Python that was written from docs/integrity.md alone.

use super::{assert_whole, found, some_work, tamper, unlocked, verified_by};
use crate::fails;
use audit_cluster_tests::{Cluster, Shutdown, eventually, kill};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The command, built from this checkout.
pub fn audit_verify(arguments: &[&str]) -> Output {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let program = BUILT.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "-q", "-p", "audit_verify"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.expect("cargo runs").success());
        let test = std::env::current_exe().expect("this test's path");
        let folder = test.ancestors().nth(2).expect("target/debug");
        folder.join("audit-verify")
    });
    Command::new(program)
        .args(arguments)
        .output()
        .expect("audit-verify runs")
}

#[track_caller]
fn holds(arguments: &[&str]) -> String {
    let output = audit_verify(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text
}

#[track_caller]
fn refuses(arguments: &[&str], what: &str) {
    let output = audit_verify(arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    assert!(error.contains(what), "{what:?} is not in {error:?}");
}

/// The public key of a trail.
pub fn key(cluster: &Cluster) -> String {
    cluster.value(
        "SELECT details ->> 'key' FROM audit.log WHERE command = 'KEY' ORDER BY seq DESC LIMIT 1",
    )
}

/// Files of a test, next to its cluster.
pub struct Files<'c>(&'c Cluster);

impl Files<'_> {
    pub fn of(cluster: &Cluster) -> Files<'_> {
        Files(cluster)
    }

    pub fn write(&self, name: &str, content: &str) -> String {
        self.write_bytes(name, content.as_bytes())
    }

    pub fn write_bytes(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.socket_dir().join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    }
}

fn size_of(note: &str) -> i64 {
    let line = note.lines().nth(1).expect("a size");
    line.parse().expect("a number")
}

#[test]
fn checkpoints_proofs_and_events_hold_without_the_database() {
    let cluster = Cluster::start();
    let files = Files::of(&cluster);
    some_work(&cluster);
    let key = key(&cluster);
    let old_note = cluster.value("SELECT audit.checkpoint()");
    let old = files.write("old", &old_note);
    some_more(&cluster);
    let new_note = cluster.value("SELECT audit.checkpoint()");
    let new = files.write("new", &new_note);
    let (size1, size2) = (size_of(&old_note), size_of(&new_note));
    assert!(size1 < size2);

    let printed = holds(&["checkpoint", &new, "--key", &key]);
    assert!(printed.contains(&format!("size {size2}\n")), "{printed}");
    assert!(printed.contains("the signature holds"), "{printed}");

    let proof = cluster.value(&format!("SELECT audit.consistency_proof({size1}, {size2})"));
    let proof = files.write("consistency", &proof);
    holds(&[
        "consistency",
        &proof,
        "--old",
        &old,
        "--new",
        &new,
        "--key",
        &key,
    ]);
    refuses(&["consistency", &proof, "--old", &new], "not");

    for seq in [1, 2, size1, size1 + 1, size2 - 1, size2] {
        let proof = cluster.value(&format!("SELECT audit.inclusion_proof({seq}, {size2})"));
        let proof = files.write("inclusion", &proof);
        let event = cluster.value(&format!("SELECT * FROM audit.evidence({seq}, {seq})"));
        let event = files.write("event", &event);
        holds(&[
            "inclusion",
            &proof,
            "--event",
            &event,
            "--checkpoint",
            &new,
            "--key",
            &key,
        ]);
        let other = if seq == 1 { 2 } else { 1 };
        let other = cluster.value(&format!("SELECT * FROM audit.evidence({other}, {other})"));
        let other = files.write("other", &other);
        refuses(
            &["inclusion", &proof, "--event", &other],
            "does not hold the event",
        );
    }

    let lines = cluster.query(
        "postgres",
        &format!("SELECT * FROM audit.evidence(1, {size2})"),
    );
    let all = files.write("events", &lines.join("\n"));
    let printed = holds(&["events", &all, "--checkpoint", &new, "--key", &key]);
    assert!(
        printed.contains("it is the root of the checkpoint"),
        "{printed}"
    );
    let changed = lines.join("\n").replacen("SELECT 1", "SELECT 7", 1);
    let changed = files.write("changed", &changed);
    refuses(
        &["events", &changed, "--checkpoint", &new],
        "not the one that was published",
    );
}

fn some_more(cluster: &Cluster) {
    cluster
        .psql()
        .run(
            "SELECT count(*) FROM t; DO $$ BEGIN FOR i IN 1 .. 50 LOOP PERFORM 1; END LOOP; END $$",
        )
        .ok();
    cluster.flush();
}

#[test]
fn sizes_and_proofs_of_every_kind() {
    // Small batches and large ones, so that nodes are stored, merged inside batches and across.
    let cluster = Cluster::start();
    for i in 0..7 {
        cluster
            .psql()
            .run(format!(
                "DO $$ BEGIN FOR i IN 1 .. {} LOOP PERFORM {i}; END LOOP; END $$",
                1 << i
            ))
            .ok();
        cluster.flush();
    }
    let size: i64 = cluster.flush();
    let files = Files::of(&cluster);
    for size1 in (1..=size).step_by(13) {
        let proof = cluster.value(&format!("SELECT audit.consistency_proof({size1}, {size})"));
        holds(&["consistency", &files.write("proof", &proof)]);
        let proof = cluster.value(&format!("SELECT audit.inclusion_proof({size1}, {size})"));
        holds(&["inclusion", &files.write("proof", &proof)]);
    }
    assert_whole(&cluster);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let cluster = Cluster::start();
    some_work(&cluster);
    let files = Files::of(&cluster);
    let mut client = cluster.connect("postgres", "postgres");
    for (sql, what) in [
        (
            "SELECT audit.inclusion_proof(0, 5)",
            "event 0 is not in the tree of size 5",
        ),
        (
            "SELECT audit.inclusion_proof(6, 5)",
            "event 6 is not in the tree of size 5",
        ),
        ("SELECT audit.inclusion_proof(-1, 5)", "event -1 is not in"),
        (
            "SELECT audit.inclusion_proof(1, 1000000)",
            "size is 1000000, but the trail has",
        ),
        (
            "SELECT audit.consistency_proof(0, 5)",
            "size1 is 0; it must be positive",
        ),
        (
            "SELECT audit.consistency_proof(5, 4)",
            "size1 is 5, which is more than size2, 4",
        ),
        (
            "SELECT audit.consistency_proof(5, 1000000)",
            "size2 is 1000000, but",
        ),
    ] {
        let error = fails(&mut client, sql);
        assert_eq!(error.code().code(), "22023", "{sql}");
        assert!(error.message().contains(what), "{sql}: {}", error.message());
        assert!(error.hint().is_some(), "{sql}");
    }
    // Nobody but readers.
    cluster.psql().run("CREATE ROLE nosy LOGIN").ok();
    for sql in [
        "SELECT * FROM audit.verify()",
        "SELECT audit.checkpoint()",
        "SELECT audit.inclusion_proof(1, 5)",
        "SELECT audit.consistency_proof(1, 5)",
        "SELECT * FROM audit.evidence(1, 5)",
    ] {
        let refused = cluster.psql().db("postgres").user("nosy").run(sql).error();
        assert!(refused.contains("permission denied"), "{sql}: {refused}");
        cluster.psql().run("GRANT audit_reader TO nosy").ok();
        cluster.psql().db("postgres").user("nosy").run(sql).ok();
        cluster.psql().run("REVOKE audit_reader FROM nosy").ok();
    }

    let note = cluster.value("SELECT audit.checkpoint()");
    let key = key(&cluster);
    let other = Cluster::start();
    other.flush();
    let others_key = self::key(&other);
    let others_note = other.value("SELECT audit.checkpoint()");
    let size = size_of(&note);
    let proof = cluster.value(&format!("SELECT audit.inclusion_proof(1, {size})"));
    let (note, others_note) = (
        files.write("note", &note),
        files.write("others", &others_note),
    );
    let proof = files.write("proof", &proof);
    refuses(
        &["checkpoint", &note, "--key", &others_key],
        "not signed by",
    );
    refuses(
        &["checkpoint", &others_note, "--key", &key],
        "not signed by",
    );
    refuses(&["checkpoint", &note, "--key", "nonsense"], "malformed key");
    refuses(
        &["inclusion", &proof, "--checkpoint", &others_note],
        "checkpoint of size",
    );
    refuses(
        &["checkpoint", &files.write("no", "nothing")],
        "malformed checkpoint",
    );
    refuses(&["checkpoint", "/nonexistent"], "No such file");
    refuses(&["inclusion", &files.write("no", "{}")], "malformed proof");
    refuses(
        &["inclusion", &files.write("no", "nothing")],
        "malformed proof",
    );
    refuses(
        &["events", &files.write("no", "{}")],
        "line 1: malformed event",
    );
    let changed = std::fs::read_to_string(&note)
        .expect("reads")
        .replacen("\n", "x\n", 1);
    refuses(
        &["checkpoint", &files.write("no", &changed), "--key", &key],
        "does not fit",
    );
    assert_eq!(audit_verify(&["checkpoint"]).status.code(), Some(2));
    assert_eq!(
        audit_verify(&["ring", &note, "--key", &key]).status.code(),
        Some(2)
    );
}

#[test]
fn the_worker_publishes_checkpoints() {
    let cluster = Cluster::builder()
        .setting("audit.checkpoint_interval", "'1s'")
        .start();
    some_work(&cluster);
    let last = cluster.flush();
    let file = cluster.data_dir().join("pg_audit/checkpoints");
    eventually("a checkpoint of the last event", || {
        let covered = format!("SELECT max(size) >= {last} FROM audit.checkpoint");
        cluster.value(&covered) == "t"
    });
    let text = std::fs::read_to_string(&file).expect("the file of checkpoints");
    let path = file.display().to_string();
    let printed = holds(&["checkpoint", &path, "--key", &key(&cluster)]);
    assert!(printed.contains("the signature holds"), "{printed}");
    assert!(text.matches("\n\n\u{2014} ").count() >= 2, "{text}");
    // The log has the same notes, their lines set off by a tab.
    let newest = text
        .trim_end()
        .rsplit_once("\n\naudit_ext/")
        .expect("notes")
        .1;
    eventually("the newest checkpoint is in the log", || {
        cluster.log().replace("\n\t", "\n").contains(newest)
    });
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).expect("there"));
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        cluster.value("SELECT last_checkpoint IS NOT NULL FROM audit.status"),
        "t"
    );
    // At shutdown, too: everything is covered.
    cluster.restart(Shutdown::Fast);
    let covered: i64 = cluster
        .value("SELECT max(size) FROM audit.checkpoint")
        .parse()
        .expect("a size");
    assert!(covered > last, "{covered} of {last}");
    assert_whole(&cluster);
}

#[test]
fn a_cut_tail_is_found_by_the_file_alone() {
    let cluster = Cluster::start();
    some_work(&cluster);
    cluster.restart(Shutdown::Fast);
    assert_whole(&cluster);
    // The table of checkpoints goes with the tail, and nothing is stored behind it.
    let mut client = unlocked(&cluster);
    let worker = cluster.suspend_worker();
    tamper(
        &mut client,
        "BEGIN ISOLATION LEVEL REPEATABLE READ;
         DELETE FROM audit.batch WHERE first_seq > 3;
         DELETE FROM audit.event WHERE seq > (SELECT max(last_seq) FROM audit.batch);
         DELETE FROM audit.checkpoint WHERE size > 1",
    );
    found(&verified_by(&mut client), None, "cut tail");
    assert!(kill(worker, "CONT"));
}

/// The rows of the tables, every value as PostgreSQL prints it.
fn rows(cluster: &Cluster) -> Vec<String> {
    ["event", "session", "statement", "fate", "batch"]
        .iter()
        .flat_map(|table| {
            let columns = cluster.value(&format!(
                "SELECT string_agg(format('%L, CASE WHEN %I IS NOT NULL THEN format(''%%s'', %I) END', attname, attname, attname), ', ')
                 FROM pg_attribute WHERE attrelid = 'audit.{table}'::regclass AND attnum > 0"
            ));
            cluster.query(
                "postgres",
                &format!("SET timezone = 'UTC'; SELECT json_build_object('table', '{table}', {columns}) FROM audit.{table}"),
            )
        })
        .collect()
}

/// Runs the second verifier.
pub fn python(cluster: &Cluster, checkpoint: &str, key: &str, rows: &[String]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integrity/verifier.py");
    let note = Files::of(cluster).write("head", checkpoint);
    let mut child = Command::new("python3")
        .arg(script)
        .args([&note, key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut input = child.stdin.take().expect("piped");
    let text = rows.join("\n");
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("ends");
    let _ = writer.join();
    output
}

#[test]
fn a_second_verifier_agrees_on_ten_thousand_events() {
    let cluster = Cluster::start();
    some_work(&cluster);
    cluster
        .psql()
        .run("DO $$ BEGIN FOR i IN 1 .. 5000 LOOP PERFORM 1; EXECUTE format('SELECT %s', i); END LOOP; END $$")
        .ok();
    let seq = cluster.flush();
    assert!(seq > 10_000, "{seq}");
    let note = cluster.value("SELECT audit.checkpoint()");
    let key = key(&cluster);
    let rows = rows(&cluster);
    let output = python(&cluster, &note, &key, &rows);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = note.lines().collect();
    assert_eq!(
        printed.trim(),
        format!("{} {}", lines[1], lines[2]),
        "{output:?}"
    );
    // It does find things.
    let changed: Vec<_> = rows
        .iter()
        .map(|row| row.replace("SELECT 77", "SELECT 78"))
        .collect();
    let output = python(&cluster, &note, &key, &changed);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("the root is not the one"), "{error}");
    let output = python(&cluster, &note.replacen(lines[1], "9999", 1), &key, &rows);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("signature"),
        "{output:?}"
    );
}

/// The second verifier finds the root of a checkpoint of the whole trail.
#[track_caller]
pub fn python_agrees(cluster: &Cluster) {
    let note = cluster.value("SELECT audit.checkpoint()");
    let output = python(cluster, &note, &key(cluster), &rows(cluster));
    assert!(output.status.success(), "{output:?}");
}
