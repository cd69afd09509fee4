//! The texts that this session has seen lately. An application sends the same few again and again, and
//! two things are spared then: the search of the text for secrets, and all of the record but its
//! numbers. Such a record refers to the last one that says everything (audit_core::repeat::Repeat).
//!
//! Nothing here throws; only [`find`] allocates, where a text is new.

use audit_core::sql::redact;

use super::frame::Frame;

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

struct Place {
    text: Vec<u8>,
    /// Changes with the text.
    serial: u32,
    record: Option<Record>,
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
    /// Where command and object name end among the names; the relations follow.
    ends: [u8; 3],
    names: [u8; NAMES],
}

static mut PLACE: [Place; PLACES] = [const {
    Place {
        text: Vec::new(),
        serial: 0,
        record: None,
    }
}; PLACES];

fn place(at: usize) -> &'static mut Place {
    // SAFETY: one thread; no reference outlives a function of this file, none of which calls another
    // that uses it.
    unsafe { &mut (*(&raw mut PLACE))[at % PLACES] }
}

/// Whether `text` can be kept as it is, which depends on nothing but its bytes; and where it is
/// remembered, if it was seen before.
#[inline]
pub fn find(text: &[u8]) -> (bool, Option<Known>) {
    let address = text.as_ptr() as usize;
    let at = (address >> 3 ^ address >> 9 ^ text.len()) % PLACES;
    let place = place(at);
    if !text.is_empty() && place.text == text {
        let known = Known {
            place: at as u8,
            serial: place.serial,
        };
        return (true, Some(known));
    }
    let harmless = !redact::may_hold_secret(text);
    if harmless && text.len() <= MOST {
        place.text.clear();
        place.text.extend_from_slice(text);
        place.serial = place.serial.wrapping_add(1);
        place.record = None;
    }
    (harmless, None)
}

impl Record {
    /// Whether it is alike in all but the names, and has names of these lengths.
    #[inline]
    fn is_like(&self, frame: &Frame) -> bool {
        let [command, object, end] = self.ends.map(usize::from);
        self.session == frame.session_version
            && self.classes == frame.classes.0
            && self.query_id == frame.query_id
            && self.object_type == frame.object_type
            && command == frame.command.len()
            && object - command == frame.object_name.len()
            && end - object == frame.relations.len()
    }

    #[inline]
    fn has_names_of(&self, frame: &Frame) -> bool {
        let [command, object, end] = self.ends.map(usize::from);
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

/// Whether the records so far are of no use, as the worker found one damaged: `count` has changed. They
/// are forgotten then.
#[inline]
pub fn are_lost(count: u32) -> bool {
    static mut SEEN: u32 = 0;
    // SAFETY: one thread.
    let seen = unsafe { core::mem::replace(&mut *(&raw mut SEEN), count) };
    if seen != count {
        (0..PLACES).for_each(|at| place(at).record = None);
    }
    seen != count
}

/// The record at `position` says everything of this statement.
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
    let record = place.record.insert(Record {
        position,
        number,
        session: frame.session_version,
        classes: frame.classes.0,
        query_id: frame.query_id,
        object_type: frame.object_type,
        ends: [0; 3],
        names: [0; NAMES],
    });
    let mut end = 0;
    for (name, stored) in names.into_iter().zip(&mut record.ends) {
        record.names[end..end + name.len()].copy_from_slice(name);
        end += name.len();
        *stored = end as u8;
    }
}
