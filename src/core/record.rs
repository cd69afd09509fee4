//! The canonical record of an event: what its leaf in the tree is the hash of. docs/integrity.md
//! describes it byte by byte; the two must stay in step.
//!
//! Everything is taken from what is *stored*: after conversion into the home's encoding, after
//! escaping. Numbers are eight bytes, big-endian; jsonb, text[] and inet are in the text form that
//! their output functions give, which no major version has changed.

use crate::event::Timestamp;
use crate::sha::{Hash, Message, Messages, Put};

/// Version of the canonical record, its first byte.
pub const VERSION: u8 = 1;

/// Length of a salt.
pub const SALT_LEN: usize = 16;
/// 128 random bits.
pub type Salt = [u8; SALT_LEN];

// What a hash is of: its first byte. 0 and 1 are the tree's own (RFC 9162).
const LEAF: u8 = 0;
const FIELD: u8 = 2;
const SESSION: u8 = 3;
const STATEMENT: u8 = 4;
const FATES: u8 = 5;
const BATCH: u8 = 6;
const SALT: u8 = 7;

/// A value that can be erased, so that only a salted digest of it is in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    Text = 1,
    Error = 2,
    StatementSha256 = 3,
    Parameters = 4,
    Details = 5,
    Context = 6,
}

impl Field {
    /// The fields that an event itself holds, in the order of the record.
    pub const OF_EVENT: [Field; 5] = [
        Field::Text,
        Field::Error,
        Field::StatementSha256,
        Field::Parameters,
        Field::Details,
    ];

    /// The name of its column in audit.log.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Text => "statement",
            Field::Error => "error",
            Field::StatementSha256 => "statement_sha256",
            Field::Parameters => "parameters",
            Field::Details => "details",
            Field::Context => "context",
        }
    }

    fn from_u8(value: u8) -> Option<Field> {
        Field::OF_EVENT
            .into_iter()
            .chain([Field::Context])
            .find(|field| *field as u8 == value)
    }
}

/// Digest of a value that can be erased.
pub fn field_digest(field: Field, salt: &Salt, value: &[u8]) -> Hash {
    let mut message = Message::new(FIELD);
    message.put(&[field as u8]);
    message.put(salt);
    message.put(value);
    message.finish()
}

/// The salt of one field of an event, from the event's own. One way: who knows the salts of some
/// fields learns nothing about the others'.
pub fn field_salt(event: &Salt, field: Field) -> Salt {
    let mut message = Message::new(SALT);
    message.put(event);
    message.put(&[field as u8]);
    let mut salt = [0; SALT_LEN];
    salt.copy_from_slice(&message.finish()[..SALT_LEN]);
    salt
}

/// The column `salt` of an event: the event's salt; or, once a value was erased, the salts of the
/// fields that are left and the digests of those that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Salts {
    Whole(Salt),
    Punctured(Vec<(Field, Kept)>),
}

/// What is kept of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Salt(Salt),
    /// The value was erased; this is its digest.
    Digest(Hash),
}

/// Flag of a digest in the encoding of [`Salts::Punctured`].
const ERASED: u8 = 0x80;

impl Salts {
    /// Reads the column; `None` where it is neither form.
    pub fn decode(bytes: &[u8]) -> Option<Salts> {
        if let Ok(salt) = Salt::try_from(bytes) {
            return Some(Salts::Whole(salt));
        }
        let mut kept: Vec<(Field, Kept)> = Vec::new();
        let mut rest = bytes;
        while let Some((&tag, after)) = rest.split_first() {
            let field = Field::from_u8(tag & !ERASED)?;
            if kept
                .last()
                .is_some_and(|(last, _)| *last as u8 >= field as u8)
            {
                return None;
            }
            if tag & ERASED != 0 {
                let (digest, after) = after.split_first_chunk()?;
                kept.push((field, Kept::Digest(*digest)));
                rest = after;
            } else {
                let (salt, after) = after.split_first_chunk()?;
                kept.push((field, Kept::Salt(*salt)));
                rest = after;
            }
        }
        Some(Salts::Punctured(kept))
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Salts::Whole(salt) => salt.to_vec(),
            Salts::Punctured(kept) => {
                let mut out = Vec::new();
                for (field, kept) in kept {
                    match kept {
                        Kept::Salt(salt) => {
                            out.push(*field as u8);
                            out.extend_from_slice(salt);
                        }
                        Kept::Digest(digest) => {
                            out.push(*field as u8 | ERASED);
                            out.extend_from_slice(digest);
                        }
                    }
                }
                out
            }
        }
    }

    /// What is kept of a field; `None` where nothing is.
    pub fn of(&self, field: Field) -> Option<Kept> {
        match self {
            Salts::Whole(salt) => Some(Kept::Salt(field_salt(salt, field))),
            Salts::Punctured(kept) => kept.iter().find(|(f, _)| *f == field).map(|(_, k)| *k),
        }
    }

    /// The salts after `erased` fields were destroyed; `present` are the fields that the event has,
    /// with their digests.
    pub fn puncture(&self, present: &[(Field, Hash)], erased: &[Field]) -> Salts {
        let kept = present.iter().filter_map(|(field, digest)| {
            let kept = if erased.contains(field) {
                Kept::Digest(*digest)
            } else {
                self.of(*field)?
            };
            Some((*field, kept))
        });
        Salts::Punctured(kept.collect())
    }
}

/// Digest of a field as it is stored: of its value, or the one kept when it was erased. `None`:
/// the event has no such field. `Err`: a value without its salt, or beside the digest of an erased
/// one.
pub fn stored_digest(
    field: Field,
    value: Option<&[u8]>,
    salts: Option<&Salts>,
) -> Result<Option<Hash>, BadSalt> {
    match (value, salts.and_then(|salts| salts.of(field))) {
        (Some(value), Some(Kept::Salt(salt))) => Ok(Some(field_digest(field, &salt, value))),
        (None, Some(Kept::Digest(digest))) => Ok(Some(digest)),
        (None, None) => Ok(None),
        // An event's salt serves all fields, those it doesn't have included.
        (None, Some(Kept::Salt(_))) if matches!(salts, Some(Salts::Whole(_))) => Ok(None),
        _ => Err(BadSalt),
    }
}

/// A salt is missing, or one too many is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSalt;

/// The salt of a value that is kept once (the text of a statement, the context of a session):
/// 16 bytes are its salt, 32 the digest of an erased value.
pub fn kept_once_digest(
    field: Field,
    value: Option<&[u8]>,
    salt: Option<&[u8]>,
) -> Result<Option<Hash>, BadSalt> {
    match (value, salt) {
        (None, None) => Ok(None),
        (Some(value), Some(salt)) => {
            let salt = Salt::try_from(salt).map_err(|_| BadSalt)?;
            Ok(Some(field_digest(field, &salt, value)))
        }
        (None, Some(digest)) => Ok(Some(Hash::try_from(digest).map_err(|_| BadSalt)?)),
        (Some(_), None) => Err(BadSalt),
    }
}

/// A row whose columns are hashed one after the other: the length of each as four bytes, then its
/// bytes; ff ff ff ff for NULL.
pub struct Columns(Message);

impl Columns {
    fn new(kind: u8) -> Columns {
        let mut message = Message::new(kind);
        message.put(&[VERSION]);
        Columns(message)
    }

    pub fn session() -> Columns {
        Columns::new(SESSION)
    }

    pub fn statement() -> Columns {
        Columns::new(STATEMENT)
    }

    pub fn bytes(&mut self, value: Option<&[u8]>) -> &mut Self {
        match value {
            None => self.0.put(&[0xff; 4]),
            Some(bytes) => {
                self.0.put(&(bytes.len() as u32).to_be_bytes());
                self.0.put(bytes);
            }
        }
        self
    }

    pub fn number(&mut self, value: Option<i64>) -> &mut Self {
        self.bytes(value.map(i64::to_be_bytes).as_ref().map(|b| &b[..]))
    }

    pub fn digest(self) -> Hash {
        self.0.finish()
    }
}

/// A row of audit.fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FateRow {
    pub recorded_at: Timestamp,
    pub session_started: Timestamp,
    pub pid: i32,
    pub first_event: i64,
    pub last_event: i64,
    pub outcome: i16,
    pub decided_by: i64,
    pub gid: Option<Vec<u8>>,
}

impl FateRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        for number in [
            self.recorded_at,
            self.session_started,
            i64::from(self.pid),
            self.first_event,
            self.last_event,
            i64::from(self.outcome),
            self.decided_by,
        ] {
            out.extend_from_slice(&8u32.to_be_bytes());
            out.extend_from_slice(&number.to_be_bytes());
        }
        match &self.gid {
            None => out.extend_from_slice(&[0xff; 4]),
            Some(gid) => {
                out.extend_from_slice(&(gid.len() as u32).to_be_bytes());
                out.extend_from_slice(gid);
            }
        }
        out
    }
}

/// Digest of the fates that one event decided, in whatever order; `None` where there are none.
pub fn fates_digest(rows: &[FateRow]) -> Option<Hash> {
    if rows.is_empty() {
        return None;
    }
    let mut rows: Vec<_> = rows.iter().map(FateRow::encode).collect();
    rows.sort();
    let mut message = Message::new(FATES);
    message.put(&[VERSION]);
    for row in rows {
        message.put(&row);
    }
    Some(message.finish())
}

/// A row of audit.batch, without what is computed from the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRow<'a> {
    pub recorded_at: Timestamp,
    pub ring_id: &'a [u8],
    pub position: i64,
    pub first_seq: i64,
    pub last_seq: i64,
    pub dropped: i64,
}

impl BatchRow<'_> {
    pub fn digest(&self) -> Hash {
        let mut columns = Columns::new(BATCH);
        columns
            .number(Some(self.recorded_at))
            .bytes(Some(self.ring_id))
            .number(Some(self.position))
            .number(Some(self.first_seq))
            .number(Some(self.last_seq))
            .number(Some(self.dropped));
        columns.digest()
    }
}

/// An event, ready to be hashed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    pub seq: i64,
    pub recorded_at: Timestamp,
    pub started_at: Timestamp,
    /// Digest of its row in audit.session.
    pub session: Hash,
    /// Digest of its row in audit.statement.
    pub statement: Hash,
    /// Of the fields in the order of [`Field::OF_EVENT`].
    pub fields: [Option<Hash>; 5],
    /// Of the rows of audit.fate that it decided.
    pub fates: Option<Hash>,
    /// Of its batch's row, where it is the last event of the batch.
    pub batch: Option<Hash>,
    /// As stored.
    pub numbers: &'a [u8],
}

impl Record<'_> {
    /// SHA-256(0x00 ‖ canonical record).
    pub fn leaf(&self) -> Hash {
        let mut message = Message::new(LEAF);
        self.write(&mut message);
        message.finish()
    }

    /// Adds the message that the leaf is the hash of.
    pub fn add_to(&self, messages: &mut Messages) {
        messages.begin(LEAF);
        self.write(messages);
        messages.end();
    }

    #[inline(always)]
    fn write(&self, message: &mut impl Put) {
        let mut head = [0; 89];
        head[0] = VERSION;
        head[1..9].copy_from_slice(&self.seq.to_be_bytes());
        head[9..17].copy_from_slice(&self.recorded_at.to_be_bytes());
        head[17..25].copy_from_slice(&self.started_at.to_be_bytes());
        head[25..57].copy_from_slice(&self.session);
        head[57..89].copy_from_slice(&self.statement);
        let optional = self.fields.iter().chain([&self.fates, &self.batch]);
        let mut present = 0;
        for (bit, digest) in optional.clone().enumerate() {
            present |= u8::from(digest.is_some()) << bit;
        }
        message.put(&head);
        message.put(&[present]);
        if present != 0 {
            for digest in optional.flatten() {
                message.put(digest);
            }
        }
        message.put(self.numbers);
    }
}
