//! Events as they are stored, and the leaves that they make: the other half of worker/store.rs.
//!
//! Everything throws; inside an SPI connection.

use super::canon::{Canon, SESSION, STATEMENT, content, names};
use crate::pg::spi::{Cursor, Row};
use audit_core::missing::{Command, Numbered};
use audit_core::numbers;
use audit_core::record::{BatchRow, FateRow, Field, Kept, Record, Salts};
use audit_core::sha::Hash;
use pgrx::pg_sys::{self, Datum};
use std::collections::{BTreeMap, HashMap};

/// The columns of audit.event, in their order.
pub const EVENT: &str = "seq, recorded_at, started_at, session, statement, numbers, text, error, \
                         statement_sha256, parameters, details, salt";

/// A row of one of the two dictionaries.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// `None`: its salt doesn't fit.
    pub digest: Option<Hash>,
    pub erased: bool,
    pub used: bool,
    /// Of a session: start and process id.
    pub identity: (i64, i32),
    /// Of a statement.
    pub command: Command,
}

/// How much of a dictionary is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All rows of a period, when the first of them is needed.
    Periods,
    /// Row by row.
    Rows,
}

/// Bits of a reference that count within its period (worker/dictionary.rs).
const NUMBER_BITS: u32 = 36;

/// Rows of a dictionary, by reference.
struct Dictionary {
    table: &'static str,
    columns: String,
    reading: Reading,
    /// The period that was read.
    period: Option<i64>,
    rows: HashMap<i64, Entry>,
}

impl Dictionary {
    fn new(table: &'static str, columns: String, reading: Reading) -> Dictionary {
        Dictionary {
            table,
            columns,
            reading,
            period: None,
            rows: HashMap::new(),
        }
    }

    /// Looks a row up; `leave` gets the rows of a period that is left.
    fn get(
        &mut self,
        reference: i64,
        read: impl Fn(&Row) -> Entry,
        leave: impl FnOnce(&'static str, &HashMap<i64, Entry>),
    ) -> Option<&mut Entry> {
        let period = reference >> NUMBER_BITS;
        let missing = match self.reading {
            Reading::Periods => self.period != Some(period),
            Reading::Rows => !self.rows.contains_key(&reference),
        };
        if missing {
            let (from, to) = match self.reading {
                Reading::Rows => (reference, reference),
                Reading::Periods => {
                    leave(self.table, &self.rows);
                    self.rows.clear();
                    self.period = Some(period);
                    let first = period << NUMBER_BITS;
                    (first, first + ((1 << NUMBER_BITS) - 1))
                }
            };
            let mut cursor = Cursor::open(&format!(
                "SELECT {} FROM audit.{} WHERE ref BETWEEN '{from}' AND '{to}'",
                self.columns, self.table
            ));
            while let Some(row) = cursor.next() {
                self.rows.insert(row.number(1).unwrap_or(0), read(&row));
            }
        }
        self.rows.get_mut(&reference)
    }
}

/// An event as it was read.
pub struct Event {
    pub seq: u64,
    /// Why no leaf could be made; what is wrong.
    pub leaf: Result<Hash, &'static str>,
    pub numbered: Numbered,
    /// Fields that were erased, and dictionary rows that hold an erased value.
    pub erased: Vec<Erased>,
}

/// A value that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Erased {
    Event(i64, u8),
    Statement(i64),
    Session(i64),
}

/// Makes leaves of rows.
pub struct Reader {
    canon: Canon,
    sessions: Dictionary,
    statements: Dictionary,
    /// Rows of dictionaries that nothing referred to: table and reference.
    pub unused: Vec<(&'static str, i64)>,
}

impl Reader {
    pub fn new(reading: Reading) -> Reader {
        Reader {
            canon: Canon::new(unsafe { pg_sys::CurTransactionContext }),
            sessions: Dictionary::new("session", names(&SESSION), reading),
            statements: Dictionary::new("statement", names(&STATEMENT), reading),
            unused: Vec::new(),
        }
    }

    fn session(&mut self, reference: i64) -> Option<Entry> {
        let canon = &self.canon;
        let read = |row: &Row| {
            let columns: [Option<Datum>; 17] = row.datums();
            Entry {
                digest: canon.session(&columns).ok(),
                erased: is_erased(columns[14], columns[16]),
                used: false,
                identity: (
                    columns[2].map_or(0, |d| d.value() as i64),
                    columns[3].map_or(0, |d| d.value() as i32),
                ),
                command: Command::Other,
            }
        };
        let unused = &mut self.unused;
        let entry = self.sessions.get(reference, read, note_unused(unused))?;
        entry.used = true;
        Some(*entry)
    }

    fn statement(&mut self, reference: i64) -> Option<Entry> {
        let canon = &self.canon;
        let read = |row: &Row| {
            let columns: [Option<Datum>; 11] = row.datums();
            let command = match columns[3].map(|d| content(d, <[u8]>::to_vec)).as_deref() {
                Some(b"DISCONNECT") => Command::Disconnect,
                Some(b"GAP") => Command::Gap,
                Some(b"KEY" | b"FORK" | b"RESTORE" | b"UPGRADE") => Command::Landmark,
                Some(b"START") => Command::Start,
                _ => Command::Other,
            };
            Entry {
                digest: canon.statement(&columns).ok(),
                erased: is_erased(columns[8], columns[10]),
                used: false,
                identity: (0, 0),
                command,
            }
        };
        let unused = &mut self.unused;
        let entry = self.statements.get(reference, read, note_unused(unused))?;
        entry.used = true;
        Some(*entry)
    }

    /// All that is to be read was read: what nothing referred to.
    pub fn finish(&mut self) -> &[(&'static str, i64)] {
        for dictionary in [&self.sessions, &self.statements] {
            note_unused(&mut self.unused)(dictionary.table, &dictionary.rows);
        }
        &self.unused
    }

    /// Reads a row with the columns [`EVENT`]. `fates`: what it decided; `batch`: digest of the row
    /// of its batch, where it is the last one.
    pub fn event(&mut self, row: &Row, fates: Option<Hash>, batch: Option<Hash>) -> Event {
        let columns: [Option<Datum>; 12] = row.datums();
        let number = |i: usize| columns[i].map_or(0, |d| d.value() as i64);
        let seq = number(0);
        let session = self.session(number(3));
        let statement = self.statement(number(4));
        let salt = columns[11].map(|d| content(d, Salts::decode));
        let mut erased = Vec::new();
        if let Some(Some(Salts::Punctured(kept))) = &salt {
            let gone = kept.iter().filter(|(_, k)| matches!(k, Kept::Digest(_)));
            erased.extend(gone.map(|(field, _)| Erased::Event(seq, *field as u8)));
        }
        if statement.is_some_and(|s| s.erased) {
            erased.push(Erased::Statement(number(4)));
        }
        if session.is_some_and(|s| s.erased) {
            erased.push(Erased::Session(number(3)));
        }
        let command = statement.map(|s| s.command).unwrap_or_default();
        let (leaf, numbers) = match columns[5] {
            None => (Err("it has no numbers"), None),
            Some(packed) => content(packed, |packed| {
                let leaf = self.leaf(&columns, session, statement, salt, packed);
                let leaf = leaf.map(|record| {
                    Record {
                        fates,
                        batch,
                        ..record
                    }
                    .leaf()
                });
                (leaf, numbers::decode(packed))
            }),
        };
        let told = matches!(command, Command::Gap | Command::Disconnect);
        Event {
            seq: seq as u64,
            leaf,
            numbered: Numbered {
                started_at: number(2),
                event_no: numbers.map_or(0, |n| n.event_no),
                session: session.map_or((0, 0), |s| s.identity),
                command,
                details: told
                    .then(|| row.text(11))
                    .flatten()
                    .map(String::into_boxed_str),
            },
            erased,
        }
    }

    fn leaf<'n>(
        &self,
        columns: &[Option<Datum>; 12],
        session: Option<Entry>,
        statement: Option<Entry>,
        salt: Option<Option<Salts>>,
        numbers: &'n [u8],
    ) -> Result<Record<'n>, &'static str> {
        const SALT: &str = "a salt is missing or damaged";
        let number = |i: usize| columns[i].map_or(0, |d| d.value() as i64);
        let salts = match &salt {
            Some(None) => return Err(SALT),
            Some(Some(salts)) => Some(salts),
            None => None,
        };
        let [
            _,
            _,
            _,
            _,
            _,
            _,
            text,
            error,
            sha256,
            parameters,
            details,
            _,
        ] = *columns;
        let fields = [text, error, sha256, parameters, details];
        Ok(Record {
            seq: number(0),
            recorded_at: number(1),
            started_at: number(2),
            session: session
                .ok_or("its row in audit.session is missing")?
                .digest
                .ok_or(SALT)?,
            statement: statement
                .ok_or("its row in audit.statement is missing")?
                .digest
                .ok_or(SALT)?,
            fields: self.canon.fields(fields, salts).map_err(|_| SALT)?,
            fates: None,
            batch: None,
            numbers,
        })
    }
}

fn note_unused(
    unused: &mut Vec<(&'static str, i64)>,
) -> impl FnOnce(&'static str, &HashMap<i64, Entry>) {
    |table, rows| {
        let mut found: Vec<_> = rows
            .iter()
            .filter(|(_, e)| !e.used)
            .map(|(r, _)| *r)
            .collect();
        found.sort_unstable();
        unused.extend(found.into_iter().map(|reference| (table, reference)));
    }
}

/// Whether a value that is kept once was erased: its salt has given way to its digest.
fn is_erased(value: Option<Datum>, salt: Option<Datum>) -> bool {
    value.is_none() && salt.is_some()
}

/// Names of the fields of an [`Erased::Event`].
pub fn field_name(field: u8) -> &'static str {
    Field::OF_EVENT
        .into_iter()
        .find(|f| *f as u8 == field)
        .map_or("?", Field::name)
}

/// The columns that [`fate_row`] reads.
pub const FATE: &str =
    "recorded_at, session_started, pid, first_event, last_event, outcome, decided_by, gid";

pub fn fate_row(row: &Row) -> FateRow {
    let columns: [Option<Datum>; 8] = row.datums();
    let number = |i: usize| columns[i].map_or(0, |d| d.value() as i64);
    FateRow {
        recorded_at: number(0),
        session_started: number(1),
        pid: number(2) as i32,
        first_event: number(3),
        last_event: number(4),
        outcome: number(5) as i16,
        decided_by: number(6),
        gid: columns[7].map(|d| content(d, <[u8]>::to_vec)),
    }
}

/// Fates by the event that decided them.
pub type Fates = BTreeMap<i64, Vec<FateRow>>;

/// A row of audit.batch.
#[derive(Clone, Debug)]
pub struct Batch {
    pub recorded_at: i64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// Of the row.
    pub digest: Hash,
    pub frontier: Vec<u8>,
    pub checks: Vec<u8>,
}

/// The columns that [`batch_row`] reads.
pub const BATCH: &str =
    "recorded_at, ring_id, position, first_seq, last_seq, dropped, frontier, checks";

pub fn batch_row(row: &Row) -> Batch {
    let columns: [Option<Datum>; 8] = row.datums();
    let number = |i: usize| columns[i].map_or(0, |d| d.value() as i64);
    let bytes = |i: usize| columns[i].map_or(Vec::new(), |d| content(d, <[u8]>::to_vec));
    let digest = BatchRow {
        recorded_at: number(0),
        ring_id: &bytes(1),
        position: number(2),
        first_seq: number(3),
        last_seq: number(4),
        dropped: number(5),
    }
    .digest();
    Batch {
        recorded_at: number(0),
        first_seq: number(3) as u64,
        last_seq: number(4) as u64,
        digest,
        frontier: bytes(6),
        checks: bytes(7),
    }
}
