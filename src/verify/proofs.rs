//! Checkpoints and proofs.

use crate::{Options, events, read};
use audit_core::note::{Checkpoint, Note, Verifying, decode_hash, encode_hash, notes};
use audit_core::proof::{Consistency, Inclusion};
use audit_core::sha::Hash;
use serde_json::Value;

/// Prints a checkpoint, whose signature is checked if there is a key.
pub fn checkpoint(bytes: &[u8], options: &Options) -> Result<(), String> {
    let checkpoint = open(bytes, options)?;
    println!("origin {}", checkpoint.origin);
    println!("size {}", checkpoint.size);
    println!("root {}", encode_hash(&checkpoint.root));
    for line in &checkpoint.extensions {
        println!("{line}");
    }
    match options.key {
        Some(_) => println!("the signature holds"),
        None => println!("the signature was NOT checked: give --key"),
    }
    Ok(())
}

/// The last checkpoint of a file.
fn open(bytes: &[u8], options: &Options) -> Result<Checkpoint, String> {
    // A file of many is text; what is none is left to the parser, which says why.
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let last = notes(text).last().map_or(bytes, |note| note.as_bytes());
    let note = Note::parse(last).map_err(|e| e.to_string())?;
    if let Some(key) = &options.key {
        let key = Verifying::parse(key).map_err(|e| e.to_string())?;
        note.verify(&key).map_err(|e| e.to_string())?;
    }
    Checkpoint::parse(note.text).map_err(|e| e.to_string())
}

/// Holds a size and a root against those of a checkpoint.
pub fn against(
    file: Option<&String>,
    size: u64,
    root: &Hash,
    options: &Options,
) -> Result<bool, String> {
    let Some(file) = file else { return Ok(false) };
    let checkpoint = read(file)
        .and_then(|bytes| open(&bytes, options))
        .map_err(|e| format!("{file}: {e}"))?;
    if checkpoint.size != size {
        return Err(format!(
            "{file} is a checkpoint of size {}, not {size}",
            checkpoint.size
        ));
    }
    if checkpoint.root != *root {
        return Err(format!(
            "{file} has another root for size {size}: the trail is not the one that was published"
        ));
    }
    Ok(true)
}

fn note_unchecked(checked: bool) {
    if !checked {
        println!("NOT held against a checkpoint: it proves nothing of whose tree it is");
    }
}

pub fn inclusion(bytes: &[u8], options: &Options) -> Result<(), String> {
    let json = object(bytes)?;
    let proof = Inclusion {
        seq: number(&json, "seq")?,
        size: number(&json, "size")?,
        leaf: hash(&json, "leaf")?,
        root: hash(&json, "root")?,
        path: path(&json)?,
    };
    if !proof.holds() {
        return Err("the path does not lead from the leaf to the root".into());
    }
    if let Some(file) = &options.event {
        let mut found = false;
        events::for_each_leaf(file, |seq, leaf| {
            found |= (seq, leaf) == (proof.seq, proof.leaf);
            Ok(())
        })
        .map_err(|e| format!("{file}: {e}"))?;
        if !found {
            return Err(format!("{file} does not hold the event {}", proof.seq));
        }
    }
    let checked = against(
        options.checkpoint.as_ref(),
        proof.size,
        &proof.root,
        options,
    )?;
    println!("event {} is in the tree of size {}", proof.seq, proof.size);
    note_unchecked(checked);
    Ok(())
}

pub fn consistency(bytes: &[u8], options: &Options) -> Result<(), String> {
    let json = object(bytes)?;
    let proof = Consistency {
        size1: number(&json, "size1")?,
        root1: hash(&json, "root1")?,
        size2: number(&json, "size2")?,
        root2: hash(&json, "root2")?,
        path: path(&json)?,
    };
    if !proof.holds() {
        return Err("the path does not lead to both roots".into());
    }
    let old = against(options.old.as_ref(), proof.size1, &proof.root1, options)?;
    let new = against(options.new.as_ref(), proof.size2, &proof.root2, options)?;
    println!(
        "the tree of size {} is the beginning of the one of size {}",
        proof.size1, proof.size2
    );
    note_unchecked(old && new);
    Ok(())
}

fn object(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("malformed proof: {e}"))
}

fn number(json: &Value, key: &str) -> Result<u64, String> {
    json[key]
        .as_u64()
        .ok_or(format!("malformed proof: \"{key}\" is not a number"))
}

fn hash(json: &Value, key: &str) -> Result<Hash, String> {
    json[key]
        .as_str()
        .and_then(decode_hash)
        .ok_or(format!("malformed proof: \"{key}\" is not a hash"))
}

fn path(json: &Value) -> Result<Vec<Hash>, String> {
    json["path"]
        .as_array()
        .and_then(|path| path.iter().map(|h| decode_hash(h.as_str()?)).collect())
        .ok_or("malformed proof: \"path\" is not a list of hashes".into())
}
