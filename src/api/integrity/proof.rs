//! Signed heads and proofs.

use crate::pg::report::refuse;
use crate::pg::spi::query;
use crate::pg::trail::keys;
use crate::pg::trail::origin::Origin;
use crate::pg::trail::store::{Missing, TreeStore};
use crate::pg::trail::tree::Tree;
use audit_core::calendar::rfc3339;
use audit_core::note::Checkpoint;
use audit_core::proof::{Consistency, Inclusion};
use audit_core::sha::Hash;
use audit_core::tree;
use pgrx::{PgSqlErrorCode, pg_sys};

const STATE: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
const VALUE: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;

/// The number of events in the trail, as this statement sees it. What it sees is flushed: the worker
/// commits with synchronous_commit on.
fn size() -> u64 {
    let mut size = 0;
    query(
        "SELECT last_seq FROM audit.batch ORDER BY last_seq DESC LIMIT 1",
        |row| size = row.number(1).unwrap_or(0) as u64,
    );
    size
}

/// The signed note of the trail's head. Throws; inside an SPI connection.
pub fn checkpoint() -> String {
    if unsafe { pg_sys::RecoveryInProgress() } {
        refuse(
            STATE,
            "audit.checkpoint() cannot run during recovery",
            "Call it on the primary: a standby does not sign. Checkpoints of the primary are in audit.checkpoint.",
        );
    }
    crate::api::guard::require_home();
    let key = match keys::load() {
        Ok(Some(key)) => key,
        Ok(None) => refuse(
            STATE,
            format!(
                "the signing key \"{}\" is missing",
                keys::key_path().display()
            ),
            "The worker makes one when it starts; restore the old one, or restart the server to have a new one made.",
        ),
        Err(why) => refuse(STATE, why, "The worker signs nothing until that is mended."),
    };
    if keys::known().first() != Some(&key.public()) {
        refuse(
            STATE,
            format!(
                "the signing key \"{}\" is not the one that the trail knows",
                keys::key_path().display()
            ),
            "Restore the old key, or restart the server: a KEY event then tells of the new one.",
        );
    }
    let size = size();
    let frontier = TreeStore::default()
        .frontier(size)
        .unwrap_or_else(|missing| refuse_missing(&missing));
    let checkpoint = Checkpoint {
        origin: Origin::here().line(),
        size,
        root: frontier.root(),
        extensions: vec![format!("signed_at {}", rfc3339(now()))],
    };
    key.sign(&checkpoint.text())
}

fn now() -> i64 {
    unsafe { crate::pg::raw::GetCurrentTimestamp() }
}

fn refuse_missing(missing: &Missing) -> ! {
    match missing {
        Missing::Dropped(_) => refuse(
            STATE,
            format!("this cannot be proven any more: {missing}"),
            "Proofs are possible for events that are still in the trail, and between checkpoints that were published.",
        ),
        _ => refuse(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("the audit trail was damaged: {missing}"),
            "SELECT * FROM audit.verify() tells what is wrong.",
        ),
    }
}

/// A size of the tree that was asked for.
fn known_size(name: &str, asked: i64, size: u64) -> u64 {
    match u64::try_from(asked) {
        Ok(asked) if asked <= size && asked > 0 => asked,
        Ok(asked) if asked > size => refuse(
            VALUE,
            format!("{name} is {asked}, but the trail has {size} events"),
            "Take the size of a checkpoint of this trail.",
        ),
        _ => refuse(
            VALUE,
            format!("{name} is {asked}; it must be positive"),
            "Take the size of a checkpoint of this trail.",
        ),
    }
}

fn get(result: Result<Hash, Missing>) -> Hash {
    result.unwrap_or_else(|missing| refuse_missing(&missing))
}

/// Proof that an event is in the tree of a size, as JSON. Throws; inside an SPI connection.
pub fn inclusion(seq: i64, asked: i64) -> Vec<u8> {
    let size = known_size("size", asked, size());
    let seq = match u64::try_from(seq) {
        Ok(seq) if seq > 0 && seq <= size => seq,
        _ => refuse(
            VALUE,
            format!("event {seq} is not in the tree of size {size}"),
            "seq goes from 1 to size.",
        ),
    };
    let mut stored = Tree::default();
    let proof = Inclusion {
        seq,
        size,
        leaf: get(stored.leaf(seq)),
        root: get(tree::root(&mut stored, size)),
        path: tree::inclusion(&mut stored, seq - 1, size)
            .unwrap_or_else(|missing| refuse_missing(&missing)),
    };
    if !proof.holds() {
        refuse_changed();
    }
    proof.json()
}

/// Proof that one tree is the beginning of another, as JSON. Throws; inside an SPI connection.
pub fn consistency(asked1: i64, asked2: i64) -> Vec<u8> {
    let size = size();
    let (size1, size2) = (
        known_size("size1", asked1, size),
        known_size("size2", asked2, size),
    );
    if size1 > size2 {
        refuse(
            VALUE,
            format!("size1 is {size1}, which is more than size2, {size2}"),
            "The older, smaller tree comes first.",
        );
    }
    let mut stored = Tree::default();
    let proof = Consistency {
        size1,
        root1: get(tree::root(&mut stored, size1)),
        size2,
        root2: get(tree::root(&mut stored, size2)),
        path: tree::consistency(&mut stored, size1, size2)
            .unwrap_or_else(|missing| refuse_missing(&missing)),
    };
    if !proof.holds() {
        refuse_changed();
    }
    proof.json()
}

fn refuse_changed() -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        "the audit trail was changed: what is stored does not fit its own tree",
        "SELECT * FROM audit.verify() tells what is wrong.",
    )
}
