//! The signing key: made when missing, refused where others could have it, its changes on record.

use super::assert_whole;
use super::evidence::{audit_verify, key};
use crate::fails;
use audit_cluster_tests::{Cluster, Shutdown, eventually};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

fn keys(cluster: &Cluster) -> Vec<String> {
    cluster.flush();
    cluster.query(
        "postgres",
        "SELECT details ->> 'key', details ->> 'previous' FROM audit.log WHERE command = 'KEY' ORDER BY seq",
    )
}

#[test]
fn the_worker_makes_a_key_once() {
    let cluster = Cluster::start();
    let first = keys(&cluster);
    assert_eq!(first.len(), 1, "{first:?}");
    let file = cluster.data_dir().join("pg_audit/key");
    let made = fs::metadata(&file).expect("the key");
    assert_eq!(made.mode() & 0o777, 0o600);
    assert!(
        fs::read_to_string(&file)
            .expect("text")
            .starts_with("PRIVATE+KEY+audit_ext/")
    );
    cluster.restart(Shutdown::Fast);
    cluster.restart(Shutdown::Immediate);
    assert_eq!(keys(&cluster), first);
    // It is nobody else's.
    let other = Cluster::start();
    assert_ne!(keys(&other), first);
}

#[test]
fn a_key_that_others_can_read_is_not_used() {
    let cluster = Cluster::builder()
        .setting("audit.checkpoint_interval", "'1s'")
        .start();
    let file = cluster.data_dir().join("pg_audit/key");
    cluster.flush();
    cluster.stop(Shutdown::Fast);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("chmod");
    cluster.start_again();
    cluster.psql().run("SELECT 1").ok();
    cluster.flush();
    let state = "SELECT last_error FROM audit.status";
    eventually("audit.status tells", || cluster.value(state) != "~");
    let told = cluster.value(state);
    assert!(
        told.contains("can be read or written by others (mode 0640)"),
        "{told}"
    );
    assert!(
        cluster.log().contains("set its mode to 0600"),
        "{}",
        cluster.log()
    );
    let mut client = cluster.connect("postgres", "postgres");
    let error = fails(&mut client, "SELECT audit.checkpoint()");
    assert!(
        error.message().contains("can be read or written by others"),
        "{error}"
    );
    // Recording goes on, the trail is whole; and signing goes on once it is mended.
    assert_eq!(cluster.count("statement = 'SELECT 1'"), 1);
    assert_whole(&cluster);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    eventually("the worker signs again", || {
        cluster.psql().run("SELECT 2").ok();
        cluster.flush();
        cluster.value(state) == "~"
    });
    assert_eq!(keys(&cluster).len(), 1);
    assert_whole(&cluster);
}

#[test]
fn a_key_of_somebody_else_or_none_is_not_used() {
    let cluster = Cluster::start();
    let file = cluster.data_dir().join("pg_audit/key");
    cluster.flush();
    let good = fs::read_to_string(&file).expect("a key");
    let owner = fs::metadata(&file).expect("there").uid();
    cluster.stop(Shutdown::Fast);
    // Only root can give a file away.
    let is_root = fs::metadata("/proc/self").expect("there").uid() == 0;
    if is_root {
        chown(&file, Some(owner + 1), None).expect("chown");
        cluster.start_again();
        eventually("the log tells", || {
            cluster.log().contains("belongs to user id")
                || cluster.log().contains("cannot be opened")
        });
        cluster.stop(Shutdown::Fast);
        chown(&file, Some(owner), None).expect("chown");
    }
    fs::write(&file, "no key at all\n").expect("writes");
    cluster.start_again();
    cluster.flush();
    eventually("the log tells", || {
        cluster.log().contains("is no key: malformed key")
    });
    let mut client = cluster.connect("postgres", "postgres");
    let error = fails(&mut client, "SELECT audit.checkpoint()");
    assert!(error.message().contains("is no key"), "{error}");
    cluster.stop(Shutdown::Fast);
    fs::write(&file, good).expect("writes");
    cluster.start_again();
    cluster.value("SELECT audit.checkpoint()");
    assert_eq!(keys(&cluster).len(), 1);
    assert_whole(&cluster);
}

#[test]
fn a_replaced_key_is_on_record() {
    let cluster = Cluster::start();
    let old = key_of(&cluster);
    let old_note = cluster.value("SELECT audit.checkpoint()");
    let file = cluster.data_dir().join("pg_audit/key");
    // Removed while the server runs: nothing is signed by surprise.
    fs::rename(&file, file.with_extension("away")).expect("renames");
    let mut client = cluster.connect("postgres", "postgres");
    let error = fails(&mut client, "SELECT audit.checkpoint()");
    assert!(error.message().contains("is missing"), "{error}");
    drop(client);
    cluster.restart(Shutdown::Fast);
    let all = keys(&cluster);
    assert_eq!(all.len(), 2, "{all:?}");
    let new = key_of(&cluster);
    assert_ne!(new, old);
    // Nobody vouches for it.
    assert!(all[1].ends_with(" | ~"), "{all:?}");
    assert!(
        cluster
            .log()
            .contains("is not the one that signed the audit trail so far"),
        "{}",
        cluster.log()
    );
    let note = cluster.value("SELECT audit.checkpoint()");
    let files = super::evidence::Files::of(&cluster);
    let note = files.write("note", &note);
    assert!(
        audit_verify(&["checkpoint", &note, "--key", &new])
            .status
            .success()
    );
    assert!(
        !audit_verify(&["checkpoint", &note, "--key", &old])
            .status
            .success()
    );
    let old_note = files.write("old", &old_note);
    assert!(
        audit_verify(&["checkpoint", &old_note, "--key", &old])
            .status
            .success()
    );
    // Checkpoints of both keys stand.
    assert_whole(&cluster);
}

fn key_of(cluster: &Cluster) -> String {
    cluster.flush();
    key(cluster)
}
