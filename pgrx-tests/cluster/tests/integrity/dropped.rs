//! What retention leaves: proofs and checkpoints of what remains stay valid.

use super::erase::{erase, seq_of};
use super::evidence::{Files, audit_verify};
use super::{assert_whole, found, problems, tamper, unlocked, verified_by};
use crate::fails;
use crate::retention::{early_in_a_period, is_gone, set, until};
use crate::shim::Clock;
use audit_cluster_tests::{Cluster, Shutdown, wait_until};
use postgres::Client;
use std::time::Duration;

#[track_caller]
fn holds(arguments: &[&str]) {
    let output = audit_verify(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[test]
fn proofs_survive_a_dropped_partition() {
    let cluster = Cluster::builder()
        .setting("audit.partition_interval", "'1min'")
        .setting("audit.checkpoint_interval", "'1s'")
        .start();
    cluster
        .psql()
        .run("SELECT 'long ago'; SELECT 'long ago'")
        .ok();
    let until = |what: &str, sql: &str, expected: &str| {
        wait_until(what, Duration::from_secs(120), || {
            std::thread::sleep(Duration::from_millis(300));
            cluster.psql().run("SELECT 'knock'").ok();
            cluster.flush();
            cluster.value(sql) == expected
        });
    };
    until(
        "a checkpoint",
        "SELECT count(*) > 1 FROM audit.checkpoint WHERE size > 4",
        "t",
    );
    let first =
        cluster.value("SELECT size FROM audit.checkpoint WHERE size > 4 ORDER BY size LIMIT 1");
    let note = |size: &str| {
        cluster.value(&format!(
            "SELECT note FROM audit.checkpoint WHERE size = {size}"
        ))
    };
    let files = Files::of(&cluster);
    let old = files.write("old", &note(&first));
    until(
        "the next period",
        "SELECT recorded_at >= (SELECT min(ends_at) FROM audit.period) FROM audit.event ORDER BY seq DESC LIMIT 1",
        "t",
    );
    assert_whole(&cluster);
    cluster.configure("audit.retention", "'3s'");
    cluster.reload();
    until(
        "the old period is dropped",
        "SELECT count(*) > 0 FROM audit.subtree",
        "t",
    );
    cluster.configure("audit.retention", "'1d'");
    cluster.reload();

    let remaining: i64 = cluster
        .value("SELECT min(seq) FROM audit.event")
        .parse()
        .expect("a seq");
    let first: i64 = first.parse().expect("a size");
    assert!(remaining > first, "{remaining} > {first}");
    assert_eq!(problems(&cluster), Vec::<String>::new());
    let key = key_of(&cluster);
    let head = cluster.value("SELECT audit.checkpoint()");
    let size = head.lines().nth(1).expect("a size").to_string();
    let head = files.write("head", &head);
    // From a checkpoint whose events are gone to the present head.
    let proof = cluster.value(&format!("SELECT audit.consistency_proof({first}, {size})"));
    holds(&[
        "consistency",
        &files.write("proof", &proof),
        "--old",
        &old,
        "--new",
        &head,
        "--key",
        &key,
    ]);
    for seq in [remaining, remaining + 1] {
        let proof = cluster.value(&format!("SELECT audit.inclusion_proof({seq}, {size})"));
        let event = cluster.value(&format!("SELECT * FROM audit.evidence({seq}, {seq})"));
        holds(&[
            "inclusion",
            &files.write("proof", &proof),
            "--event",
            &files.write("event", &event),
            "--checkpoint",
            &head,
            "--key",
            &key,
        ]);
    }
    let mut client = cluster.connect("postgres", "postgres");
    let error = fails(
        &mut client,
        &format!("SELECT audit.inclusion_proof(2, {size})"),
    );
    assert_eq!(error.code().code(), "55000");
    assert!(
        error.message().contains("were dropped by retention"),
        "{error}"
    );
    drop(client);
    // And the worker goes on with the same tree.
    cluster.restart(Shutdown::Fast);
    cluster.psql().run("SELECT 'after'").ok();
    assert_whole(&cluster);
}

/// The key, whose event is dropped: audit.origin has it.
fn key_of(cluster: &Cluster) -> String {
    let events = cluster.value("SELECT count(*) FROM audit.log WHERE command = 'KEY'");
    assert_eq!(events, "0");
    cluster.value("SELECT details ->> 'key' FROM audit.origin WHERE command = 'KEY' ORDER BY seq DESC LIMIT 1")
}

/// Says each word in a statement of its own.
#[track_caller]
fn say(client: &mut Client, words: &[&str]) {
    for word in words {
        let sql = format!("SELECT '{word}'");
        client.batch_execute(&sql).expect("runs");
    }
}

fn said(cluster: &Cluster, word: &str) -> i64 {
    seq_of(cluster, &format!("statement = 'SELECT ''{word}'''"))
}

/// Tampers in a transaction that is rolled back, and sees it found.
#[track_caller]
fn finds(cluster: &Cluster, sql: &str, expected: &[(i64, &str)]) {
    let mut client = unlocked(cluster);
    tamper(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    tamper(&mut client, sql);
    let all = verified_by(&mut client);
    for (seq, problem) in expected {
        found(&all, Some(*seq), problem);
    }
    tamper(&mut client, "ROLLBACK");
}

/// A hold keeps the first period, and retention drops the second: what went with that is not missed,
/// and all else still is.
#[test]
fn a_held_period_before_a_dropped_one_is_whole() {
    let clock = Clock::new();
    let cluster = clock
        .of(Cluster::builder().setting("audit.partition_interval", "'1min'"))
        .start();
    early_in_a_period();
    // One session goes on throughout, one ends in the second period, one begins there.
    let (mut throughout, mut until_second) = (cluster.app(), cluster.app());
    say(&mut throughout, &["walrus", "narwhal", "beluga"]);
    say(&mut until_second, &["in the first"]);
    let [walrus, narwhal, beluga] = ["walrus", "narwhal", "beluga"].map(|w| said(&cluster, w));
    let held = cluster.value(&format!(
        "SELECT started_at FROM audit.log WHERE seq = {walrus}"
    ));
    clock.set_ahead(61);
    say(&mut throughout, &["in the second", "and again"]);
    say(&mut until_second, &["still in the second"]);
    drop(until_second);
    let mut from_second = cluster.app();
    say(&mut from_second, &["begun in the second"]);
    until(&cluster, "the first period is closed", |c| {
        c.value("SELECT count(closed_at) FROM audit.period") != "0"
    });
    assert_eq!(erase(&cluster, walrus, "{statement}"), "1");
    assert_whole(&cluster);
    let erasures =
        "SELECT coalesce(max(seq), 0) FROM audit.log WHERE command = 'ERASE' AND class = 'AUDIT'";
    let erasure = cluster.value(erasures);
    finds(
        &cluster,
        &format!("DELETE FROM audit.event WHERE seq = {erasure}"),
        &[(walrus, "removed value")],
    );

    clock.set_ahead(122);
    let hold = format!("SELECT audit.hold('{held}', '{held}', 'the first period')");
    cluster.query("postgres", &hold);
    set(&cluster, "audit.retention", "'3s'");
    until(&cluster, "the second period goes", |c| {
        is_gone(c, "in the second")
    });
    set(&cluster, "audit.retention", "'1d'");
    until(&cluster, "the trail tells", |c| {
        c.value("SELECT count(*) FROM audit.dropped WHERE told_by IS NULL") == "0"
    });
    say(&mut throughout, &["in the third", "orca"]);
    say(&mut from_second, &["in the third, too"]);
    drop(from_second);
    let orca = said(&cluster, "orca");
    assert_eq!(cluster.value(erasures), "0");
    assert!(!is_gone(&cluster, "narwhal"));
    assert_whole(&cluster);
    for (from, to) in [(1, orca), (narwhal, orca), (narwhal, beluga), (orca, orca)] {
        let range = format!("SELECT * FROM audit.verify({from}, {to})");
        assert_eq!(cluster.query("postgres", &range), [""; 0], "{range}");
    }
    // What is still there is watched as ever.
    finds(
        &cluster,
        &format!("DELETE FROM audit.event WHERE seq = {narwhal}"),
        &[(narwhal, "removed event"), (beluga, "missing events")],
    );
    finds(
        &cluster,
        &format!("UPDATE audit.event SET text = 'SELECT ''seal''' WHERE seq = {narwhal}"),
        &[(narwhal, "changed event")],
    );
    // As audit.erase() would have done it, behind what was dropped; and a range that nobody dropped.
    finds(
        &cluster,
        &format!(
            "INSERT INTO audit.subtree (first_seq, last_seq, nodes) VALUES ({orca} + 1000000, {orca} + 1000000, '');
             UPDATE audit.event SET text = NULL, salt = '\\x81' || sha256('\\x0201' || substring(sha256('\\x07' || salt || '\\x01') for 16) || convert_to(text, 'UTF8')) WHERE seq = {orca}"
        ),
        &[(orca, "removed value")],
    );
    drop(throughout);
    assert_whole(&cluster);
}
