//! What retention leaves: proofs and checkpoints of what remains stay valid.

use super::evidence::{Files, audit_verify};
use super::{assert_whole, problems};
use crate::fails;
use audit_cluster_tests::{Cluster, Shutdown, wait_until};
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
