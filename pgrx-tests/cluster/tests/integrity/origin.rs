//! Trails that were restored, forked, branched: the trail itself says so, and the loss is found.

use super::{assert_whole, problems};
use audit_cluster_tests::{Cluster, Shutdown};
use std::path::Path;
use std::process::Command;

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(done.expect("cp runs").success());
}

fn replace(data: &Path, backup: &Path) {
    std::fs::remove_dir_all(data).expect("removes");
    copy(backup, data);
}

fn origins(cluster: &Cluster, columns: &str) -> Vec<String> {
    cluster.flush();
    cluster.query(
        "postgres",
        &format!("SELECT command, {columns} FROM audit.log WHERE command IN ('FORK', 'RESTORE', 'UPGRADE') ORDER BY seq"),
    )
}

#[test]
fn a_restored_backup_behind_its_checkpoints_is_found() {
    let outside = tempfile_dir();
    let cluster = Cluster::builder()
        .setting(
            "audit.ring_directory",
            &format!("'{}/pg_audit'", outside.display()),
        )
        .setting(
            "audit.key_file",
            &format!("'{}/pg_audit/key'", outside.display()),
        )
        .start();
    cluster.psql().run("SELECT 1").ok();
    cluster.flush();
    cluster.stop(Shutdown::Fast);
    let backup = cluster.socket_dir().join("backup");
    copy(&cluster.data_dir(), &backup);
    cluster.start_again();
    cluster.psql().run("SELECT 'what nobody is to know'").ok();
    cluster.flush();
    cluster.stop(Shutdown::Fast); // publishes
    replace(&cluster.data_dir(), &backup);
    cluster.start_again();
    let found = origins(
        &cluster,
        "(details -> 'parent' ->> 'size')::int < (details ->> 'published_size')::int",
    );
    assert_eq!(found, ["RESTORE | t"]);
    let found = restores(&cluster);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("| restored | the trail ends at"),
        "{found:?}"
    );
    // And it goes on.
    cluster.psql().run("SELECT 2").ok();
    cluster.restart(Shutdown::Fast);
    assert_eq!(origins(&cluster, "1").len(), 1);
    assert_eq!(restores(&cluster).len(), 1);
    let _ = std::fs::remove_dir_all(outside);
}

/// The problems of a restored trail. A session that ended with the server may have left its last event
/// in the ring, which is not restored: then what came before it is rightly missed, and said to be.
fn restores(cluster: &Cluster) -> Vec<String> {
    let mut found = problems(cluster);
    found.retain(|problem| !problem.contains("| missing events | the events 1 to "));
    found
}

/// A folder that the server may write to, outside of the cluster's.
fn tempfile_dir() -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("audit_outside.{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).expect("a folder");
    let done = Command::new("chown").arg("postgres:").arg(&dir).status();
    let _ = done;
    dir
}

#[test]
fn a_promoted_copy_forks() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 1").ok();
    cluster.flush();
    let old_key = super::evidence::key(&cluster);
    let origin = cluster.value("SELECT split_part(audit.checkpoint(), chr(10), 1)");
    cluster.stop(Shutdown::Fast);
    // As a standby would be: recovery of its own WAL, then promotion to a new timeline.
    std::fs::write(cluster.data_dir().join("standby.signal"), "").expect("writes");
    cluster.start_again();
    // Sessions that began in recovery, when nothing was recorded, go on: what their start-up had in
    // memory is long gone.
    let mut sessions: Vec<_> = (0..24).map(|_| cluster.app()).collect();
    for session in &mut sessions {
        session.batch_execute("SELECT 'before'").expect("runs");
    }
    assert_eq!(cluster.value("SELECT pg_promote()"), "t");
    audit_cluster_tests::eventually("the worker runs", || cluster.worker_pid().is_some());
    for session in &mut sessions {
        session
            .batch_execute("SELECT 'over the promotion'")
            .expect("runs");
    }
    drop(sessions);
    assert_eq!(cluster.count("statement LIKE '%over the promotion%'"), 24);
    assert!(
        !cluster.log().contains("was terminated by signal"),
        "{}",
        cluster.log()
    );
    cluster.psql().run("SELECT 2").ok();
    let found = origins(
        &cluster,
        &format!(
            "details ->> 'timeline', details -> 'parent' ->> 'timeline', details -> 'parent' ->> 'origin' = '{origin}', (details -> 'parent' ->> 'size')::bigint = seq - 1"
        ),
    );
    assert_eq!(found, ["FORK | 2 | 1 | t | t"]);
    // The key came along in the data directory: this node makes its own, which the old one signs.
    let new_key = super::evidence::key(&cluster);
    assert_ne!(new_key, old_key);
    assert_eq!(
        cluster.value("SELECT details ->> 'previous', length(details ->> 'signature') FROM audit.log WHERE command = 'KEY' ORDER BY seq DESC LIMIT 1"),
        format!("{old_key} | 128")
    );
    let now = cluster.value("SELECT split_part(audit.checkpoint(), chr(10), 1)");
    assert_ne!(now, origin);
    assert_whole(&cluster);
}

#[test]
fn a_branch_forks() {
    let cluster = Cluster::start();
    cluster.flush();
    cluster.configure("audit.branch", "'preview'");
    cluster.restart(Shutdown::Fast);
    assert_eq!(
        origins(
            &cluster,
            "details ->> 'branch', details -> 'parent' ->> 'branch'"
        ),
        ["FORK | preview | "]
    );
    assert!(
        cluster
            .value("SELECT audit.checkpoint()")
            .contains("/1/preview\n")
    );
    assert_whole(&cluster);
    cluster.restart(Shutdown::Fast);
    assert_eq!(origins(&cluster, "1").len(), 1);
}
