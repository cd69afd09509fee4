//! Proofs as they leave the database: JSON objects with hashes in base64.

use crate::json::Object;
use crate::note::encode_hash;
use crate::sha::Hash;
use crate::tree::{is_consistent, root_from_inclusion};

/// That an event is in the tree of a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    pub seq: u64,
    pub size: u64,
    pub leaf: Hash,
    pub root: Hash,
    pub path: Vec<Hash>,
}

impl Inclusion {
    /// Whether leaf and path lead to the root. Says nothing of whose root that is.
    pub fn holds(&self) -> bool {
        self.seq
            .checked_sub(1)
            .and_then(|index| root_from_inclusion(index, self.size, &self.leaf, &self.path))
            == Some(self.root)
    }

    pub fn json(&self) -> Vec<u8> {
        let mut object = Object::new();
        object
            .number("seq", self.seq)
            .number("size", self.size)
            .text("leaf", encode_hash(&self.leaf).as_bytes())
            .text("root", encode_hash(&self.root).as_bytes())
            .raw("path", &list(&self.path));
        object.finish()
    }
}

/// That one tree is the beginning of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    pub size1: u64,
    pub root1: Hash,
    pub size2: u64,
    pub root2: Hash,
    pub path: Vec<Hash>,
}

impl Consistency {
    /// Whether the path leads to both roots. Says nothing of whose roots they are.
    pub fn holds(&self) -> bool {
        is_consistent(
            (self.size1, &self.root1),
            (self.size2, &self.root2),
            &self.path,
        )
    }

    pub fn json(&self) -> Vec<u8> {
        let mut object = Object::new();
        object
            .number("size1", self.size1)
            .text("root1", encode_hash(&self.root1).as_bytes())
            .number("size2", self.size2)
            .text("root2", encode_hash(&self.root2).as_bytes())
            .raw("path", &list(&self.path));
        object.finish()
    }
}

fn list(hashes: &[Hash]) -> Vec<u8> {
    let quoted: Vec<_> = hashes
        .iter()
        .map(|hash| format!("\"{}\"", encode_hash(hash)))
        .collect();
    format!("[{}]", quoted.join(",")).into_bytes()
}
