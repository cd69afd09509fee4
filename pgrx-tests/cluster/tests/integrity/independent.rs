//! Checkpoints and proofs read by somebody else's code: Cloudflare's implementations of C2SP
//! signed-note, tlog-checkpoint and of Go's proofs, which share nothing with ours.

use super::evidence::key;
use super::some_work;
use audit_cluster_tests::Cluster;
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{Checkpoint, Hash, check_record, check_tree};

/// What a signed note says, once its signature was checked by that implementation.
fn opened(note: &str, key: &str) -> Result<Checkpoint, String> {
    let verifier = StandardVerifier::new(key).map_err(|e| format!("{e:?}"))?;
    let note = Note::from_bytes(note.as_bytes()).map_err(|e| format!("{e:?}"))?;
    let (signed, _) = note
        .verify(&VerifierList::new(vec![Box::new(verifier)]))
        .map_err(|e| format!("{e:?}"))?;
    assert_eq!(signed.len(), 1);
    Checkpoint::from_bytes(note.text()).map_err(|e| format!("{e:?}"))
}

fn hash(text: &str) -> Hash {
    Hash::parse_hash(text).expect("a hash")
}

/// A part of a proof.
fn part(cluster: &Cluster, proof: &str, name: &str) -> String {
    cluster.value(&format!("SELECT audit.{proof} ->> '{name}'"))
}

fn path(cluster: &Cluster, proof: &str) -> Vec<Hash> {
    let sql = format!("SELECT json_array_elements_text(audit.{proof} -> 'path')");
    let path = cluster.query("postgres", &sql);
    path.iter().map(|text| hash(text)).collect()
}

#[test]
fn checkpoints_and_proofs_hold_for_an_independent_implementation() {
    let cluster = Cluster::start();
    some_work(&cluster);
    cluster.flush();
    let key = key(&cluster);
    let old_note = cluster.value("SELECT audit.checkpoint()");
    let old = opened(&old_note, &key).expect("opens");
    some_work_again(&cluster);
    let new_note = cluster.value("SELECT audit.checkpoint()");
    let new = opened(&new_note, &key).expect("opens");
    assert!(old.size() > 20 && new.size() > old.size());
    assert!(new.origin().starts_with("audit_ext/"), "{}", new.origin());
    assert!(new.extension().starts_with("signed_at "), "{new:?}");

    let (first, last) = (old.size(), new.size());
    let proof = format!("consistency_proof({first}, {last})");
    let consistency = path(&cluster, &proof);
    assert!(check_tree(&consistency, last, *new.hash(), first, *old.hash()).is_ok());
    assert!(check_tree(&consistency, last, *old.hash(), first, *new.hash()).is_err());

    for seq in [1, 2, 7, first, first + 1, last - 1, last] {
        let proof = format!("inclusion_proof({seq}, {last})");
        let leaf = hash(&part(&cluster, &proof, "leaf"));
        let inclusion = path(&cluster, &proof);
        let holds =
            |at: u64, leaf: Hash| check_record(&inclusion, last, *new.hash(), at, leaf).is_ok();
        assert!(holds(seq - 1, leaf), "event {seq}");
        assert!(!holds(seq % last, leaf), "event {seq} in another place");
        assert!(
            !holds(seq - 1, hash(&part(&cluster, &proof, "root"))),
            "event {seq} changed"
        );
    }

    // It sees what was changed: the size, a digit of the root, the key.
    let line = |i: usize| new_note.lines().nth(i).expect("a line").to_owned();
    for changed in [
        new_note.replacen(&line(1), &(last + 1).to_string(), 1),
        new_note.replacen(&line(2), &old.hash().to_string(), 1),
    ] {
        assert!(opened(&changed, &key).is_err(), "{changed}");
    }
    let other = Cluster::start();
    other.flush();
    assert!(opened(&new_note, &self::key(&other)).is_err());
}

fn some_work_again(cluster: &Cluster) {
    for i in 0..30 {
        cluster.psql().run(format!("SELECT {i} AS later")).ok();
    }
    cluster.flush();
}
