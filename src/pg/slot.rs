//! This session's in-flight slot (audit_core::slot): what it is doing, written down before it is
//! done, so that it survives the session.
//!
//! Nothing here throws, waits, or takes a lock. Without a slot (none was free) everything does
//! nothing: the session is recorded, but what it had under way is not if it is killed.

use audit_core::codec::{decode_session, encode_session};
use audit_core::event::{Class, Classes, Session};
use audit_core::fate::{FateTracker, MOST_BYTES};
use audit_core::slot::{Begun, ENTRIES, SESSION_ROOM, Slot, Statement};
use core::hint::cold_path;
use core::sync::atomic::Ordering;
use pgrx::pg_sys;

use super::{guc, ring_file, session, shared};

/// What this process knows of its slot. One thread.
struct Mine {
    slot: Slot,
    /// Bit i: entry i is in use.
    used: u8,
    /// What the entries hold, by the caller's number; 0 where that has none.
    contents: [u32; ENTRIES],
    /// [`session::version`] of what the slot holds.
    version: u32,
    /// Bytes of decisions in it.
    decisions: usize,
}

#[unsafe(link_section = "audit_data")]
static mut MINE: Option<Mine> = None;
/// Whether the slot has a transaction's id.
#[unsafe(link_section = "audit_data")]
static mut HAS_XID: bool = false;
/// [`MINE`] of a session that has given up: see [`freeze`].
static mut FROZEN: Option<Mine> = None;

#[inline]
fn mine() -> Option<&'static mut Mine> {
    // SAFETY: one thread; no reference is kept across calls of this module.
    unsafe { (*(&raw mut MINE)).as_mut() }
}

/// Takes a slot for this session, once.
#[unsafe(link_section = "audit_session")]
pub fn claim() {
    let Some(ring) = ring_file::ring() else {
        return;
    };
    // SAFETY: plain globals of this process.
    let (pid, started_at) = unsafe { (pg_sys::MyProcPid as u32, pg_sys::MyStartTimestamp) };
    match ring.slots().claim(pid, started_at) {
        Some(slot) => unsafe {
            MINE = Some(Mine {
                slot,
                used: 0,
                contents: [0; ENTRIES],
                version: u32::MAX,
                decisions: 0,
            });
        },
        None => {
            if let Some(shared) = shared::shared() {
                shared.unprotected.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    keep_session();
}

/// The session has ended in order: everything of it is in the ring.
#[unsafe(link_section = "audit_session")]
pub fn release() {
    // SAFETY: as for `mine`.
    let mine = unsafe { (*(&raw mut MINE)).take().or((*(&raw mut FROZEN)).take()) };
    if let Some(mine) = mine {
        mine.slot.release();
    }
}

/// This session captures no more. What its slot says of the last transaction stays: that of another one
/// would decide about its events.
pub fn freeze() {
    // SAFETY: as for `mine`.
    unsafe { FROZEN = (*(&raw mut MINE)).take() };
}

/// Keeps the session's attributes where they have changed since it was looked at them last, which was
/// when the statement began.
#[inline]
fn keep_session() {
    if let Some(mine) = mine()
        && mine.version != session::version()
    {
        keep_changed_session(mine);
    }
}

#[cold]
#[unsafe(link_section = "audit_session")]
fn keep_changed_session(mine: &mut Mine) {
    let encoded = session::encoded();
    mine.version = session::version();
    if encoded.len() <= SESSION_ROOM {
        mine.slot.set_session(encoded);
    } else {
        keep_short_session(mine, encoded);
    }
}

/// The application's context may be of any length: who it was is kept without it.
#[cold]
fn keep_short_session(mine: &Mine, encoded: &[u8]) {
    let Ok(session) = decode_session(encoded) else {
        return;
    };
    let mut short = Vec::with_capacity(SESSION_ROOM);
    encode_session(
        &Session {
            context: None,
            ..session
        },
        &mut short,
    );
    mine.slot.set_session(&short);
}

/// The entry that has held this before, and is free; `None`: there is none, and [`open`] is to be called.
/// `content` is not 0 and stands for all of a statement but what is in [`Begun`]. The result is for
/// [`reopen`].
#[inline(always)]
pub fn entry_of(content: u32) -> Option<u8> {
    let mine = mine()?;
    let at = mine.contents.iter().position(|held| *held == content)?;
    if mine.used >> at & 1 != 0 {
        cold_path();
        return None;
    }
    Some(at as u8)
}

/// A statement that will be recorded begins, of which this entry holds all but what is in `begun`. From here
/// on the entry is for [`finish`] and [`close`].
#[inline(always)]
pub fn reopen(entry: u8, begun: &Begun) {
    keep_session();
    if let Some(mine) = mine() {
        mine.used |= 1 << entry;
        mine.slot.reopen(entry.into(), begun, wants_session());
    }
}

/// Whether the end of the session is to be recorded.
#[inline]
fn wants_session() -> bool {
    guc::level().records(Classes::of(Class::Session), false)
}

/// A statement that will be recorded begins; `content` as for [`entry_of`], where it has one. `None`: more
/// statements are under way than a slot holds.
#[unsafe(link_section = "audit_session")]
pub fn open(content: Option<u32>, statement: &Statement) -> Option<u8> {
    keep_session();
    let mine = mine()?;
    let content = content.unwrap_or(0);
    // A free entry that holds nothing to come back to, if there is one.
    let free = |at: &usize| mine.used >> at & 1 == 0;
    let at = (0..ENTRIES)
        .find(|at| free(at) && mine.contents[*at] == 0)
        .or_else(|| (0..ENTRIES).find(free))?;
    mine.used |= 1 << at;
    mine.contents[at] = content;
    mine.slot.open(at, statement, wants_session());
    Some(at as u8)
}

/// The statement has ended well, and waits for its transaction's end.
#[inline]
pub fn finish(entry: u8, duration: i64, rows: i64) {
    if let Some(mine) = mine() {
        mine.slot.finish(entry.into(), duration, rows);
    }
}

/// The statement's record is in the ring, or there is none.
#[inline]
pub fn close(entry: u8) {
    if let Some(mine) = mine() {
        mine.used &= !(1 << entry);
        mine.slot.close(entry.into());
    }
}

/// Event `event_no` is about to be pushed.
#[inline]
pub fn begin_push(event_no: u64, undecided_from: u64, started_at: i64) {
    if let Some(mine) = mine() {
        mine.slot.begin_push(event_no, undecided_from, started_at);
    }
}

/// It is in the ring, or counted as dropped.
#[inline]
pub fn end_push() {
    if let Some(mine) = mine() {
        mine.slot.end_push();
    }
}

/// Keeps what the tracker knows: to be called after what changes it, and before the next push.
#[inline]
pub fn keep_fates(fates: &FateTracker) {
    let Some(mine) = mine() else { return };
    // Decisions first: while both are there they agree.
    if fates.has_pending() || mine.decisions > 0 {
        keep_decisions(mine, fates);
    }
    mine.slot.set_undecided(fates.undecided_from());
}

#[cold]
#[inline(never)]
fn keep_decisions(mine: &mut Mine, fates: &FateTracker) {
    let mut encoded = [0; MOST_BYTES];
    mine.decisions = fates.write_pending(&mut encoded);
    mine.slot.set_decisions(&encoded[..mine.decisions]);
}

/// The transaction's events were sent ahead of its commit as `xid`.
pub fn keep_commit(undecided_from: u64, xid: u64) {
    if let Some(mine) = mine()
        && undecided_from != 0
    {
        mine.slot
            .add_commit(undecided_from, mine.slot.last_event(), xid);
    }
}

/// The transaction is about to commit, or to be prepared, as `xid`; 0: it has ended.
#[inline]
pub fn keep_transaction(xid: u64) {
    // SAFETY: as for `mine`.
    if xid == 0 && !unsafe { HAS_XID } {
        return;
    }
    if let Some(mine) = mine() {
        mine.slot.set_xid(xid);
        unsafe { HAS_XID = xid != 0 };
    }
}
