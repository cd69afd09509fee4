//! A batch: events as rows to be stored, put together before anything is written.
//!
//! Per event nothing is allocated: rows and bytes go into vectors that are kept from batch to
//! batch.

use super::arena::{Arena, Piece};
use super::dictionary::{Dictionary, Original, SessionEntry, Text};
use super::fates::{Fates, Identity, combine};
use super::text::Texts;
use audit_core::calendar::is_plausible;
use audit_core::codec::{Corrupt, Decoded, Section, decode, decode_session, decode_shape};
use audit_core::event::{Decision, Fate, Numbers, Outcome, Timestamp};
use audit_core::numbers;
use audit_core::repeat::decode_repeat;

/// Most events in a batch.
pub const MAX_ROWS: usize = 32_768;
/// A batch with this many bytes takes no further event.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Fields of an event that may turn out to be unstorable, as bits.
pub const STATEMENT: u8 = 1 << 0;
pub const ERROR: u8 = 1 << 1;
pub const PARAMETERS: u8 = 1 << 2;
pub const DETAILS: u8 = 1 << 3;

/// How much trouble an event may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// As it is.
    Whole,
    /// The last resort for an event whose content made its transaction fail: only the beginning of
    /// its texts, as ASCII, and no parameters and details.
    Bare,
}

/// Bytes that are left of a text with [`Care::Bare`].
const BARE: usize = 4096;

/// An event to be stored.
pub struct Row {
    pub numbers: Numbers,
    pub session: i64,
    pub statement: i64,
    /// [`Numbers`] packed; made when the batch is complete, as fates may change until then.
    pub packed: Piece,
    /// Varlena values.
    pub text: Piece,
    pub error: Piece,
    pub sha256: Piece,
    /// As they came, in `encoding`.
    pub parameters: Piece,
    pub details: Piece,
    pub encoding: u8,
    /// Fields that were escaped or left out.
    pub unstorable: u8,
}

impl Row {
    /// With nothing of its own but numbers.
    fn new(numbers: &Numbers, session: &SessionEntry, statement: i64) -> Row {
        Row {
            numbers: *numbers,
            session: session.reference,
            statement,
            packed: Piece::NONE,
            text: Piece::NONE,
            error: Piece::NONE,
            sha256: Piece::NONE,
            parameters: Piece::NONE,
            details: Piece::NONE,
            encoding: session.encoding,
            unstorable: 0,
        }
    }
}

/// A row for the dictionary of sessions: the encoded section as it came.
pub struct NewSession {
    pub reference: i64,
    pub section: Piece,
}

/// A row for the dictionary of statements.
pub struct NewStatement {
    pub reference: i64,
    pub shape: Piece,
    pub text: Piece,
    pub encoding: u8,
}

/// What becomes of a prepared transaction.
pub struct Prepared {
    pub gid: Vec<u8>,
    pub encoding: u8,
    pub session: Identity,
    /// Of the transaction, where it is prepared.
    pub events: (u64, u64),
    /// Open: the server is asked.
    pub fate: Fate,
    /// [`Batch::horizon`] of the event.
    pub horizon: Option<u64>,
    /// Row of the event.
    pub row: u32,
}

#[derive(Default)]
pub struct Batch {
    pub rows: Vec<Row>,
    pub sessions: Vec<NewSession>,
    pub statements: Vec<NewStatement>,
    pub arena: Arena,
    pub fates: Fates,
    pub prepared: Vec<Prepared>,
    /// Of the session whose events are added: the first transaction id that was given out after its death.
    pub horizon: Option<u64>,
    /// Rows of events that audit.origin keeps a copy of.
    pub landmarks: Vec<u32>,
    packed: Vec<u8>,
    /// Payload of a record that is repeated.
    original: Vec<u8>,
}

impl Batch {
    pub fn clear(&mut self) {
        self.rows.clear();
        self.sessions.clear();
        self.statements.clear();
        self.arena.clear(MAX_BYTES);
        self.fates.clear();
        self.prepared.clear();
        self.landmarks.clear();
    }

    pub fn is_full(&self, max_rows: usize) -> bool {
        self.rows.len() >= max_rows || self.arena.len() >= MAX_BYTES
    }

    /// Adds a record of a ring, of which `look_up` copies another one by its position, if it is there.
    /// In a transaction. `Err`: the record can't be read; nothing was added.
    pub fn add_record(
        &mut self,
        payload: &[u8],
        dictionary: &mut Dictionary,
        texts: Texts,
        care: Care,
        look_up: impl FnOnce(u64, &mut Vec<u8>) -> bool,
    ) -> Result<(), Corrupt> {
        let Some(repeat) = decode_repeat(payload) else {
            return self.add(payload, dictionary, texts, care);
        };
        let repeat = repeat?;
        check(&repeat.numbers)?;
        if let (Some(original), Care::Whole) = (dictionary.original(repeat.of), care) {
            let row = Row::new(&repeat.numbers, &original.session, original.statement);
            self.push(row, &original.session);
            return Ok(());
        }
        let mut payload = core::mem::take(&mut self.original);
        let added = if look_up(repeat.of, &mut payload) {
            decode(&payload).and_then(|event| {
                self.add_event(&event.repeated(repeat.numbers), dictionary, texts, care)
            })
        } else {
            Err(Corrupt::Original)
        };
        self.original = payload;
        let session = added?;
        // Where the text went into the event, as it was seen for the first time, the next one is asked.
        if let Some(row) = self.rows.last()
            && !row.text.is_some()
            && care == Care::Whole
        {
            let statement = row.statement;
            dictionary.learn_original(repeat.of, Original { session, statement });
        }
        Ok(())
    }

    /// Adds an event that carries everything. In a transaction. `Err`: the payload can't be read;
    /// nothing was added.
    pub fn add(
        &mut self,
        payload: &[u8],
        dictionary: &mut Dictionary,
        texts: Texts,
        care: Care,
    ) -> Result<(), Corrupt> {
        self.add_event(&decode(payload)?, dictionary, texts, care)?;
        Ok(())
    }

    /// Adds a row that no later event of the batch needs to know more of than its fate.
    fn push(&mut self, row: Row, session: &SessionEntry) {
        let n = &row.numbers;
        if n.event_no != 0 && matches!(n.fate, Fate::Open | Fate::Prepared) {
            self.fates
                .open(session.identity, n.event_no, self.rows.len() as u32);
        }
        self.rows.push(row);
    }

    fn add_event(
        &mut self,
        event: &Decoded,
        dictionary: &mut Dictionary,
        texts: Texts,
        care: Care,
    ) -> Result<SessionEntry, Corrupt> {
        check(&event.numbers)?;
        let section = event.section(Section::Session).ok_or(Corrupt::Value)?;
        let (arena, sessions) = (&mut self.arena, &mut self.sessions);
        let session = dictionary.session(section, |reference| {
            let s = decode_session(section)?;
            check_time(s.started_at)?;
            sessions.push(NewSession {
                reference,
                section: arena.put(section),
            });
            let identity = Identity {
                started_at: s.started_at,
                pid: s.pid,
            };
            Ok::<_, Corrupt>((identity, s.encoding))
        })?;
        let row = self.rows.len() as u32;
        let stored = self.row(event, &session, dictionary, texts, care)?;
        self.push(stored, &session);
        if let Some(gid) = event.section(Section::Gid) {
            self.note_prepared(event, gid, session.identity, session.encoding, row);
        }
        // One that can't be read decides nothing; the event itself is there.
        for decision in event.decisions().flatten() {
            self.decide(session.identity, decision, row);
        }
        if self.prepared.last().is_some_and(|p| p.row == row) {
            // The row with the gid covers these events, and ends where the one that ends the
            // transaction will. One that ended before would count as the innermost for ever.
            let outside = &mut self.fates.outside;
            outside.retain(|o| o.row != row || o.decision.fate != Fate::Prepared);
        }
        Ok(session)
    }

    /// PREPARE TRANSACTION, COMMIT PREPARED or ROLLBACK PREPARED, or the FATE of one that was prepared and
    /// is told of later (settle.rs): what it says of the transaction.
    fn note_prepared(
        &mut self,
        event: &Decoded,
        gid: &[u8],
        session: Identity,
        encoding: u8,
        row: u32,
    ) {
        let n = &event.numbers;
        let shape = event.section(Section::Shape).map(decode_shape);
        let Some(Ok(shape)) = shape else { return };
        let fate = match (shape.command, n.outcome, n.fate) {
            (b"PREPARE TRANSACTION", Outcome::Success, Fate::Prepared) => Fate::Prepared,
            (b"FATE", Outcome::Success, _) => Fate::Prepared,
            (b"COMMIT PREPARED", Outcome::Success, _) => Fate::Committed,
            (b"ROLLBACK PREPARED", Outcome::Success, _) => Fate::RolledBack,
            // Whoever was to end it died in that.
            (b"COMMIT PREPARED" | b"ROLLBACK PREPARED", Outcome::Unfinished, _) => Fate::Open,
            _ => return,
        };
        let decided = event.decisions().flatten();
        let mut decided = decided.filter(|decision| decision.fate == Fate::Prepared);
        let events = if n.event_no == 0 {
            // Of settle.rs: of one transaction, and no event of the session's own.
            decided.next().map_or((0, 0), |d| (d.first, d.last))
        } else {
            let first = decided.map(|d| d.first).fold(n.event_no, u64::min);
            (first, n.event_no)
        };
        self.prepared.push(Prepared {
            gid: gid.to_vec(),
            encoding,
            session,
            events,
            fate,
            horizon: self.horizon,
            row,
        });
    }

    fn decide(&mut self, session: Identity, decision: Decision, row: u32) {
        let rows = &mut self.rows;
        self.fates.decide(session, decision, row, |row, fate| {
            let numbers = &mut rows[row as usize].numbers;
            numbers.fate = combine(numbers.fate, fate);
        });
    }

    fn row(
        &mut self,
        event: &Decoded,
        session: &SessionEntry,
        dictionary: &mut Dictionary,
        texts: Texts,
        care: Care,
    ) -> Result<Row, Corrupt> {
        let encoding = session.encoding;
        let shape = event.section(Section::Shape).ok_or(Corrupt::Value)?;
        let text = event.section(Section::Statement);
        let (arena, statements) = (&mut self.arena, &mut self.statements);
        let known_text = if care == Care::Whole { text } else { None };
        let (statement, kept) =
            dictionary.statement(encoding, shape, known_text, |reference, with_text| {
                audit_core::codec::decode_shape(shape)?;
                statements.push(NewStatement {
                    reference,
                    shape: arena.put(shape),
                    text: arena.put_option(known_text.filter(|_| with_text)),
                    encoding,
                });
                Ok::<_, Corrupt>(())
            })?;
        let mut row = Row::new(&event.numbers, session, statement);
        if let (Some(text), Text::Inline) = (text, kept) {
            row.text = put_text(&mut self.arena, text, STATEMENT, &mut row, texts, care);
        }
        if let Some(error) = event.section(Section::Error) {
            row.error = put_text(&mut self.arena, error, ERROR, &mut row, texts, care);
        }
        if let Some(sha256) = event.section(Section::StatementSha256) {
            row.sha256 = self.arena.put_varlena(sha256);
        }
        for (section, bit, piece) in [
            (Section::Parameters, PARAMETERS, &mut row.parameters),
            (Section::Details, DETAILS, &mut row.details),
        ] {
            match (event.section(section), care) {
                (Some(bytes), Care::Whole) => *piece = self.arena.put(bytes),
                (Some(_), Care::Bare) => row.unstorable |= bit,
                (None, _) => {}
            }
        }
        Ok(row)
    }

    /// Packs the numbers, now that no fate changes any more.
    pub fn finish(&mut self) {
        for row in &mut self.rows {
            self.packed.clear();
            numbers::encode(&row.numbers, &mut self.packed);
            row.packed = self.arena.put_varlena(&self.packed);
        }
    }
}

/// Whether SQL has these numbers: no session makes others.
fn check(numbers: &Numbers) -> Result<(), Corrupt> {
    check_time(numbers.started_at)?;
    match i64::try_from(numbers.transaction_id) {
        Ok(_) => Ok(()),
        Err(_) => Err(Corrupt::Value),
    }
}

fn check_time(at: Timestamp) -> Result<(), Corrupt> {
    if is_plausible(at) {
        Ok(())
    } else {
        Err(Corrupt::Value)
    }
}

fn put_text(
    arena: &mut Arena,
    text: &[u8],
    field: u8,
    row: &mut Row,
    texts: Texts,
    care: Care,
) -> Piece {
    if care == Care::Bare {
        row.unstorable |= field;
        let begin = &text[..text.len().min(BARE)];
        return arena.put_varlena(&super::text::escape(begin));
    }
    let storable = texts.convert(text, row.encoding);
    if storable.escaped {
        row.unstorable |= field;
    }
    arena.put_varlena(&storable.text)
}

/// Names of the fields in details.unstorable.
pub const CONTENT_FIELDS: [(u8, &str); 4] = [
    (STATEMENT, "statement"),
    (ERROR, "error"),
    (PARAMETERS, "parameters"),
    (DETAILS, "details"),
];
