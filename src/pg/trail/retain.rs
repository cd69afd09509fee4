//! What is kept of events before their partition is dropped.

use super::tree::Tree;
use crate::pg::spi::{Plan, query, text_datum};
use audit_core::event::Timestamp;
use audit_core::tree::{Source, cover};
use pgrx::pg_sys::{self, Datum};

/// Keeps the subtrees over the events `first_seq..=last_seq` in audit.subtree, so that the proofs
/// and checkpoints of what remains stay valid once these events and their batches are gone. The
/// range is split where a checkpoint was published, so that whoever holds one of those can still be
/// shown that the trail goes on from it. Returns the number of rows written.
///
/// To be called in the transaction that drops the partition, before it does. Whole batches only, stored within
/// `period` (begin, and end, exclusive): no other partition is looked into. Throws, also where the events no longer fit their batches: see audit.verify().
pub fn retain(first_seq: u64, last_seq: u64, period: (Timestamp, Timestamp)) -> u64 {
    if first_seq > last_seq {
        return 0;
    }
    let mut ends = Vec::new();
    query(
        &format!(
            "SELECT DISTINCT size FROM audit.checkpoint WHERE size BETWEEN {first_seq} AND {last_seq} ORDER BY size"
        ),
        |row| ends.push(row.number(1).unwrap_or(0) as u64),
    );
    if ends.last() != Some(&last_seq) {
        ends.push(last_seq);
    }
    use pg_sys::{BYTEAOID, INT8OID};
    let insert = Plan::new(
        c"INSERT INTO audit.subtree (first_seq, last_seq, nodes) VALUES ($1, $2, $3)",
        &[INT8OID, INT8OID, BYTEAOID],
    );
    let mut tree = Tree::default();
    tree.store.look_only_into(period);
    let mut from = first_seq;
    for to in &ends {
        let mut nodes = Vec::new();
        for node in cover(from - 1, *to) {
            match tree.node(node) {
                Ok(hash) => nodes.extend_from_slice(&hash),
                Err(missing) => pgrx::error!(
                    "audit_ext: events {from} to {to} cannot be dropped, as the tree over them cannot be kept: {missing}"
                ),
            }
        }
        insert.execute([
            Some(Datum::from(from as i64)),
            Some(Datum::from(*to as i64)),
            Some(text_datum(&nodes)),
        ]);
        from = to + 1;
    }
    ends.len() as u64
}
