//! What was found out about the utility statement that is about to begin, and the writing of names.
//!
//! Looking things up throws, so it happens before the statement has its frame; what is found waits in
//! a static, which [`Found::hand_over`] gives to the frame without throwing. Nothing here has a
//! destructor that an ERROR could jump over: all buffers are in the static.

use audit_core::json::Object;
use core::ffi::c_char;
use pgrx::pg_sys;

use super::frame::Frame;
use crate::pg::lookup::{self, Kind};
use crate::pg::{compat, names, raw};

#[derive(Default)]
pub struct Found {
    /// Relations that exist, in the order in which they are named.
    pub relids: Vec<pg_sys::Oid>,
    /// Names of relations, also of those that will be made; each ended by NUL.
    pub relations: Vec<u8>,
    /// Kind of the first of them.
    first_kind: &'static str,
    pub object_type: &'static str,
    pub object_name: Vec<u8>,
    pub details: Object,
    pub truncated: Object,
    /// The name being written.
    pub name: Vec<u8>,
}

/// Buffers that grew beyond this are given back.
const KEEP: usize = 64 * 1024;

static mut FOUND: Option<Found> = None;

/// SAFETY of all uses: one thread; no reference outlives a function of the files that look up, and
/// none is used after a call of the server that could come back here.
pub fn found() -> &'static mut Found {
    unsafe { (*(&raw mut FOUND)).get_or_insert_default() }
}

impl Found {
    pub fn clear(&mut self) {
        self.relids.clear();
        self.relations.clear();
        self.relations.shrink_to(KEEP);
        self.first_kind = "";
        self.object_type = "";
        self.object_name.clear();
        self.details.clear(KEEP);
        self.truncated.clear(KEEP);
        self.name.clear();
    }

    /// Ends the name of a relation.
    pub fn end_relation(&mut self, kind: &'static str) {
        if self.relations.is_empty() {
            self.first_kind = kind;
        }
        self.relations.append(&mut self.name);
        self.relations.push(0);
    }

    /// Ends the name of the main object.
    pub fn end_object(&mut self, kind: &'static str) {
        self.object_type = kind;
        self.object_name.append(&mut self.name);
    }

    /// Gives the frame what was found: the first relation is the main object where there is no other.
    /// Never throws.
    pub fn hand_over(&mut self, frame: &mut Frame) {
        if self.object_type.is_empty() && !self.relations.is_empty() {
            frame.object_type = self.first_kind;
            let first = self.relations.split(|b| *b == 0).next().unwrap_or_default();
            frame.object_name.extend_from_slice(first);
        } else {
            frame.object_type = self.object_type;
            frame.object_name.extend_from_slice(&self.object_name);
        }
        for name in self.relations.split(|b| *b == 0) {
            frame.add_relation(name);
        }
        core::mem::swap(&mut frame.details, &mut self.details);
        core::mem::swap(&mut frame.truncated, &mut self.truncated);
        frame.make_room();
    }
}

// All that follows throws (catalog look-ups, allocation in the server) and appends to the name.

/// An identifier, quoted where needed.
pub unsafe fn identifier(name: *const c_char) {
    unsafe {
        let quoted = raw::quote_identifier(name);
        found().name.extend_from_slice(raw::bytes(quoted));
    }
}

/// `schema.name`; NULL for no schema. One's own temporary schema has one name whatever its number.
pub unsafe fn dotted(schema: *const c_char, name: *const c_char) {
    unsafe {
        if !schema.is_null() {
            if raw::bytes(schema).starts_with(b"pg_temp_") {
                identifier(c"pg_temp".as_ptr());
            } else {
                identifier(schema);
            }
            found().name.push(b'.');
        }
        identifier(name);
    }
}

/// The name of something that exists, or should.
pub unsafe fn existing(kind: Kind, names: *const pg_sys::List) {
    unsafe {
        let (mut schema, name) = compat::last_two(names);
        if schema.is_null() {
            schema = lookup::schema_of(kind, name);
        }
        dotted(schema, name);
    }
}

/// The name of something that will be made.
pub unsafe fn new(names: *const pg_sys::List) {
    unsafe {
        let (mut schema, name) = compat::last_two(names);
        if schema.is_null() {
            schema = lookup::creation_schema();
        }
        dotted(schema, name);
    }
}

/// A type as the server writes it in identities; as it was typed where it isn't known.
pub unsafe fn type_name(name: *const pg_sys::TypeName) {
    unsafe {
        if name.is_null() {
            found().name.extend_from_slice(b"NONE");
            return;
        }
        let text = match lookup::type_oid(name) {
            pg_sys::InvalidOid => raw::TypeNameToString(name),
            oid => raw::format_type_be_qualified(oid),
        };
        found().name.extend_from_slice(raw::bytes(text));
    }
}

/// Adds a relation that the statement names to the list, if it exists. `None` where it doesn't. The
/// name being written is not touched.
pub unsafe fn relation(
    schema: *const c_char,
    name: *const c_char,
) -> Option<&'static names::Relation> {
    unsafe {
        let relid = lookup::relation(schema, name);
        if relid == pg_sys::InvalidOid {
            return None;
        }
        names::learn_relation(relid);
        let relation = names::relation(relid)?;
        let found = found();
        if found.relations.is_empty() {
            found.first_kind = relation.kind;
        }
        found.relids.push(relid);
        found.relations.extend_from_slice(&relation.name);
        found.relations.push(0);
        Some(relation)
    }
}

/// Adds a relation to the list and writes its name, or what was typed.
pub unsafe fn relation_name(schema: *const c_char, name: *const c_char) {
    unsafe {
        match relation(schema, name) {
            Some(relation) => found().name.extend_from_slice(&relation.name),
            None => dotted(schema, name),
        }
    }
}
