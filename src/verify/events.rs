//! Exported events: lines of audit.evidence().

use crate::{Options, proofs};
use audit_core::note::encode_hash;
use audit_core::record::{
    BatchRow, Columns, FateRow, Field, Record, Salts, fates_digest, kept_once_digest, stored_digest,
};
use audit_core::sha::Hash;
use audit_core::tree::Frontier;
use serde_json::Value;

/// Prints the leaf of each line; from the first event on, the root of the tree.
pub fn events(bytes: &[u8], options: &Options) -> Result<(), String> {
    let leaves = leaves(bytes)?;
    for (seq, leaf) in &leaves {
        println!("{seq} {}", encode_hash(leaf));
    }
    let whole = leaves
        .iter()
        .zip(1..)
        .all(|((seq, _), expected)| *seq == expected);
    if !whole || leaves.is_empty() {
        return match options.checkpoint {
            Some(_) => Err("only the lines of all events from the first on give a root".into()),
            None => Ok(()),
        };
    }
    let mut tree = Frontier::default();
    leaves.iter().for_each(|(_, leaf)| tree.push(*leaf));
    println!(
        "root of size {}: {}",
        tree.size(),
        encode_hash(&tree.root())
    );
    let checkpoint = options.checkpoint.as_ref();
    if proofs::against(checkpoint, tree.size(), &tree.root(), options)? {
        println!("it is the root of the checkpoint");
    }
    Ok(())
}

/// seq and leaf hash of each line.
pub fn leaves(bytes: &[u8]) -> Result<Vec<(u64, Hash)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let mut leaves = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.is_empty()) {
        let leaf = serde_json::from_str(line)
            .map_err(|e| e.to_string())
            .and_then(|json| leaf(&json))
            .map_err(|e| format!("line {}: {e}", number + 1))?;
        leaves.push(leaf);
    }
    Ok(leaves)
}

/// The canonical record of a line (docs/integrity.md), hashed.
fn leaf(json: &Value) -> Result<(u64, Hash), String> {
    let salts = bytes(json, "salt")?
        .map(|b| Salts::decode(&b).ok_or("malformed event: \"salt\""))
        .transpose()?;
    let sha256 = bytes(json, "statement_sha256")?;
    let values = [
        text(json, "text")?,
        text(json, "error")?,
        sha256.as_deref(),
        text(json, "parameters")?,
        text(json, "details")?,
    ];
    let mut fields = [None; 5];
    for (i, field) in Field::OF_EVENT.into_iter().enumerate() {
        fields[i] = stored_digest(field, values[i], salts.as_ref())
            .map_err(|_| format!("the salt of {} is missing or damaged", field.name()))?;
    }
    let fates: Vec<_> = json["fates"]
        .as_array()
        .ok_or("malformed event: \"fates\" is not a list")?
        .iter()
        .map(fate)
        .collect::<Result<_, _>>()?;
    let batch = match &json["batch"] {
        Value::Null => None,
        row => Some(batch(row)?),
    };
    let seq = number(json, "seq")?;
    let numbers = bytes(json, "numbers")?.ok_or("malformed event: no \"numbers\"")?;
    let record = Record {
        seq,
        recorded_at: number(json, "recorded_at")?,
        started_at: number(json, "started_at")?,
        session: session(&json["session"])?,
        statement: statement(&json["statement"])?,
        fields,
        fates: fates_digest(&fates),
        batch,
        numbers: &numbers,
    };
    Ok((seq as u64, record.leaf()))
}

fn session(row: &Value) -> Result<Hash, String> {
    let context = kept_once(row, Field::Context, "context")?;
    let mut columns = Columns::session();
    columns
        .number(Some(number(row, "ref")?))
        .bytes(text(row, "session_id")?)
        .number(Some(number(row, "started_at")?))
        .number(Some(number(row, "pid")?));
    for name in [
        "user_name",
        "role_name",
        "auth_identity",
        "session_user_name",
        "database_name",
        "branch",
        "client_addr",
    ] {
        columns.bytes(text(row, name)?);
    }
    columns
        .number(optional(row, "client_port")?)
        .bytes(text(row, "application_name")?)
        .bytes(text(row, "backend_type")?)
        .bytes(context.as_ref().map(|d| &d[..]))
        .bytes(text(row, "unstorable")?);
    Ok(columns.digest())
}

fn statement(row: &Value) -> Result<Hash, String> {
    let kept = kept_once(row, Field::Text, "text")?;
    let mut columns = Columns::statement();
    columns.number(Some(number(row, "ref")?));
    for name in [
        "class",
        "classes",
        "command",
        "object_type",
        "object_name",
        "relations",
    ] {
        columns.bytes(text(row, name)?);
    }
    columns
        .number(optional(row, "query_id")?)
        .bytes(kept.as_ref().map(|d| &d[..]))
        .bytes(text(row, "unstorable")?);
    Ok(columns.digest())
}

fn kept_once(row: &Value, field: Field, name: &str) -> Result<Option<Hash>, String> {
    let salt = bytes(row, "salt")?;
    kept_once_digest(field, text(row, name)?, salt.as_deref())
        .map_err(|_| format!("the salt of {name} is missing or damaged"))
}

fn fate(row: &Value) -> Result<FateRow, String> {
    let small = |name| {
        number(row, name)?
            .try_into()
            .map_err(|_| format!("malformed event: \"{name}\" is too large"))
    };
    Ok(FateRow {
        recorded_at: number(row, "recorded_at")?,
        session_started: number(row, "session_started")?,
        pid: small("pid")?,
        first_event: number(row, "first_event")?,
        last_event: number(row, "last_event")?,
        outcome: small("outcome")? as i16,
        decided_by: number(row, "decided_by")?,
        gid: text(row, "gid")?.map(<[u8]>::to_vec),
    })
}

fn batch(row: &Value) -> Result<Hash, String> {
    let ring_id = bytes(row, "ring_id")?.unwrap_or_default();
    let batch = BatchRow {
        recorded_at: number(row, "recorded_at")?,
        ring_id: &ring_id,
        position: number(row, "position")?,
        first_seq: number(row, "first_seq")?,
        last_seq: number(row, "last_seq")?,
        dropped: number(row, "dropped")?,
    };
    Ok(batch.digest())
}

fn optional(json: &Value, key: &str) -> Result<Option<i64>, String> {
    match &json[key] {
        Value::Null => Ok(None),
        value => value
            .as_i64()
            .map(Some)
            .ok_or(format!("malformed event: \"{key}\" is not a number")),
    }
}

fn number(json: &Value, key: &str) -> Result<i64, String> {
    optional(json, key)?.ok_or(format!("malformed event: no \"{key}\""))
}

fn text<'v>(json: &'v Value, key: &str) -> Result<Option<&'v [u8]>, String> {
    match &json[key] {
        Value::Null => Ok(None),
        value => value
            .as_str()
            .map(|text| Some(text.as_bytes()))
            .ok_or(format!("malformed event: \"{key}\" is not a text")),
    }
}

/// Bytes in hexadecimal.
fn bytes(json: &Value, key: &str) -> Result<Option<Vec<u8>>, String> {
    let Some(digits) = text(json, key)? else {
        return Ok(None);
    };
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs
        .collect::<Option<_>>()
        .map(Some)
        .ok_or(format!("malformed event: \"{key}\" is not hexadecimal"))
}
