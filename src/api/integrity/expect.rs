//! What the trail is held against besides itself: that batches follow each other, and the
//! checkpoints that were published.

use super::verify::Problems;
use crate::pg::spi::query;
use crate::pg::trail::canon::content;
use crate::pg::trail::keys;
use crate::pg::trail::reader::{Erased, field_name};
use crate::pg::trail::store::TreeStore;
use audit_core::calendar::rfc3339;
use audit_core::note::{Checkpoint, Note, Verifying, notes};
use audit_core::sha::Hash;
use audit_core::tree::{Frontier, cover};
use pgrx::pg_sys;
use std::collections::BTreeMap;

/// The tree of what was verified so far.
pub struct Expected {
    pub tree: Frontier,
    /// First and last seq of what retention dropped.
    dropped: Vec<(u64, u64)>,
}

impl Expected {
    /// The tree before the event `first`.
    pub fn begin(store: &mut TreeStore, first: u64, problems: &mut Problems) -> Expected {
        let (tree, missing) = store.frontier_anyhow(first.saturating_sub(1));
        if let Some(missing) = missing {
            problems.add(first, "removed batch", missing.to_string());
        }
        Expected {
            tree,
            dropped: store.dropped_ranges(),
        }
    }

    /// Goes on with the event `first`: what lies between was dropped by retention, or is missing.
    pub fn skip_to(&mut self, first: u64, store: &mut TreeStore, problems: &mut Problems) {
        while self.tree.size() + 1 < first {
            let from = self.tree.size() + 1;
            let dropped = self.dropped.iter().find(|(a, b)| *a <= from && from <= *b);
            let Some(to) = dropped.map(|(_, to)| *to).filter(|to| *to < first) else {
                let to = first - 1;
                let detail = format!("audit.batch has no row for events {from} to {to}");
                problems.add(from, "removed batch", detail);
                self.tree = store.frontier_anyhow(to).0;
                return;
            };
            for node in cover(from - 1, to) {
                let hash = store.stored(node).ok().flatten().unwrap_or([0; 32]);
                self.tree.push_node(node.level, hash);
            }
        }
    }
}

/// A checkpoint that was published.
struct Head {
    size: u64,
    root: Hash,
    signed_at: Option<String>,
    place: &'static str,
}

/// Published checkpoints, by size.
pub struct Heads {
    heads: Vec<Head>,
    next: usize,
    /// Of RESTORE and FORK events: their seq, the size of the trail before them, and the size that
    /// was published before.
    restored: Vec<(u64, u64)>,
}

impl Heads {
    /// Reads those that the table and the file hold. What isn't signed is reported.
    pub fn read(problems: &mut Problems) -> Heads {
        let keys = keys::known();
        let mut heads = Vec::new();
        query(
            "SELECT size, root, note, published_at FROM audit.checkpoint ORDER BY size",
            |row| {
                let note = row.text(3).unwrap_or_default();
                let size = row.number(1).unwrap_or(0) as u64;
                let root = row
                    .datum(2)
                    .and_then(|d| content(d, |b| Hash::try_from(b).ok()));
                match check(note.as_bytes(), &keys) {
                    Ok(head)
                        if head.size == size
                            && Some(head.root) == root
                            && row.number(4).map(rfc3339) == head.signed_at =>
                    {
                        heads.push(Head {
                            place: "audit.checkpoint",
                            ..head
                        });
                    }
                    Ok(_) => problems.add(
                        size,
                        "changed checkpoint",
                        "a row of audit.checkpoint does not fit its note".into(),
                    ),
                    Err(why) => problems.add(
                        size,
                        "changed checkpoint",
                        format!("a row of audit.checkpoint: {why}"),
                    ),
                }
            },
        );
        // What was published since may cover events that this transaction doesn't see.
        let begun = rfc3339(unsafe { pg_sys::GetCurrentTransactionStartTimestamp() });
        for note in notes(&keys::checkpoints_file()) {
            match check(note.as_bytes(), &keys) {
                Ok(head) if head.signed_at.as_ref() > Some(&begun) => {}
                Ok(head) => heads.push(head),
                Err(why) => problems.add(
                    None,
                    "changed checkpoint",
                    format!("in the file of checkpoints: {why}"),
                ),
            }
        }
        heads.sort_by_key(|head| head.size);
        Heads {
            heads,
            next: 0,
            restored: restored(problems),
        }
    }

    /// Whether a RESTORE event tells that what was published here was lost.
    fn is_told(&self, size: u64) -> bool {
        self.restored
            .iter()
            .any(|(kept, published)| *kept < size && size <= *published)
    }

    /// The tree has grown by a batch.
    pub fn reached(&mut self, before: u64, tree: &Frontier, problems: &mut Problems) {
        while let Some(head) = self.heads.get(self.next).filter(|h| h.size <= tree.size()) {
            self.next += 1;
            // Where no batch ends the events can't be those that were published. What lies before
            // the batch was dropped by retention, or is not to be verified.
            let same = head.size == tree.size() && head.root == tree.root();
            if same || head.size <= before || self.is_told(head.size) {
                continue;
            }
            problems.add(
                head.size,
                "not as published",
                format!(
                    "the events up to here are not those of the checkpoint in {}",
                    head.place
                ),
            );
        }
    }

    /// The trail ends at `size`.
    pub fn beyond(&self, size: u64, problems: &mut Problems) {
        let untold = |head: &&Head| head.size > size && !self.is_told(head.size);
        if let Some(head) = self.heads.iter().rev().find(untold) {
            problems.add(
                size + 1,
                "cut tail",
                format!(
                    "the trail ends at {size}, but a checkpoint in {} covers {} events",
                    head.place, head.size
                ),
            );
        }
    }
}

/// Holds audit.origin against the events that it has copies of. `landmarks`: those of the events
/// `first..=last` that it has to have.
pub fn check_origin(first: u64, last: u64, landmarks: &[u64], problems: &mut Problems) {
    let mut copied = Vec::new();
    query(
        &format!(
            "SELECT o.seq, e.seq IS NULL, \
                    (e.recorded_at, t.command, e.details) IS DISTINCT FROM (o.recorded_at, o.command, o.details) \
             FROM audit.origin o \
             LEFT JOIN audit.event e ON e.seq = o.seq \
             LEFT JOIN audit.statement t ON t.ref = e.statement \
             WHERE o.seq BETWEEN {first} AND {last} \
               AND NOT EXISTS (SELECT FROM audit.subtree s WHERE o.seq BETWEEN s.first_seq AND s.last_seq)"
        ),
        |row| {
            let seq = row.number(1).unwrap_or(0) as u64;
            copied.push(seq);
            let gone = row.number(2) == Some(1);
            if gone || row.number(3) == Some(1) {
                let detail = match gone {
                    true => "a row of audit.origin is a copy of no event",
                    false => "a row of audit.origin is not a copy of its event",
                };
                problems.add(seq, "changed origin", detail.into());
            }
        },
    );
    for seq in landmarks {
        if !copied.contains(seq) {
            let detail = "audit.origin has no copy of this event";
            problems.add(*seq, "changed origin", detail.into());
        }
    }
}

/// The trail's first START has its copy there, whatever has become of the event: without it the worker takes
/// the trail for a new one. `met`: the first of the events that were read.
pub fn check_first_start(met: Option<u64>, problems: &mut Problems) {
    let Some(met) = met else { return };
    let mut copied = None;
    query(
        "SELECT min(seq) FROM audit.origin WHERE command = 'START'",
        |row| copied = row.number(1).map(|seq| seq as u64),
    );
    if copied.is_none_or(|copied| copied > met) {
        let detail = "audit.origin has no copy of the first START, which is this or an earlier one";
        problems.add(met, "changed origin", detail.into());
    }
}

/// Values that are gone without an ERASE event. `erased`: each with the seq of an event that had it.
pub fn check_erased(mut erased: BTreeMap<Erased, u64>, problems: &mut Problems) {
    if erased.is_empty() {
        return;
    }
    query(
        "SELECT (e.details ->> 'seq')::bigint, (e.details ->> 'statement_ref')::bigint, \
                (e.details ->> 'session_ref')::bigint, f.field \
         FROM audit.event e JOIN audit.statement t ON t.ref = e.statement \
         CROSS JOIN LATERAL jsonb_array_elements_text(e.details -> 'fields') f(field) \
         WHERE t.command = 'ERASE' AND t.class = 'AUDIT'",
        |row| {
            let field = row.text(4).unwrap_or_default();
            erased.retain(|gone, _| match gone {
                Erased::Event(seq, of) => {
                    let same = field_name(*of) == field
                        || (field == "statement" && field_name(*of) == "statement_sha256");
                    !(same && row.number(1) == Some(*seq))
                }
                Erased::Statement(reference) => row.number(2) != Some(*reference),
                Erased::Session(reference) => row.number(3) != Some(*reference),
            });
        },
    );
    // An ERASE comes after the event, so it may have gone with what was dropped since. The newest
    // such drop is always told of: an event that told of it can only have gone with a newer one.
    if !erased.is_empty() {
        query(
            "SELECT max((e.details ->> 'first_seq')::bigint) \
             FROM audit.event e JOIN audit.statement t ON t.ref = e.statement \
             WHERE t.command = 'RETENTION' AND t.class = 'AUDIT'",
            |row| {
                let dropped = row.number(1).unwrap_or(0) as u64;
                erased.retain(|_, seq| *seq >= dropped);
            },
        );
    }
    for gone in erased.keys() {
        let (seq, detail) = match gone {
            Erased::Event(seq, field) => (Some(*seq as u64), field_name(*field).to_string()),
            Erased::Statement(reference) => (None, format!("text of audit.statement {reference}")),
            Erased::Session(reference) => (None, format!("context of audit.session {reference}")),
        };
        problems.add(
            seq,
            "removed value",
            format!("{detail} is gone, and no ERASE event says why"),
        );
    }
}

/// What RESTORE events tell of: size of the trail before, and size that was published. They are
/// problems themselves, as events were lost.
fn restored(problems: &mut Problems) -> Vec<(u64, u64)> {
    let mut restored = Vec::new();
    query(
        "SELECT seq, (details -> 'parent' ->> 'size')::bigint, (details ->> 'published_size')::bigint, \
                details ->> 'reason' \
         FROM audit.origin WHERE command = 'RESTORE' ORDER BY seq",
        |row| {
            let size = |i| row.number(i).unwrap_or(0) as u64;
            restored.push((size(2), size(3)));
            problems.add(size(1), "restored", row.text(4).unwrap_or_default());
        },
    );
    restored
}

fn check(note: &[u8], keys: &[Verifying]) -> Result<Head, String> {
    let note = Note::parse(note).map_err(|e| e.to_string())?;
    let checkpoint = Checkpoint::parse(note.text).map_err(|e| e.to_string())?;
    let mut reason = "no KEY event tells of a key".to_string();
    for key in keys {
        match note.verify(key) {
            Ok(()) => {
                return Ok(Head {
                    size: checkpoint.size,
                    root: checkpoint.root,
                    signed_at: checkpoint.extension("signed_at").map(str::to_string),
                    place: "the file of checkpoints",
                });
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}
