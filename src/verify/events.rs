//! Exported events: lines of audit.evidence().

use crate::{Options, open, proofs};
use audit_core::note::encode_hash;
use audit_core::record::{
    BatchRow, Columns, FateRow, Field, Record, Salts, fates_digest, kept_once_digest, stored_digest,
};
use audit_core::sha::Hash;
use audit_core::tree::Frontier;
use serde_json::Value;
use std::borrow::Cow;
use std::io::{BufRead, BufWriter, Write};

/// Prints the leaf of each line; where the lines are those of all events from the first on, the root
/// of the tree.
pub fn events(file: &str, options: &Options) -> Result<(), String> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut tree = Frontier::default();
    let mut whole = true;
    for_each_leaf(file, |seq, leaf| {
        whole &= seq == tree.size() + 1;
        if whole {
            tree.push(leaf);
        }
        writeln!(out, "{seq} {}", encode_hash(&leaf)).map_err(|e| e.to_string())
    })?;
    out.flush().map_err(|e| e.to_string())?;
    if !whole || tree.size() == 0 {
        return match options.checkpoint {
            Some(_) => Err("only the lines of all events from the first on give a root".into()),
            None => Ok(()),
        };
    }
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

/// Gives `f` seq and leaf hash of each line, one after the other: an export may be larger than memory.
pub fn for_each_leaf(
    file: &str,
    mut f: impl FnMut(u64, Hash) -> Result<(), String>,
) -> Result<(), String> {
    let mut input = open(file)?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if input
            .read_until(b'\n', &mut line)
            .map_err(|e| e.to_string())?
            == 0
        {
            break;
        }
        let content = line.trim_ascii();
        if content.is_empty() {
            continue;
        }
        let (seq, leaf) = parse(content).map_err(|e| format!("line {number}: {e}"))?;
        f(seq, leaf)?;
    }
    Ok(())
}

/// A line, or an object in it, in the encoding of the home database, whichever that is: what was hashed
/// are the bytes that are stored.
#[derive(Clone, Copy)]
struct Object<'v> {
    json: &'v Value,
    /// The line is not UTF-8: each char of the JSON stands for a byte.
    bytes: bool,
}

fn parse(line: &[u8]) -> Result<(u64, Hash), String> {
    let (text, bytes) = match std::str::from_utf8(line) {
        Ok(text) => (Cow::Borrowed(text), false),
        // In every encoding that a database may have, ASCII stands for itself.
        Err(_) => (line.iter().map(|byte| *byte as char).collect(), true),
    };
    let json: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    leaf(Object { json: &json, bytes })
}

/// The canonical record of a line (docs/integrity.md), hashed.
fn leaf(event: Object) -> Result<(u64, Hash), String> {
    let salts = event
        .bytes("salt")?
        .map(|b| Salts::decode(&b).ok_or("malformed event: \"salt\""))
        .transpose()?;
    let sha256 = event.bytes("statement_sha256")?;
    let values = [
        event.text("text")?,
        event.text("error")?,
        sha256.map(Cow::Owned),
        event.text("parameters")?,
        event.text("details")?,
    ];
    let mut fields = [None; 5];
    for (i, field) in Field::OF_EVENT.into_iter().enumerate() {
        fields[i] = stored_digest(field, values[i].as_deref(), salts.as_ref())
            .map_err(|_| format!("the salt of {} is missing or damaged", field.name()))?;
    }
    let fates: Vec<_> = event.json["fates"]
        .as_array()
        .ok_or("malformed event: \"fates\" is not a list")?
        .iter()
        .map(|row| fate(event.part(row)))
        .collect::<Result<_, _>>()?;
    let batch = match &event.json["batch"] {
        Value::Null => None,
        row => Some(batch(event.part(row))?),
    };
    let seq = event.number("seq")?;
    let numbers = event
        .bytes("numbers")?
        .ok_or("malformed event: no \"numbers\"")?;
    let record = Record {
        seq,
        recorded_at: event.number("recorded_at")?,
        started_at: event.number("started_at")?,
        session: session(event.part(&event.json["session"]))?,
        statement: statement(event.part(&event.json["statement"]))?,
        fields,
        fates: fates_digest(&fates),
        batch,
        numbers: &numbers,
    };
    Ok((seq as u64, record.leaf()))
}

fn session(row: Object) -> Result<Hash, String> {
    let context = kept_once(row, Field::Context, "context")?;
    let mut columns = Columns::session();
    columns
        .number(Some(row.number("ref")?))
        .bytes(row.text("session_id")?.as_deref())
        .number(Some(row.number("started_at")?))
        .number(Some(row.number("pid")?));
    for name in [
        "user_name",
        "role_name",
        "auth_identity",
        "session_user_name",
        "database_name",
        "branch",
        "client_addr",
    ] {
        columns.bytes(row.text(name)?.as_deref());
    }
    columns
        .number(row.optional("client_port")?)
        .bytes(row.text("application_name")?.as_deref())
        .bytes(row.text("backend_type")?.as_deref())
        .bytes(context.as_ref().map(|d| &d[..]))
        .bytes(row.text("unstorable")?.as_deref());
    Ok(columns.digest())
}

fn statement(row: Object) -> Result<Hash, String> {
    let kept = kept_once(row, Field::Text, "text")?;
    let mut columns = Columns::statement();
    columns.number(Some(row.number("ref")?));
    for name in [
        "class",
        "classes",
        "command",
        "object_type",
        "object_name",
        "relations",
    ] {
        columns.bytes(row.text(name)?.as_deref());
    }
    columns
        .number(row.optional("query_id")?)
        .bytes(kept.as_ref().map(|d| &d[..]))
        .bytes(row.text("unstorable")?.as_deref());
    Ok(columns.digest())
}

fn kept_once(row: Object, field: Field, name: &str) -> Result<Option<Hash>, String> {
    let salt = row.bytes("salt")?;
    kept_once_digest(field, row.text(name)?.as_deref(), salt.as_deref())
        .map_err(|_| format!("the salt of {name} is missing or damaged"))
}

fn fate(row: Object) -> Result<FateRow, String> {
    let small = |name| {
        row.number(name)?
            .try_into()
            .map_err(|_| format!("malformed event: \"{name}\" is too large"))
    };
    Ok(FateRow {
        recorded_at: row.number("recorded_at")?,
        session_started: row.number("session_started")?,
        pid: small("pid")?,
        first_event: row.number("first_event")?,
        last_event: row.number("last_event")?,
        outcome: small("outcome")? as i16,
        decided_by: row.number("decided_by")?,
        gid: row.text("gid")?.map(Cow::into_owned),
    })
}

fn batch(row: Object) -> Result<Hash, String> {
    let ring_id = row.bytes("ring_id")?.unwrap_or_default();
    let batch = BatchRow {
        recorded_at: row.number("recorded_at")?,
        ring_id: &ring_id,
        position: row.number("position")?,
        first_seq: row.number("first_seq")?,
        last_seq: row.number("last_seq")?,
        dropped: row.number("dropped")?,
    };
    Ok(batch.digest())
}

impl<'v> Object<'v> {
    fn part(self, json: &'v Value) -> Object<'v> {
        Object { json, ..self }
    }

    fn optional(self, key: &str) -> Result<Option<i64>, String> {
        match &self.json[key] {
            Value::Null => Ok(None),
            value => value
                .as_i64()
                .map(Some)
                .ok_or(format!("malformed event: \"{key}\" is not a number")),
        }
    }

    fn number(self, key: &str) -> Result<i64, String> {
        self.optional(key)?
            .ok_or(format!("malformed event: no \"{key}\""))
    }

    fn text(self, key: &str) -> Result<Option<Cow<'v, [u8]>>, String> {
        let text = match &self.json[key] {
            Value::Null => return Ok(None),
            value => value
                .as_str()
                .ok_or(format!("malformed event: \"{key}\" is not a text"))?,
        };
        if !self.bytes {
            return Ok(Some(Cow::Borrowed(text.as_bytes())));
        }
        text.chars()
            .map(|c| u8::try_from(c).ok())
            .collect::<Option<_>>()
            .map(|bytes| Some(Cow::Owned(bytes)))
            .ok_or(format!(
                "\"{key}\" has an escape beyond what its encoding has"
            ))
    }

    /// Bytes in hexadecimal.
    fn bytes(self, key: &str) -> Result<Option<Vec<u8>>, String> {
        let Some(digits) = self.text(key)? else {
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
}
