//! `details.attempted`: the names of a failed statement that were not resolved to objects
//! (spec/capture.md, rule 3). They are taken from its text while the error is being reported, into
//! memory set aside: nothing here throws, or allocates where that could fail loudly.

use audit_core::event::pack_sqlstate;
use audit_core::json;
use audit_core::sql::attempted::{for_each_target, name_at};
use audit_core::sql::redact;
use core::ffi::c_int;
use pgrx::pg_sys;

use super::engine::Id;
use super::frame::Frame;
use crate::pg::{lexis, raw};

/// Longest list kept; names beyond it are left out.
const MOST: usize = 4 * 1024;

/// Errors that speak of something that isn't there, or that may not be looked at.
const UNRESOLVED: [u32; 7] = [
    pack_sqlstate(b"42P01"), // table
    pack_sqlstate(b"42883"), // function
    pack_sqlstate(b"42703"), // column
    pack_sqlstate(b"42704"), // other object
    pack_sqlstate(b"3F000"), // schema
    pack_sqlstate(b"3D000"), // database
    pack_sqlstate(b"42501"), // no privilege, perhaps on the schema
];

/// What the last error's statement was aimed at.
pub struct Attempted {
    /// A JSON array without its brackets. Allocated once, by `error::begin`.
    names: Vec<u8>,
    /// The statement: frame and serial.
    of: Option<(Id, u32)>,
}

impl Attempted {
    pub const fn new() -> Self {
        Attempted {
            names: Vec::new(),
            of: None,
        }
    }

    /// Sets its memory aside.
    pub fn reserve(&mut self) {
        self.names.reserve(MOST);
    }
}

/// Where the error was found.
pub struct Place<'a> {
    pub sqlstate: u32,
    /// The text that `position` counts in.
    pub source: &'a [u8],
    /// In characters, from 1; 0 where the error has none.
    pub position: c_int,
}

impl Attempted {
    pub fn clear(&mut self) {
        self.names.clear();
        self.of = None;
    }

    /// Collects the names of the statement that the error came up in. `unseen`: no hook has seen it,
    /// all that is known is its text.
    pub fn collect(&mut self, id: Id, frame: &Frame, place: &Place, unseen: bool) {
        self.clear();
        let unresolved = UNRESOLVED.contains(&place.sqlstate);
        if !frame.captured || !(unseen || unresolved) {
            return;
        }
        self.of = Some((id, frame.serial));
        let plain = lexis::plain();
        // A utility statement that names its objects in a list has them on record.
        if unseen || !frame.details.has("objects") {
            for_each_target(&frame.text, plain, &mut |name: &[u8]| {
                self.add(name, frame);
            });
        }
        // What may hold a secret is read in its redacted form only, where places are others.
        if unresolved
            && !redact::may_hold_secret(place.source)
            && let Some(offset) = byte_offset(place.source, place.position)
        {
            name_at(place.source, offset, &mut |name: &[u8]| {
                self.add(name, frame);
            });
        }
    }

    fn add(&mut self, name: &[u8], frame: &Frame) {
        if frame.object_name == name {
            return;
        }
        let resolved = frame.relations.split(|b| *b == 0).any(|relation| {
            relation
                .strip_suffix(name)
                .is_some_and(|schema| schema.is_empty() || schema.ends_with(b"."))
        });
        // Each byte takes six at most, with quotes and a comma around.
        let room = self.names.capacity() - self.names.len();
        if resolved || room < 6 * name.len() + 3 {
            return;
        }
        let before = self.names.len();
        if before > 0 {
            self.names.push(b',');
        }
        let start = self.names.len();
        json::string(&mut self.names, name);
        let (known, new) = self.names.split_at(start);
        let doubled = before > 0
            && known
                .windows(new.len() + 1)
                .any(|have| have.starts_with(new) && have.ends_with(b","));
        if doubled {
            self.names.truncate(before);
        }
    }

    /// Adds the names to the details of the statement if they are its own.
    pub fn hand_over(&self, id: Id, frame: &mut Frame) {
        // The list's key and punctuation are shorter.
        const AROUND: usize = 32;
        if self.names.is_empty()
            || self.of != Some((id, frame.serial))
            || !frame.details.try_reserve(self.names.len() + AROUND)
        {
            return;
        }
        frame.details.begin_list("attempted");
        frame.details.raw_item(&self.names);
        frame.details.end_list();
    }
}

/// Where the character of this number begins.
fn byte_offset(text: &[u8], position: c_int) -> Option<usize> {
    let before = usize::try_from(position).ok()?.checked_sub(1)?;
    // SAFETY: they read what the session's start has set.
    let (encoding, longest) = unsafe {
        (
            raw::GetDatabaseEncoding(),
            raw::pg_database_encoding_max_length(),
        )
    };
    if longest == 1 {
        return (before < text.len()).then_some(before);
    }
    if encoding != pg_sys::pg_enc::PG_UTF8 as c_int {
        return None;
    }
    text.iter()
        .enumerate()
        .filter(|(_, byte)| **byte & 0xc0 != 0x80)
        .nth(before)
        .map(|(offset, _)| offset)
}
