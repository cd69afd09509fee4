//! The tree against the published vectors of RFC 6962 (certificate-transparency's own tests), and
//! against a plain transcription of the RFC's definitions.

use audit_core::sha::Hash;
use audit_core::tree::{
    EMPTY_ROOT, Frontier, Node, Source, consistency, cover, inclusion, is_consistent, leaf_hash,
    node_hash, root, root_from_inclusion,
};
use proptest::prelude::*;
use std::convert::Infallible;

const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];

const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
        .collect()
}

fn hash(text: &str) -> Hash {
    unhex(text).try_into().expect("32 bytes")
}

/// Leaves in memory.
struct Leaves(Vec<Hash>);

impl Source for Leaves {
    type Error = Infallible;
    fn node(&mut self, node: Node) -> Result<Hash, Infallible> {
        Ok(mth(&self.0[node.start() as usize..node.end() as usize]))
    }
}

/// MTH as RFC 9162, 2.1.1 defines it.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => EMPTY_ROOT,
        [one] => *one,
        _ => {
            let k = leaves.len().next_power_of_two() / 2;
            node_hash(&mth(&leaves[..k]), &mth(&leaves[k..]))
        }
    }
}

fn published() -> Leaves {
    Leaves(LEAVES.iter().map(|leaf| leaf_hash(&unhex(leaf))).collect())
}

fn ok<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

#[test]
fn published_roots() {
    let mut leaves = published();
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root(), EMPTY_ROOT);
    for (i, expected) in ROOTS.iter().enumerate() {
        frontier.push(leaves.0[i]);
        assert_eq!(frontier.root(), hash(expected), "size {}", i + 1);
        assert_eq!(ok(root(&mut leaves, i as u64 + 1)), hash(expected));
    }
}

#[test]
fn leaves_added_together_make_the_same_tree() {
    let leaves: Vec<Hash> = (0..700u64).map(|n| leaf_hash(&n.to_be_bytes())).collect();
    for before in [0, 1, 2, 3, 5, 64, 100, 255, 256, 257] {
        let mut one_by_one = Frontier::default();
        leaves[..before]
            .iter()
            .for_each(|leaf| one_by_one.push(*leaf));
        let mut together = one_by_one.clone();
        for (at, leaf) in leaves[before..].iter().enumerate() {
            one_by_one.push(*leaf);
            let mut tree = together.clone();
            tree.extend(&leaves[before..=before + at]);
            assert_eq!(tree, one_by_one, "{before} and {}", at + 1);
        }
        together.extend(&[]);
        for piece in leaves[before..].chunks(97) {
            together.extend(piece);
        }
        assert_eq!(together, one_by_one, "{before}, in pieces");
    }
}

#[test]
fn published_inclusion_proofs() {
    let cases: [(u64, u64, &[&str]); 5] = [
        (0, 1, &[]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            3,
            &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
        ),
        (
            1,
            5,
            &[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    let mut leaves = published();
    for (index, size, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|h| hash(h)).collect();
        let path = ok(inclusion(&mut leaves, index, size));
        assert_eq!(path, expected, "leaf {index} in {size}");
        let leaf = leaves.0[index as usize];
        assert_eq!(
            root_from_inclusion(index, size, &leaf, &path),
            Some(hash(ROOTS[size as usize - 1]))
        );
    }
}

#[test]
fn published_consistency_proofs() {
    let cases: [(u64, u64, &[&str]); 4] = [
        (1, 1, &[]),
        (
            1,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    let mut leaves = published();
    for (old, new, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|h| hash(h)).collect();
        let path = ok(consistency(&mut leaves, old, new));
        assert_eq!(path, expected, "{old} to {new}");
        let roots = [old, new].map(|size| hash(ROOTS[size as usize - 1]));
        assert!(is_consistent((old, &roots[0]), (new, &roots[1]), &path));
    }
}

#[test]
fn covers_are_complete_and_few() {
    assert_eq!(cover(0, 0), []);
    for start in 0..70 {
        for end in start..140 {
            let nodes = cover(start, end);
            let mut at = start;
            for node in &nodes {
                assert_eq!(node.start(), at, "{start}..{end}");
                at = node.end();
            }
            assert_eq!(at, end);
            assert!(nodes.len() <= 14);
        }
    }
}

fn leaves(n: usize) -> Vec<Hash> {
    (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_inclusion_proof_holds_and_no_other(size in 1u64..300, index in 0u64..300, bit in 0usize..256, at in 0usize..12) {
        let index = index % size;
        let mut tree = Leaves(leaves(size as usize));
        let expected = mth(&tree.0);
        let mut path = ok(inclusion(&mut tree, index, size));
        let leaf = tree.0[index as usize];
        prop_assert_eq!(root_from_inclusion(index, size, &leaf, &path), Some(expected));
        // Another place, a leaf that isn't it, a changed, missing or additional step.
        for other in 0..size {
            if other != index {
                prop_assert_ne!(root_from_inclusion(other, size, &leaf, &path), Some(expected));
            }
        }
        prop_assert_ne!(root_from_inclusion(index, size, &EMPTY_ROOT, &path), Some(expected));
        let mut longer = path.clone();
        longer.push(leaf);
        prop_assert_eq!(root_from_inclusion(index, size, &leaf, &longer), None);
        if let Some(last) = path.pop() {
            prop_assert_eq!(root_from_inclusion(index, size, &leaf, &path), None);
            path.push(last);
            let at = at % path.len();
            path[at][bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(root_from_inclusion(index, size, &leaf, &path), Some(expected));
        }
    }

    #[test]
    fn every_consistency_proof_holds_and_no_other(new in 1u64..300, old in 1u64..300, bit in 0usize..256, at in 0usize..12) {
        let old = (old - 1) % new + 1;
        let mut tree = Leaves(leaves(new as usize));
        let roots = [mth(&tree.0[..old as usize]), mth(&tree.0)];
        let mut path = ok(consistency(&mut tree, old, new));
        prop_assert!(is_consistent((old, &roots[0]), (new, &roots[1]), &path));
        prop_assert!(!is_consistent((old, &EMPTY_ROOT), (new, &roots[1]), &path));
        prop_assert!(!is_consistent((old, &roots[0]), (new, &EMPTY_ROOT), &path));
        if !path.is_empty() {
            let at = at % path.len();
            path[at][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!is_consistent((old, &roots[0]), (new, &roots[1]), &path));
        }
    }

    #[test]
    fn a_frontier_is_what_its_batches_leave(sizes in prop::collection::vec(1usize..40, 1..12)) {
        // Each batch keeps only the nodes that end in it; together they give the frontier back.
        let total: usize = sizes.iter().sum();
        let all = leaves(total);
        let mut frontier = Frontier::default();
        let mut kept: Vec<(Node, Hash)> = Vec::new();
        let mut at = 0;
        for size in sizes {
            for leaf in &all[at..at + size] {
                frontier.push(*leaf);
            }
            let nodes = cover(0, (at + size) as u64);
            let new = frontier.since(at as u64);
            kept.extend(nodes[nodes.len() - new.len()..].iter().copied().zip(new.iter().copied()));
            at += size;
            prop_assert_eq!(frontier.root(), mth(&all[..at]));
        }
        for node in cover(0, total as u64) {
            let found = kept.iter().find(|(n, _)| *n == node).map(|(_, hash)| *hash);
            prop_assert_eq!(found, Some(mth(&all[node.start() as usize..node.end() as usize])));
        }
    }
}
