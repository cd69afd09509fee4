//! Where the trail stands: what the worker asks it when it attaches, and after nothing else, as it
//! is the only one that writes.

use super::store::Progress;
use crate::pg::spi::{execute, query};
use crate::pg::trail::store::TreeStore;
use audit_core::calendar::rfc3339;
use audit_core::event::Timestamp;
use audit_core::json::hex;
use audit_core::tree::Frontier;

/// The last seq and recorded_at; zeros for an empty trail. In a transaction; throws.
pub fn last() -> (u64, Timestamp) {
    let mut last = (0, 0);
    query(
        "SELECT last_seq, recorded_at FROM audit.batch \
         ORDER BY last_seq DESC, recorded_at DESC LIMIT 1",
        |row| {
            last = (
                row.number(1).unwrap_or(0) as u64,
                row.number(2).unwrap_or(0),
            );
        },
    );
    last
}

/// What the last batch tells of, as far as it is to be told once.
#[derive(Default)]
pub struct LastBatch {
    /// Rings in use, in hexadecimal, when a START told how the server had stopped before.
    starts: Vec<String>,
    /// What GAP events say.
    gaps: Vec<String>,
}

impl LastBatch {
    /// In a transaction; throws.
    pub fn read() -> LastBatch {
        let mut batch = LastBatch::default();
        // A clock that was set back gives many batches the same time.
        let (mut recorded_at, mut first, mut last) = (0, 0, 0);
        query(
            "SELECT recorded_at, first_seq, last_seq FROM audit.batch \
             ORDER BY last_seq DESC, recorded_at DESC LIMIT 1",
            |row| {
                [recorded_at, first, last] =
                    [1, 2, 3].map(|column| row.number(column).unwrap_or(0));
            },
        );
        // The period that is written to may have no statistics yet.
        execute("SET LOCAL enable_seqscan = off");
        query(
            &format!(
                "SELECT CASE WHEN e.details ? 'last_stop' THEN 'START' ELSE 'GAP' END, \
                        e.details ->> 'ring', e.details ->> 'reason' \
                 FROM audit.event e \
                 WHERE e.recorded_at = '{}' AND e.seq BETWEEN {first} AND {last} \
                   AND e.details ?| ARRAY['last_stop', 'reason'] \
                   AND (SELECT t.class = 'AUDIT' AND t.command IN ('START', 'GAP') \
                        FROM audit.statement t WHERE t.ref = e.statement)",
                rfc3339(recorded_at)
            ),
            |row| match row.text(1).as_deref() {
                Some("START") => batch.starts.extend(row.text(2)),
                _ => batch.gaps.extend(row.text(3)),
            },
        );
        batch
    }

    /// Whether it tells how the server had stopped before this ring was made.
    pub fn tells_last_stop(&self, ring: &[u8]) -> bool {
        self.starts.contains(&hex(ring))
    }

    /// Whether it tells of this gap.
    pub fn tells_gap(&self, reason: &str) -> bool {
        self.gaps.iter().any(|gap| gap == reason)
    }
}

/// What the trail holds of a ring. In a transaction; throws.
pub fn progress(ring_id: [u8; 16]) -> Option<Progress> {
    let mut progress = None;
    query(
        &format!(
            "SELECT position, dropped FROM audit.batch WHERE ring_id = '\\x{}' \
             ORDER BY position DESC, last_seq DESC LIMIT 1",
            hex(&ring_id)
        ),
        |row| {
            progress = Some(Progress {
                ring_id,
                position: row.number(1).unwrap_or(0) as u64,
                dropped: row.number(2).unwrap_or(0) as u64,
            });
        },
    );
    progress
}

/// The tree of the trail's first `size` events, where a batch ended. What is missing counts as
/// zeros: audit.verify() will say so, and recording goes on. In a transaction; throws.
pub fn tree(size: u64) -> Frontier {
    let (tree, missing) = TreeStore::default().frontier_anyhow(size);
    if let Some(missing) = missing {
        pgrx::warning!("the audit trail was damaged, see audit.verify(): {missing}");
    }
    tree
}
