//! The texts that this session has seen lately. An application sends the same few again and again, and
//! two things are spared then: the search of the text for secrets, and all of the record but its
//! numbers. Such a record refers to the last one that says everything (audit_core::repeat::Repeat).
//!
//! Nothing here throws; only [`find`] allocates, where a text is new, and [`Known::fill`].

use audit_core::event::Classes;
use audit_core::sql::redact;
use core::hint::cold_path;
use pgrx::pg_sys;

use super::frame::{Frame, Held, KEEP};
use crate::pg::{compat, guc, names};

/// Number of texts remembered: each has its place by its address and length.
const PLACES: usize = 64;

/// Longer texts are searched, and told in full, each time.
const MOST: usize = 1024;

/// Room for the names of a statement; one with longer names is told in full each time.
const NAMES: usize = 224;

/// A text that was found, for as long as its place holds it.
#[derive(Clone, Copy)]
pub struct Known {
    place: u8,
    serial: u32,
}

impl Known {
    /// Of no text.
    pub const NONE: Known = Known {
        place: 0,
        serial: 0,
    };
}

struct Place {
    text: Vec<u8>,
    /// Changes with the text.
    serial: u32,
    record: Option<Record>,
}

/// More relations than that are named anew each time.
const RELATIONS: usize = 5;

/// What a planned query does to which relations, by their OIDs: as long as no name changes, the same
/// text that does the same has the same names.
#[derive(Clone, Copy)]
pub struct Uses {
    /// The command, the relation that is written to, and pairs of relation and privileges.
    numbers: [u32; 2 + 2 * RELATIONS],
}

impl Uses {
    pub const NONE: Uses = Uses {
        numbers: [0; 2 + 2 * RELATIONS],
    };

    /// Whether they are the same. (libc's comparison is three lines of the cache more.)
    #[inline(always)]
    fn are(&self, others: &Uses) -> bool {
        let pairs = self.numbers.iter().zip(&others.numbers);
        pairs.fold(0, |differ, (one, other)| differ | (one ^ other)) == 0
    }

    /// Takes down, over [`Uses::NONE`], what a statement does. `false`: to too many relations.
    ///
    /// # Safety
    /// `stmt` is a valid planned statement.
    #[inline]
    pub unsafe fn take(&mut self, stmt: *const pg_sys::PlannedStmt) -> bool {
        let numbers = &mut self.numbers;
        let mut end = 2;
        unsafe {
            numbers[0] = (*stmt).commandType;
            numbers[1] = compat::target_of_plan(stmt).relid.to_u32();
            compat::for_each_used_relation(stmt, |relid, privileges| {
                if let (Some(pair), Ok(privileges)) =
                    (numbers.get_mut(end..end + 2), u32::try_from(privileges))
                {
                    pair.copy_from_slice(&[relid.to_u32(), privileges]);
                    end += 2;
                } else {
                    cold_path();
                    end = usize::MAX - 2;
                }
            });
        }
        end <= numbers.len()
    }
}

/// A query that begins, as its plan tells it.
pub struct Plan {
    pub uses: Uses,
    pub query_id: i64,
    /// It is recorded whatever `audit.catalog` says.
    pub audited: bool,
}

/// What the names of a record were made of.
#[derive(Clone, Copy)]
struct Origin {
    uses: Uses,
    /// [`names::relations_version`] when they were looked up.
    version: u32,
    /// It reads nothing but the catalog.
    only_catalog: bool,
}

/// What the last full record of a text says besides it.
#[derive(Clone, Copy)]
struct Record {
    position: u64,
    /// Of the records that this session has kept: 1, 2, …
    number: u32,
    session: u32,
    classes: u16,
    query_id: i64,
    object_type: &'static str,
    ends: Ends,
    names: [u8; NAMES],
    origin: Option<Origin>,
}

static mut PLACE: [Place; PLACES] = [const {
    Place {
        text: Vec::new(),
        serial: 0,
        record: None,
    }
}; PLACES];

/// Writes to the places in the postmaster, which changes nothing in them: in its children a place then costs
/// one page fault, where the file's page would be mapped for reading first.
pub fn install() {
    for at in 0..PLACES {
        // SAFETY: one thread; a plain field.
        unsafe { (&raw mut place(at).serial).write_volatile(0) };
    }
}

fn place(at: usize) -> &'static mut Place {
    // SAFETY: one thread; no reference outlives a function of this file, none of which calls another
    // that uses it.
    unsafe { &mut (*(&raw mut PLACE))[at % PLACES] }
}

/// Whether `text` can be kept as it is, which depends on nothing but its bytes; and where it is
/// remembered, if it was seen before.
#[inline(always)]
pub fn find(text: &[u8]) -> (bool, Option<Known>) {
    let known = known(text);
    if known.is_some() {
        return (true, known);
    }
    cold_path();
    (remember(place(place_of(text)), text), None)
}

/// Where `text` is remembered, if it was seen before.
#[inline(always)]
pub fn known(text: &[u8]) -> Option<Known> {
    let at = place_of(text);
    let place = place(at);
    (!text.is_empty() && are_same(&place.text, text)).then_some(Known {
        place: at as u8,
        serial: place.serial,
    })
}

/// As `==`, which is libc's comparison, some lines of the cache away.
#[inline(always)]
fn are_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (ones, end) = one.as_chunks::<8>();
    let (others, others_end) = other.as_chunks::<8>();
    let words =
        |pair: (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*pair.0) != u64::from_ne_bytes(*pair.1);
    !ones.iter().zip(others).any(words)
        && !end.iter().zip(others_end).any(|(one, other)| one != other)
}

#[inline(always)]
fn place_of(text: &[u8]) -> usize {
    let address = text.as_ptr() as usize;
    (address >> 3 ^ address >> 9 ^ text.len()) % PLACES
}

/// Whether `text`, which is new, can be kept as it is; if so it takes the place.
#[inline(never)]
#[unsafe(link_section = "audit_session")]
fn remember(place: &mut Place, text: &[u8]) -> bool {
    let harmless = !redact::may_hold_secret(text);
    if harmless && text.len() <= MOST {
        if place.text.capacity() < text.len() {
            place.text = Vec::with_capacity(text.len());
        }
        place.text.clear();
        place.text.extend_from_slice(text);
        place.serial = place.serial.wrapping_add(1);
        place.record = None;
    }
    harmless
}

/// Where command, object name and relations end among a record's names, which are in this order.
#[derive(Clone, Copy)]
struct Ends([u8; 3]);

impl Ends {
    /// Whether the frame's names have these lengths.
    #[inline]
    fn are_those_of(&self, frame: &Frame) -> bool {
        let [command, object, end] = self.0.map(usize::from);
        command == frame.command.len()
            && object - command == frame.object_name.len()
            && end - object == frame.relations.len()
    }
}

impl Record {
    #[inline(always)]
    fn again(&self, known: Known, text: usize) -> Again {
        Again {
            known,
            position: self.position,
            number: self.number,
            session: self.session,
            query_id: self.query_id,
            object_type: self.object_type,
            ends: self.ends,
            text,
        }
    }

    /// Whether it is alike in all but the names, and has names of these lengths.
    #[inline(always)]
    fn is_like(&self, frame: &Frame) -> bool {
        self.session == frame.session_version
            && self.classes == frame.classes.0
            && self.query_id == frame.query_id
            && (core::ptr::eq(self.object_type, frame.object_type)
                || self.object_type == frame.object_type)
            && self.ends.are_those_of(frame)
    }

    #[inline]
    fn has_names_of(&self, frame: &Frame) -> bool {
        let [command, object, end] = self.ends.0.map(usize::from);
        self.names[..command] == frame.command
            && self.names[command..object] == frame.object_name
            && self.names[object..end] == frame.relations
    }
}

/// The last full record of the frame's text.
#[inline]
fn last(frame: &Frame) -> Option<&'static Record> {
    let known = frame.known?;
    let place = place(known.place.into());
    place
        .record
        .as_ref()
        .filter(|_| place.serial == known.serial)
}

/// Number of the record that says of this statement all but its numbers, if there is one.
#[inline]
#[unsafe(link_section = "audit_session")]
pub fn record_of(frame: &Frame) -> Option<u32> {
    let record = last(frame)?;
    (record.is_like(frame) && record.has_names_of(frame)).then_some(record.number)
}

/// Position of the record that says of this statement all but its numbers, if there is one. It may be
/// too far away by now: the ring tells.
#[inline]
pub fn of(frame: &Frame) -> Option<u64> {
    let record = last(frame)?;
    // What the names were found to be when it began they still are if nothing was added.
    let same = frame.same == Some(record.number) || record.has_names_of(frame);
    (record.is_like(frame) && same).then_some(record.position)
}

/// The record that says all but the numbers of a query that begins. (No reference to it: see [`place`].)
pub struct Again {
    pub known: Known,
    pub position: u64,
    pub number: u32,
    pub session: u32,
    pub query_id: i64,
    pub object_type: &'static str,
    ends: Ends,
    text: usize,
}

/// The record that says all but the numbers of this query, if its names need not be looked at to know.
#[inline(always)]
pub fn again(known: Known, session: u32, classes: Classes, plan: &Plan) -> Option<Again> {
    let place = place(known.place.into());
    let record = place.record.as_ref()?;
    let origin = record.origin.as_ref()?;
    let same = place.serial == known.serial
        && record.session == session
        && record.classes == classes.0
        && record.query_id == plan.query_id
        && origin.version == names::relations_version()
        && origin.uses.are(&plan.uses)
        && (!origin.only_catalog || guc::catalog() || plan.audited);
    same.then(|| record.again(known, place.text.len()))
}

/// Gives an empty frame what its record says, which was found by [`again`] when the statement began, and
/// this session's attributes.
pub fn restore(known: Known, frame: &mut Frame, session: &[u8]) {
    let place = place(known.place.into());
    if place.serial == known.serial
        && let Some(record) = &place.record
    {
        let again = record.again(known, place.text.len());
        frame.remember(&again, session, Held::NOTHING);
    }
}

impl Again {
    /// Whether what the frame's buffers hold is as long as what the record says.
    #[inline]
    pub fn has_lengths_of(&self, frame: &Frame) -> bool {
        self.ends.are_those_of(frame) && self.text == frame.text.len()
    }
}

impl Known {
    /// Copies session, names and text of its record into an empty frame.
    #[inline(never)]
    pub fn fill(self, frame: &mut Frame, session: &[u8]) {
        frame.session.extend_from_slice(session);
        let place = place(self.place.into());
        let Some(Record { ends, names, .. }) = &place.record else {
            return; // It was there when this was made.
        };
        let [command, object, end] = ends.0.map(usize::from);
        frame.command.extend_from_slice(&names[..command]);
        frame.object_name.extend_from_slice(&names[command..object]);
        frame.relations.extend_from_slice(&names[object..end]);
        frame.text.extend_from_slice(&place.text);
    }
}

/// A query whose names were looked up turned out to be what a record says: how to tell next time without
/// them, if that is said here (`true`). `version`: of the names, from before the look.
pub fn learn(frame: &Frame, uses: Uses, version: u32, only_catalog: bool) -> bool {
    let (Some(known), Some(number)) = (frame.known, frame.same) else {
        return false;
    };
    let place = place(known.place.into());
    let record = place.record.as_mut().filter(|record| {
        place.serial == known.serial && record.number == number && frame.session.len() <= KEEP
    });
    if let Some(record) = record {
        record.origin = Some(Origin {
            uses,
            version,
            only_catalog,
        });
        return true;
    }
    false
}

/// No session's version: it would have changed four billion times.
const NOBODYS: u32 = u32::MAX;

/// Whether the records so far are of no use, as the worker found one damaged: `count` has changed. No
/// statement that begins from here on is said to be like them.
#[inline]
pub fn are_lost(count: u32) -> bool {
    #[unsafe(link_section = "audit_data")]
    static mut SEEN: u32 = 0;
    // SAFETY: one thread.
    let seen = unsafe { core::mem::replace(&mut *(&raw mut SEEN), count) };
    if seen != count {
        cold_path();
        for at in 0..PLACES {
            if let Some(record) = &mut place(at).record {
                record.session = NOBODYS; // What has begun still takes its names from it.
            }
        }
    }
    seen != count
}

/// The record at `position` says everything of this statement.
#[unsafe(link_section = "audit_session")]
pub fn keep(frame: &Frame, position: u64) {
    let Some(known) = frame.known else { return };
    let place = place(known.place.into());
    let names = [&frame.command, &frame.object_name, &frame.relations];
    let room = names.iter().map(|name| name.len()).sum::<usize>() <= NAMES;
    if place.serial != known.serial || frame.session_version == 0 || !room {
        return;
    }
    static mut NUMBER: u32 = 0;
    // SAFETY: one thread.
    let number = unsafe {
        NUMBER = NUMBER.wrapping_add(1).max(1);
        NUMBER
    };
    // The same once more, at another place.
    let before = place.record.as_ref();
    let before = before.filter(|r| frame.same == Some(r.number) && r.ends.are_those_of(frame));
    let origin = before.and_then(|before| before.origin);
    let record = place.record.insert(Record {
        position,
        number,
        session: frame.session_version,
        classes: frame.classes.0,
        query_id: frame.query_id,
        object_type: frame.object_type,
        ends: Ends([0; 3]),
        names: [0; NAMES],
        origin,
    });
    let mut end = 0;
    for (name, stored) in names.into_iter().zip(&mut record.ends.0) {
        record.names[end..end + name.len()].copy_from_slice(name);
        end += name.len();
        *stored = end as u8;
    }
}
