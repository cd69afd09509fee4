//! Events of the worker itself (class AUDIT), encoded as a backend would encode them, so that they
//! take the same way into the trail.

use super::provenance::describe;
use super::publish::key_statement;
use super::retention;
use crate::pg::trail::origin::Origin;
use crate::pg::witness::{LastStop, Stop};
use audit_core::calendar::rfc3339;
use audit_core::codec::{Encoded, ShapeWriter, encode_session};
use audit_core::event::{Class, Classes, Numbers, Session, Timestamp};
use audit_core::json::{Object, hex};
use audit_core::note::{Signing, Verifying};
use audit_core::ring::Dropped;
use pgrx::pg_sys;

/// Makes the worker's events.
pub struct OwnEvents {
    session: Vec<u8>,
    shape: Vec<u8>,
    payload: Vec<u8>,
}

impl OwnEvents {
    /// Connected to the home, whose name is `home`.
    pub fn new(home: &[u8], encoding: u8) -> Self {
        let mut session = Vec::new();
        encode_session(
            &Session {
                started_at: unsafe { pg_sys::MyStartTimestamp },
                pid: std::process::id(),
                encoding,
                database_name: Some(home),
                backend_type: Some(super::NAME.to_bytes()),
                ..Session::default()
            },
            &mut session,
        );
        OwnEvents {
            session,
            shape: Vec::new(),
            payload: Vec::new(),
        }
    }

    fn event(&mut self, command: &str, details: Object) -> &[u8] {
        ShapeWriter::new(
            &mut self.shape,
            Classes::of(Class::Audit),
            0,
            command.as_bytes(),
            None,
        );
        let numbers = Numbers {
            started_at: super::now(),
            ..Numbers::default()
        };
        let details = details.finish();
        let encoded = Encoded::new(
            &numbers,
            [
                Some(&self.session),
                Some(&self.shape),
                None,
                None,
                None,
                None,
                Some(&details),
                None,
                None,
            ],
        );
        self.payload.clear();
        for part in encoded.parts() {
            self.payload.extend_from_slice(part);
        }
        &self.payload
    }

    /// An event that audit.origin keeps a copy of.
    pub fn landmark(&mut self, command: &str, details: Object) -> &[u8] {
        self.event(command, details)
    }

    /// A key that signs from now on, and the one that vouches for it.
    pub fn key(&mut self, key: &Verifying, previous: Option<&Signing>) -> &[u8] {
        let mut details = Object::new();
        details.text("key", key.text().as_bytes());
        if let Some(previous) = previous {
            let signature = previous.sign_bytes(key_statement(key).as_bytes());
            details
                .text("previous", previous.public().text().as_bytes())
                .text("signature", hex(&signature).as_bytes());
        }
        self.event("KEY", details)
    }

    /// The worker begins to fill the trail. `last_stop`: where this is the first time since server start.
    pub fn start(
        &mut self,
        ring_id: &[u8],
        position: u64,
        leftover_rings: usize,
        last_stop: Option<&Stop>,
    ) -> &[u8] {
        let mut details = describe(&Origin::here());
        details
            .text("server_version", pg_sys::PG_VERSION.to_bytes())
            .text("version", env!("CARGO_PKG_VERSION").as_bytes())
            .text("ring", hex(ring_id).as_bytes())
            .number("position", position)
            .number("leftover_rings", leftover_rings);
        if let Some(stop) = last_stop {
            tell_last_stop(&mut details, stop);
        }
        self.event("START", details)
    }

    /// The worker ends as it was asked to: what comes later waits in the ring.
    pub fn stop(&mut self, ring_id: &[u8], position: u64) -> &[u8] {
        let mut details = Object::new();
        details
            .text("ring", hex(ring_id).as_bytes())
            .number("position", position);
        self.event("STOP", details)
    }

    /// The clock was set back, from some time after the first to the second.
    pub fn clock(&mut self, from: Timestamp, to: Timestamp) -> &[u8] {
        let mut details = Object::new();
        details
            .text("reason", b"the clock was set back")
            .text("from", rfc3339(from).as_bytes())
            .text("to", rfc3339(to).as_bytes())
            .number("seconds", (from - to) / 1_000_000);
        self.event("CLOCK", details)
    }

    /// A period was dropped.
    pub fn retention(&mut self, dropped: &retention::Dropped) -> &[u8] {
        let mut details = Object::new();
        details
            .text("reason", dropped.reason.as_bytes())
            .text("from", rfc3339(dropped.starts_at).as_bytes())
            .text("to", rfc3339(dropped.ends_at).as_bytes())
            .number("events", dropped.events)
            .number("size", dropped.size);
        if let Some((first, last)) = dropped.first_seq.zip(dropped.last_seq) {
            details.number("first_seq", first).number("last_seq", last);
        }
        self.event("RETENTION", details)
    }

    /// Bytes of a ring that hold no readable record. How many events they were isn't known: the
    /// holes in event_no tell.
    pub fn unreadable(&mut self, ring_id: &[u8], from: u64, to: u64, reason: &str) -> &[u8] {
        let mut details = Object::new();
        details
            .text("reason", reason.as_bytes())
            .text("ring", hex(ring_id).as_bytes())
            .number("from", from)
            .number("to", to);
        self.event("GAP", details)
    }

    /// Events that found no room in the ring.
    pub fn dropped(&mut self, ring_id: &[u8], dropped: &Dropped) -> &[u8] {
        let mut details = Object::new();
        details
            .text("reason", b"the ring was full")
            .text("ring", hex(ring_id).as_bytes())
            .number("count", dropped.count)
            .text("first", rfc3339(dropped.first).as_bytes())
            .text("last", rfc3339(dropped.last).as_bytes());
        self.event("GAP", details)
    }
}

/// How the server had stopped before it started.
fn tell_last_stop(details: &mut Object, stop: &Stop) {
    let lsn = |at: u64| format!("{:X}/{:X}", at >> 32, at as u32);
    if stop.to != 0 {
        details.begin_object("wal_without_library");
        if stop.from != 0 {
            details.text("from", lsn(stop.from).as_bytes());
        }
        details.text("to", lsn(stop.to).as_bytes());
        details.end_object();
    }
    let how = match stop.last_stop {
        LastStop::Clean => "clean",
        LastStop::Crash => "crash",
        LastStop::Unwatched => "without the library",
    };
    details.text("last_stop", how.as_bytes());
}
