//! One statement between its start and its event. Frames are kept in a pool and their buffers are
//! reused, so that the path of a statement allocates nothing once the backend is warm.

use audit_core::codec::ShapeWriter;
use audit_core::drops::Drops;
use audit_core::event::{Classes, Fate, Numbers};
use audit_core::fit;
use audit_core::json::Object;
use audit_core::level::Level;
use audit_core::slot::{Begun, Statement};
use core::hint::cold_path;

use super::repeats::{self, Again, Known};
use crate::pg::slot;

/// Buffers that grew beyond this are given back when their statement has ended.
pub const KEEP: usize = 64 * 1024;

/// Room for what is added to the details when the event leaves.
const DETAILS_ROOM: usize = fit::NOTES + 32;

#[inline(always)]
fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEEP {
        give_back_room(buffer);
    }
}

#[cold]
#[inline(never)]
fn give_back_room(buffer: &mut Vec<u8>) {
    buffer.shrink_to(KEEP);
}

/// What a frame can be set aside for, its buffers as long as they can get: to take it allocates nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Aside {
    /// What fails before any hook has seen it.
    Failure,
    /// A query that went without a frame until something asked for it: see `engine::lone`.
    Lone,
}

/// Which inner query belongs to a utility statement's own event.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Wraps {
    /// None: every query inside is a nested statement.
    #[default]
    Nothing,
    /// The one planned from the same text (CTAS, COPY, EXPLAIN, REFRESH).
    SameText,
    /// The one run through a portal of its own (EXECUTE, DECLARE CURSOR).
    OwnPortal,
}

/// What a frame knows apart from its buffers.
#[derive(Clone, Copy, Default)]
pub struct State {
    /// Tells this use of the frame from earlier ones.
    pub serial: u32,
    pub in_use: bool,
    /// It is set aside, and no part of the pool.
    pub aside: Option<Aside>,
    pub numbers: Numbers,
    /// `audit.level` when the statement began: the statement that changes it is judged by the old.
    pub level: Level,
    pub classes: Classes,
    /// False where the level leaves the statement out whatever happens: nothing was captured.
    pub captured: bool,
    /// Recorded whatever the level: it uses a privilege granted to `audit.role`.
    pub audited_object: bool,
    /// EXPLAIN without ANALYZE: its query is planned and made ready, not run.
    pub explains_only: bool,
    /// A fast-path call: nothing says when it ends; see `hooks::functions`.
    pub fast_path: bool,
    /// A wrapper whose query has begun.
    pub runs_query: bool,
    /// A wrapper that reads nothing but the catalog, which `audit.catalog` leaves out.
    pub left_out: bool,
    /// It began in a transaction that had already failed.
    pub in_aborted: bool,
    /// It may end a transaction or a subtransaction: its fate is known only at the callback.
    pub ends_transaction: bool,
    /// ROLLBACK TO: the transaction goes on.
    pub to_savepoint: bool,
    /// The subtransaction that it ran in was rolled back.
    pub rolled_back: bool,
    pub wraps: Wraps,
    /// FETCH, MOVE: the query that it runs on began as another statement's own.
    pub fetches: bool,
    /// The query that it runs; 0 for a utility statement. Compared, never followed.
    pub query: usize,
    /// The text that the server parsed, and when its message came: which string it is a part of.
    /// Compared, never read.
    pub source: usize,
    pub location: i32,
    /// Where its text begins, comments before it included.
    pub text_from: usize,
    pub message_at: i64,
    /// Where in the string the statement ends, as the server's parser found it.
    pub source_end: usize,
    /// While it runs: address of its hook's stack frame, and [`super::engine::catcher`] of it; else 0.
    pub address: usize,
    pub catcher: usize,
    /// The portal that was active when it began.
    pub portal: usize,
    /// [`Wraps::OwnPortal`]: [`super::wrapped::hash_of`] the text that is run through it, and which it is; 0: not
    /// there yet.
    pub wrapped_text: u64,
    pub wrapped_in: usize,
    /// The subtransaction that it runs in.
    pub subxact: u32,
    /// The subtransaction that its query began in, where nobody tells when the query's memory goes without
    /// ExecutorEnd; else 0.
    pub unwatched_in: u32,
    /// Rows of a wrapped or fetched query; -1 until there are some.
    pub inner_rows: i64,
    /// ExecutorEnd is on its way: the end of the query's memory is no accident.
    pub ending: bool,
    pub object_type: &'static str,
    pub query_id: i64,
    pub sha256: Option<[u8; 32]>,
    /// [`crate::pg::session::version`] of `session`, 0 where it was not asked.
    pub session_version: u32,
    /// `text` was seen before.
    pub known: Option<Known>,
    /// The record that it was found to be the same as when it began. What it is can only be added to
    /// since then, or this is None again.
    pub same: Option<u32>,
    /// Of a top-level statement: the last number given out inside it; it has 1 itself.
    pub last_sub: u32,
    /// How often a foreign-key check ran that this frame stands for; see `hooks::checks`.
    pub calls: u64,
    /// `parameters` holds a list, perhaps an empty one.
    pub with_parameters: bool,
    /// Its event is in the ring already, ahead of its transaction's end (`audit.durability`).
    pub sent: bool,
    /// Its entry in the session's in-flight slot.
    pub in_flight: Option<u8>,
    /// The server analyzes a query of it, whose relations are its own: PREPARE, CREATE VIEW.
    pub analyzes: bool,
    /// What is dropped while it runs went with it.
    pub drops_objects: bool,
    /// What it drops has a name in it: one object alone needs no list.
    pub names_dropped: bool,
    /// What is emptied while it runs are its relations: see `hooks::truncated`.
    pub truncates: bool,
}

/// Whose session, names and text a frame's buffers hold, if they are a record's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Held {
    record: Option<u32>,
    session: u32,
}

impl Held {
    pub const NOTHING: Held = Held {
        record: None,
        session: 0,
    };
}

#[derive(Default)]
pub struct Frame {
    pub state: State,
    /// The session's attributes when it began, encoded.
    pub session: Vec<u8>,
    pub command: Vec<u8>,
    pub object_name: Vec<u8>,
    /// Qualified names, each ended by NUL.
    pub relations: Vec<u8>,
    /// Its own text, redacted, perhaps cut.
    pub text: Vec<u8>,
    /// Values of its bind parameters, encoded.
    pub parameters: Vec<u8>,
    /// Message of the error it failed with.
    pub error: Vec<u8>,
    pub details: Object,
    /// What was cut, with its full size: `details.truncated`.
    pub truncated: Object,
    pub drops: Drops,
    /// Identifier of the prepared transaction that it makes or ends.
    pub gid: Vec<u8>,
    /// See [`Frame::write_shape`].
    pub shape: Vec<u8>,
}

impl std::ops::Deref for Frame {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Frame {
    /// With room for a statement as most are: its first time none of its buffers has to grow.
    #[unsafe(link_section = "audit_session")]
    pub fn with_room() -> Frame {
        Frame {
            session: Vec::with_capacity(256),
            command: Vec::with_capacity(32),
            object_name: Vec::with_capacity(96),
            relations: Vec::with_capacity(128),
            text: Vec::with_capacity(256),
            details: Object::with_room(DETAILS_ROOM),
            truncated: Object::with_room(fit::NOTES),
            shape: Vec::with_capacity(320),
            ..Frame::default()
        }
    }

    /// Makes a used frame as new, keeping its buffers.
    #[unsafe(link_section = "audit_session")]
    pub fn reset(&mut self) {
        self.forget();
        self.renew(State::default());
    }

    /// As [`Frame::reset`], but for the buffers that [`Frame::remember`] fills, which are as they were:
    /// [`Frame::forget`] or [`Frame::remember`] comes next. It knows `state`, and is in use. The result
    /// tells what those buffers hold.
    #[inline(always)]
    pub fn renew(&mut self, state: State) -> Held {
        for buffer in [
            &mut self.parameters,
            &mut self.error,
            &mut self.gid,
            &mut self.shape,
        ] {
            empty(buffer);
        }
        self.details.renew(KEEP, DETAILS_ROOM);
        self.truncated.renew(KEEP, fit::NOTES);
        self.drops.clear();
        let held = Held {
            record: self.state.same,
            session: self.state.session_version,
        };
        let serial = self.state.serial.wrapping_add(1);
        self.state = State {
            serial,
            in_use: true,
            inner_rows: -1,
            ..state
        };
        held
    }

    /// Empties the buffers that [`Frame::remember`] fills.
    #[inline(never)]
    #[unsafe(link_section = "audit_session")]
    pub fn forget(&mut self) {
        for buffer in [
            &mut self.session,
            &mut self.command,
            &mut self.object_name,
            &mut self.relations,
            &mut self.text,
        ] {
            empty(buffer);
        }
    }

    /// Takes from a record what it says of the statement that begins. `session` is what it was made
    /// with; `held` is what [`Frame::renew`] has told: buffers that are the record's already stay, as they
    /// were found to be the same once, and what is added to them makes them longer.
    #[inline(always)]
    pub fn remember(&mut self, again: &Again, session: &[u8], held: Held) {
        let record = Held {
            record: Some(again.number),
            session: again.session,
        };
        if held != record || !again.has_lengths_of(self) {
            cold_path();
            self.forget();
            again.known.fill(self, session);
        }
        self.state.known = Some(again.known);
        self.state.same = record.record;
        self.state.object_type = again.object_type;
        self.state.query_id = again.query_id;
    }

    /// Room for what is added to the details when the event leaves, perhaps in an error path.
    pub fn make_room(&mut self) {
        self.details.reserve(DETAILS_ROOM);
        self.truncated.reserve(fit::NOTES);
    }

    /// Room for all that is known of a statement which fails before any hook has seen it.
    pub fn make_room_for_failure(&mut self, text: usize, error: usize) {
        const SHORT: usize = 1024;
        self.text.reserve(text);
        self.error.reserve(error);
        self.details.reserve(error);
        for buffer in [&mut self.session, &mut self.command, &mut self.shape] {
            buffer.reserve(SHORT);
        }
    }

    /// Room for all that [`Frame::remember`] takes from the record of `other`, and for its shape.
    pub fn make_room_for_record_of(&mut self, other: &Frame) {
        const SHAPE: usize = 128;
        for (own, its) in [
            (&mut self.session, &other.session),
            (&mut self.command, &other.command),
            (&mut self.object_name, &other.object_name),
            (&mut self.relations, &other.relations),
            (&mut self.text, &other.text),
        ] {
            // No more than that: it would be given back.
            own.reserve_exact(its.len().saturating_sub(own.len()));
        }
        let names = other.command.len() + other.object_name.len() + other.relations.len();
        self.shape
            .reserve_exact((2 * names + SHAPE).saturating_sub(self.shape.len()));
    }

    /// Adds an object that goes with what the statement drops; `parent` is the relation it is a part of.
    pub fn add_drop(&mut self, kind: &[u8], name: &[u8], parent: Option<&[u8]>) {
        self.drops.add(&mut self.details, kind, name, parent);
        self.make_room();
    }

    /// Ends the list of what was dropped, after which the details can take other members. Once is
    /// enough; allocates nothing.
    pub fn end_drops(&mut self) {
        let single = self.state.names_dropped;
        self.drops
            .finish(&mut self.details, &mut self.truncated, single);
    }

    /// Adds a relation unless it is there; `true`: it was not.
    #[unsafe(link_section = "audit_session")]
    pub fn add_relation(&mut self, name: &[u8]) -> bool {
        let known = !self.relations.is_empty()
            && self.relations.split(|b| *b == 0).any(|have| have == name);
        let new = !known && !name.is_empty();
        if new {
            self.relations.extend_from_slice(name);
            self.relations.push(0);
        }
        new
    }

    /// Writes the statement down in the session's slot: to be called before it runs, when all is
    /// known that is known before. Never throws.
    #[inline]
    pub fn protect(&mut self) {
        if self.captured && self.in_flight.is_none() {
            self.state.same = repeats::record_of(self);
            self.protect_same();
        }
    }

    /// As [`Frame::protect`], of a frame that is captured and has no entry, where `same` says already
    /// which record it is the same as.
    #[inline(always)]
    pub fn protect_same(&mut self) {
        let numbers = &self.state.numbers;
        let begun = Begun {
            statement_id: numbers.statement_id,
            substatement_id: numbers.substatement_id,
            depth: numbers.depth,
            started_at: numbers.started_at,
        };
        self.state.in_flight = match self.state.same.and_then(slot::entry_of) {
            Some(entry) => {
                slot::reopen(entry, &begun);
                Some(entry)
            }
            None => {
                cold_path();
                self.open_entry()
            }
        };
    }

    /// Writes all of the statement down.
    #[inline(never)]
    #[unsafe(link_section = "audit_session")]
    fn open_entry(&self) -> Option<u8> {
        let s = &self.state;
        let statement = Statement {
            statement_id: s.numbers.statement_id,
            substatement_id: s.numbers.substatement_id,
            depth: s.numbers.depth,
            started_at: s.numbers.started_at,
            query_id: s.query_id,
            classes: s.classes.0,
            full_length: s.numbers.statement_length,
            command: &self.command,
            object_type: s.object_type.as_bytes(),
            object_name: &self.object_name,
            relations: &self.relations,
            gid: &self.gid,
            text: &self.text,
        };
        slot::open(s.same, &statement)
    }

    /// The statement needs its entry no more.
    #[inline]
    pub fn unprotect(&mut self) {
        if let Some(entry) = self.in_flight.take() {
            slot::close(entry);
        }
    }

    /// A view that reads a temporary table is temporary itself, whatever the search path says.
    pub fn is_temporary_view(&mut self) {
        let mut quoted = false;
        let end_of_schema = self.object_name.iter().position(|b| {
            quoted ^= *b == b'"';
            *b == b'.' && !quoted
        });
        let Some(end) = end_of_schema else { return };
        self.same = None;
        let before = std::mem::take(&mut self.object_name);
        self.object_name.extend_from_slice(b"pg_temp");
        self.object_name.extend_from_slice(&before[end..]);
        let relations = std::mem::take(&mut self.relations);
        for name in relations.split(|b| *b == 0) {
            let view = self.object_name.clone();
            self.add_relation(if name == before { &view } else { name });
        }
    }

    /// Whether the level asks for the statement, given how it ended.
    #[inline]
    pub fn recorded(&self, failed: bool) -> bool {
        self.captured
            && !self.left_out
            && (self.audited_object || self.level.records(self.classes, failed))
    }

    /// Whether the event has nothing besides session, shape, text and numbers.
    pub fn is_plain(&self) -> bool {
        self.sha256.is_none()
            && !self.with_parameters
            && self.numbers.sqlstate == 0
            && self.numbers.statement_length == 0
            && self.error.is_empty()
            && self.details.is_empty()
            && self.truncated.is_empty()
            && self.gid.is_empty()
    }

    /// Lays out the shape from what is known now.
    #[unsafe(link_section = "audit_session")]
    pub fn write_shape(&mut self) {
        let object_type = self.state.object_type.as_bytes();
        let object =
            (!object_type.is_empty()).then_some((object_type, self.object_name.as_slice()));
        let mut writer = ShapeWriter::new(
            &mut self.shape,
            self.state.classes,
            self.state.query_id,
            &self.command,
            object,
        );
        // Mostly it is one, the main object, whose end need not be looked for.
        if self.relations.strip_suffix(b"\0") == Some(self.object_name.as_slice()) {
            writer.relation(&self.object_name);
            return;
        }
        for name in self.relations.split(|b| *b == 0) {
            if !name.is_empty() {
                writer.relation(name);
            }
        }
    }

    /// The fate to be carried inline, given what is known of the transaction.
    pub fn fate(&self, known: Fate) -> Fate {
        if self.rolled_back {
            Fate::RolledBack
        } else {
            known
        }
    }
}
