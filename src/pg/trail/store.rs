//! The tree as the tables keep it: each batch the subtrees that end in it, and `audit.subtree` those
//! of dropped partitions. What is merged inside a batch is found nowhere: tree.rs makes it anew.
//!
//! Everything throws; inside an SPI connection.

use super::canon::content;
use super::reader::{BATCH, batch_row};
use crate::pg::spi::query;
use audit_core::calendar::rfc3339;
use audit_core::event::Timestamp;
use audit_core::sha::Hash;
use audit_core::tree::{Frontier, Node, cover, node_hash};
use std::collections::HashMap;

/// Why a node of the tree can't be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Its leaves were dropped, and it isn't among the subtrees that were kept.
    Dropped(Node),
    /// Not even its batch is there.
    NoBatch(Node),
    /// Its events are not all there, or a row that they refer to isn't.
    Damaged(Node),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Missing::Dropped(node) | Missing::NoBatch(node) | Missing::Damaged(node)) = self;
        let (first, last) = (node.start() + 1, node.end());
        match self {
            Missing::Dropped(_) => write!(f, "events {first} to {last} were dropped by retention"),
            Missing::NoBatch(_) => write!(f, "no batch holds event {last}"),
            Missing::Damaged(_) => {
                write!(f, "events {first} to {last} are not as they were stored")
            }
        }
    }
}

/// A row of audit.batch, as far as the tree is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    pub first_seq: u64,
    pub last_seq: u64,
    pub recorded_at: Timestamp,
    /// Of the row.
    pub digest: Hash,
    nodes: Vec<Hash>,
}

impl StoredBatch {
    /// The subtrees of the tree after the batch that end in it.
    pub fn ending(first_seq: u64, last_seq: u64) -> impl Iterator<Item = Node> {
        cover(0, last_seq)
            .into_iter()
            .filter(move |node| node.end() >= first_seq)
    }

    fn get(&self, node: Node) -> Option<Hash> {
        Self::ending(self.first_seq, self.last_seq)
            .zip(&self.nodes)
            .find(|(n, _)| *n == node)
            .map(|(_, hash)| *hash)
    }
}

/// Splits a bytea of hashes; `None` where its length doesn't fit.
pub fn split_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}

impl Dropped {
    fn add(&mut self, first: u64, last: u64, hashes: &[Hash]) {
        let covered = cover(first - 1, last);
        self.nodes
            .extend(covered.into_iter().zip(hashes.iter().copied()));
        match self.ranges.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => self.ranges.push((first, last)),
        }
    }
}

/// What was looked up, kept for one call.
#[derive(Default)]
pub struct TreeStore {
    batches: Vec<StoredBatch>,
    dropped: Option<Dropped>,
    /// SQL that leaves partitions of audit.batch out.
    only: String,
}

/// What audit.subtree holds.
#[derive(Default)]
struct Dropped {
    nodes: HashMap<Node, Hash>,
    /// First and last seq of the ranges that were dropped, in order, neighbours joined.
    ranges: Vec<(u64, u64)>,
}

impl TreeStore {
    /// Batches are those that were stored from `begin` on and before `end`.
    pub fn look_only_into(&mut self, (begin, end): (Timestamp, Timestamp)) {
        let (begin, end) = (rfc3339(begin), rfc3339(end));
        self.only = format!("AND recorded_at >= '{begin}' AND recorded_at < '{end}'");
    }

    /// The batch that holds an event.
    pub fn batch(&mut self, seq: u64) -> Option<&StoredBatch> {
        let holds = |b: &StoredBatch| (b.first_seq..=b.last_seq).contains(&seq);
        if let Some(i) = self.batches.iter().position(holds) {
            return self.batches.get(i);
        }
        let mut found = None;
        query(
            &format!(
                "SELECT {BATCH} FROM audit.batch WHERE last_seq >= {seq} {} ORDER BY last_seq LIMIT 1",
                self.only
            ),
            |row| {
                let batch = batch_row(row);
                found = Some(StoredBatch {
                    first_seq: batch.first_seq,
                    last_seq: batch.last_seq,
                    recorded_at: batch.recorded_at,
                    digest: batch.digest,
                    nodes: split_hashes(&batch.frontier).unwrap_or_default(),
                });
            },
        );
        let found = found.filter(holds)?;
        self.batches.push(found);
        self.batches.last()
    }

    fn dropped(&mut self) -> &Dropped {
        self.dropped.get_or_insert_with(|| {
            let mut dropped = Dropped::default();
            query(
                "SELECT first_seq, last_seq, nodes FROM audit.subtree ORDER BY first_seq",
                |row| {
                    let hashes = row.datum(3).and_then(|d| content(d, split_hashes));
                    if let (Some(first), Some(last), Some(hashes)) =
                        (row.number(1), row.number(2), hashes)
                    {
                        dropped.add(first as u64, last as u64, &hashes);
                    }
                },
            );
            dropped
        })
    }

    /// First and last seq of what retention has dropped, in order.
    pub fn dropped_ranges(&mut self) -> Vec<(u64, u64)> {
        self.dropped().ranges.clone()
    }

    /// A subtree that is stored as such, or put together from such. `Ok(None)`: it has to be
    /// computed from its events.
    pub fn stored(&mut self, node: Node) -> Result<Option<Hash>, Missing> {
        let (first, last) = (node.start() + 1, node.end());
        let ranges = &self.dropped().ranges;
        if ranges
            .iter()
            .any(|(from, to)| *from <= first && last <= *to)
        {
            return self.kept(node).map(Some);
        }
        Ok(self.batch(node.end()).and_then(|batch| batch.get(node)))
    }

    fn kept(&mut self, node: Node) -> Result<Hash, Missing> {
        if let Some(hash) = self.dropped().nodes.get(&node) {
            return Ok(*hash);
        }
        let [left, right] = node.children().ok_or(Missing::Dropped(node))?;
        Ok(node_hash(&self.kept(left)?, &self.kept(right)?))
    }

    /// A subtree from what is stored of it and its parts.
    fn whole(&mut self, node: Node) -> Result<Hash, Missing> {
        if let Some(hash) = self.stored(node)? {
            return Ok(hash);
        }
        // Above a dropped range and what follows it.
        let dropped = &self.dropped().ranges;
        let touches = |(from, to): &(u64, u64)| *from <= node.end() && node.start() < *to;
        match node.children() {
            Some([left, right]) if dropped.iter().any(touches) => {
                Ok(node_hash(&self.whole(left)?, &self.whole(right)?))
            }
            _ => Err(Missing::NoBatch(node)),
        }
    }

    /// The frontier of the tree of a size at which a batch ended.
    pub fn frontier(&mut self, size: u64) -> Result<Frontier, Missing> {
        match self.frontier_anyhow(size) {
            (frontier, None) => Ok(frontier),
            (_, Some(missing)) => Err(missing),
        }
    }

    /// [`TreeStore::frontier`] with zeros for what is missing, and the first that is.
    pub fn frontier_anyhow(&mut self, size: u64) -> (Frontier, Option<Missing>) {
        let mut first = None;
        let nodes = cover(0, size)
            .into_iter()
            .map(|node| {
                self.whole(node).unwrap_or_else(|missing| {
                    first.get_or_insert(missing);
                    [0; 32]
                })
            })
            .collect();
        (Frontier::new(size, nodes).unwrap_or_default(), first)
    }
}
