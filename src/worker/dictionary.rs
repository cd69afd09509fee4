//! What repeats is stored once: attributes of sessions, kinds of statements, texts of statements.
//!
//! A cache maps the encoded bytes of a record's section to the reference of the stored row. It
//! holds for one period only, as the dictionaries are partitioned like the events, and it may be
//! emptied at any time: the price is a second row of the same content, which harms nothing.

use super::fates::Identity;
use audit_core::sha::Hash;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use std::hash::{BuildHasher, Hasher};

/// Bytes that each of the two caches may hold.
const LIMIT: usize = 12 * 1024 * 1024;
/// What an entry takes besides its key.
const ENTRY: usize = 96;
/// Texts seen lately (a power of two).
const RECENT: usize = 1 << 16;
/// Bits of a hash that say where among the recent ones it is; its count takes their place there.
const PLACE: u64 = RECENT as u64 - 1;
/// A text is kept once from this time on: its row takes as much as three texts in their events, and more
/// time.
const KEPT_FROM: u64 = 4;

/// Records whose repeats are known; each costs 56 bytes.
const MOST_ORIGINALS: usize = 1 << 16;

/// Bits of a reference that count within its period.
const NUMBER_BITS: u32 = 36;
const MINUTE: i64 = 60_000_000;

/// The smallest reference of a period that begins at `start`, a full minute since 2000-01-01.
pub fn first_ref(start: i64) -> i64 {
    (start / MINUTE) << NUMBER_BITS
}

/// A session as its events refer to it.
#[derive(Clone, Copy)]
pub struct SessionEntry {
    pub reference: i64,
    pub identity: Identity,
    pub encoding: u8,
}

/// What a record that others repeat has come to.
#[derive(Clone, Copy)]
pub struct Original {
    pub session: SessionEntry,
    pub statement: i64,
}

struct Cached<T> {
    hash: u64,
    key: Box<[u8]>,
    value: T,
}

/// A map from byte strings, looked up by their pieces.
struct Cache<T> {
    table: HashTable<Cached<T>>,
    bytes: usize,
}

impl<T: Copy> Cache<T> {
    fn new() -> Self {
        Cache {
            table: HashTable::new(),
            bytes: 0,
        }
    }

    fn clear(&mut self) {
        *self = Cache::new();
    }

    fn find(&self, hash: u64, pieces: &[&[u8]]) -> Option<T> {
        self.table
            .find(hash, |c| c.hash == hash && is_joined(&c.key, pieces))
            .map(|c| c.value)
    }

    fn insert(&mut self, hash: u64, pieces: &[&[u8]], value: T) {
        let key = pieces.concat().into_boxed_slice();
        self.bytes += key.len() + ENTRY;
        self.table
            .insert_unique(hash, Cached { hash, key, value }, |c| c.hash);
    }
}

/// Whether `whole` is `pieces` one after the other.
fn is_joined(whole: &[u8], pieces: &[&[u8]]) -> bool {
    let mut rest = whole;
    for piece in pieces {
        match rest.strip_prefix(*piece) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Digests of the rows that events may still refer to, by reference: these count up one by one.
struct Digests {
    first: i64,
    digests: Vec<Hash>,
}

impl Digests {
    fn new(next: i64) -> Digests {
        Digests {
            first: next,
            digests: Vec::new(),
        }
    }

    /// Rows are learned in the order of their references.
    fn learn(&mut self, reference: i64, digest: Hash) {
        debug_assert_eq!(reference, self.first + self.digests.len() as i64);
        self.digests.push(digest);
    }

    fn get(&self, reference: i64) -> Option<&Hash> {
        self.digests
            .get(usize::try_from(reference - self.first).ok()?)
    }
}

/// How an event refers to its statement.
pub enum Text {
    /// The dictionary holds the text, if there is one.
    Kept,
    /// The text goes into the event.
    Inline,
}

/// The caches, and the references given out in this period.
pub struct Dictionary {
    hasher: DefaultHashBuilder,
    sessions: Cache<SessionEntry>,
    statements: Cache<i64>,
    /// Of each place the last hash, and how often it was seen.
    recent: Vec<u64>,
    next_session: i64,
    next_statement: i64,
    session_digests: Digests,
    statement_digests: Digests,
    /// The last session looked up: events of a session come in a row.
    last: Option<(Vec<u8>, SessionEntry)>,
    /// By their positions in `ring`.
    originals: HashMap<u64, Original>,
    ring: [u8; 16],
}

impl Dictionary {
    /// Empty caches for a period in which these references are the next ones.
    pub fn new(next_session: i64, next_statement: i64) -> Self {
        Dictionary {
            hasher: DefaultHashBuilder::default(),
            sessions: Cache::new(),
            statements: Cache::new(),
            recent: vec![0; RECENT],
            next_session,
            next_statement,
            session_digests: Digests::new(next_session),
            statement_digests: Digests::new(next_statement),
            last: None,
            originals: HashMap::new(),
            ring: [0; 16],
        }
    }

    /// Positions are of this ring from now on.
    pub fn read_from(&mut self, ring: [u8; 16]) {
        if self.ring != ring {
            self.ring = ring;
            self.originals.clear();
        }
    }

    /// What the record at this position has come to, if it was repeated before.
    pub fn original(&self, position: u64) -> Option<Original> {
        self.originals.get(&position).copied()
    }

    /// A record was looked up as it is repeated.
    pub fn learn_original(&mut self, position: u64, original: Original) {
        if self.originals.len() >= MOST_ORIGINALS {
            self.originals.clear();
        }
        self.originals.insert(position, original);
    }

    /// Forgets all rows, as some of them were not stored. References are not given out again.
    pub fn forget(&mut self) {
        self.sessions.clear();
        self.statements.clear();
        self.session_digests = Digests::new(self.next_session);
        self.statement_digests = Digests::new(self.next_statement);
        self.last = None;
        self.originals.clear();
    }

    /// Between two batches: forgets all rows where they have become too many.
    pub fn trim(&mut self) {
        if self.sessions.bytes > LIMIT || self.statements.bytes > LIMIT {
            self.forget();
        }
    }

    /// The row of a session was written. In the order of the references.
    pub fn learn_session(&mut self, reference: i64, digest: Hash) {
        self.session_digests.learn(reference, digest);
    }

    /// The row of a statement was written. In the order of the references.
    pub fn learn_statement(&mut self, reference: i64, digest: Hash) {
        self.statement_digests.learn(reference, digest);
    }

    /// Digest of a written row of audit.session that this dictionary gave out.
    pub fn session_digest(&self, reference: i64) -> Option<&Hash> {
        self.session_digests.get(reference)
    }

    /// Digest of a written row of audit.statement that this dictionary gave out.
    pub fn statement_digest(&self, reference: i64) -> Option<&Hash> {
        self.statement_digests.get(reference)
    }

    fn hash(&self, pieces: &[&[u8]]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for piece in pieces {
            hasher.write(piece);
            hasher.write_usize(piece.len());
        }
        hasher.finish()
    }

    /// How often a text with this hash was seen lately, this time included; at most [`KEPT_FROM`].
    fn count(&mut self, hash: u64) -> u64 {
        let recent = &mut self.recent[(hash & PLACE) as usize];
        let before = if (*recent ^ hash) & !PLACE == 0 {
            *recent & PLACE
        } else {
            0
        };
        let times = (before + 1).min(KEPT_FROM);
        *recent = hash & !PLACE | times;
        times
    }

    /// The session with these encoded attributes. `make` is called for a new one: it gets the
    /// reference, stores the row and tells identity and encoding.
    pub fn session<E>(
        &mut self,
        section: &[u8],
        make: impl FnOnce(i64) -> Result<(Identity, u8), E>,
    ) -> Result<SessionEntry, E> {
        if let Some((key, entry)) = &self.last
            && key == section
        {
            return Ok(*entry);
        }
        let hash = self.hash(&[section]);
        let entry = match self.sessions.find(hash, &[section]) {
            Some(entry) => entry,
            None => {
                let reference = self.next_session;
                let (identity, encoding) = make(reference)?;
                self.next_session += 1;
                let entry = SessionEntry {
                    reference,
                    identity,
                    encoding,
                };
                self.sessions.insert(hash, &[section], entry);
                entry
            }
        };
        let (key, last) = self.last.get_or_insert_with(|| (Vec::new(), entry));
        key.clear();
        key.extend_from_slice(section);
        *last = entry;
        Ok(entry)
    }

    /// The statement of this shape and text. `make` is called for a new row, with its reference and
    /// whether the text is part of it.
    pub fn statement<E>(
        &mut self,
        encoding: u8,
        shape: &[u8],
        text: Option<&[u8]>,
        make: impl FnOnce(i64, bool) -> Result<(), E>,
    ) -> Result<(i64, Text), E> {
        // The shape's length keeps shape and text apart; the kind keeps rows with and without text.
        let len = (shape.len() as u32).to_le_bytes();
        let (with, without) = ([encoding, 1], [encoding, 0]);
        if let Some(text) = text {
            let key: [&[u8]; 4] = [&with, &len, shape, text];
            let hash = self.hash(&key);
            if let Some(reference) = self.statements.find(hash, &key) {
                return Ok((reference, Text::Kept));
            }
            if self.count(hash) >= KEPT_FROM {
                let reference = self.next_statement;
                make(reference, true)?;
                self.next_statement += 1;
                self.statements.insert(hash, &key, reference);
                return Ok((reference, Text::Kept));
            }
        }
        let key: [&[u8]; 3] = [&without, &len, shape];
        let hash = self.hash(&key);
        let reference = match self.statements.find(hash, &key) {
            Some(reference) => reference,
            None => {
                let reference = self.next_statement;
                make(reference, false)?;
                self.next_statement += 1;
                self.statements.insert(hash, &key, reference);
                reference
            }
        };
        Ok((reference, Text::Inline))
    }
}
