//! Any node of the tree: as it is stored, or made anew from events.

use super::reader::{EVENT, FATE, Fates, Reader, Reading, fate_row};
use super::store::{Missing, StoredBatch, TreeStore};
use crate::pg::spi::Cursor;
use audit_core::calendar::rfc3339;
use audit_core::record::fates_digest;
use audit_core::sha::Hash;
use audit_core::tree::{Frontier, Node, Source, node_hash};

/// The stored tree. Everything throws; inside an SPI connection.
pub struct Tree {
    pub store: TreeStore,
    reader: Reader,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree {
            store: TreeStore::default(),
            reader: Reader::new(Reading::Rows),
        }
    }
}

impl Tree {
    /// The leaf of an event.
    pub fn leaf(&mut self, seq: u64) -> Result<Hash, Missing> {
        self.node(Node {
            level: 0,
            index: seq.saturating_sub(1),
        })
    }

    /// A subtree whose events are all in one batch.
    fn of_events(&mut self, node: Node, batch: &StoredBatch) -> Result<Hash, Missing> {
        let (first, last) = (node.start() + 1, node.end());
        let at = rfc3339(batch.recorded_at);
        let mut fates = Fates::new();
        let mut rows = Cursor::open(&format!(
            "SELECT {FATE} FROM audit.fate WHERE recorded_at = '{at}' AND decided_by BETWEEN {first} AND {last}"
        ));
        while let Some(row) = rows.next() {
            let row = fate_row(&row);
            fates.entry(row.decided_by).or_default().push(row);
        }
        let mut rows = Cursor::open(&format!(
            "SELECT {EVENT} FROM audit.event WHERE recorded_at = '{at}' AND seq BETWEEN {first} AND {last} ORDER BY seq"
        ));
        let mut tree = Frontier::default();
        while let Some(row) = rows.next() {
            let seq = row.number(1).unwrap_or(0) as u64;
            let decided = fates.get(&(seq as i64)).and_then(|f| fates_digest(f));
            let end = (seq == batch.last_seq).then_some(batch.digest);
            let event = self.reader.event(&row, decided, end);
            tree.push(event.leaf.map_err(|_| Missing::Damaged(node))?);
        }
        if tree.size() != last - first + 1 {
            return Err(Missing::Damaged(node));
        }
        Ok(tree.root())
    }
}

impl Source for Tree {
    type Error = Missing;

    fn node(&mut self, node: Node) -> Result<Hash, Missing> {
        if let Some(hash) = self.store.stored(node)? {
            return Ok(hash);
        }
        let inside = self
            .store
            .batch(node.end())
            .filter(|batch| batch.first_seq <= node.start() + 1)
            .cloned();
        match (inside, node.children()) {
            (Some(batch), _) => self.of_events(node, &batch),
            (None, Some([left, right])) => Ok(node_hash(&self.node(left)?, &self.node(right)?)),
            (None, None) => Err(Missing::NoBatch(node)),
        }
    }
}
