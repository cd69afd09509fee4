//! Transactions: what their end decides for the events before it.
//!
//! Callbacks of the commit run where an ERROR would be a PANIC: they call nothing that throws.

use audit_core::event::Fate;
use core::ffi::c_void;
use core::hint::cold_path;
use pgrx::pg_sys;

use super::engine::{TOP_SUBXACT, engine_as_it_is, with, with_as_it_is};
use super::{apply, capture, checks, emit, guard_utility, session as sessions};
use crate::pg::{asks, durability, home, raw, session, slot, unlock};

/// Registers the callbacks; children of the postmaster inherit them.
///
/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        raw::RegisterXactCallback(Some(transaction), core::ptr::null_mut());
        raw::RegisterSubXactCallback(Some(subtransaction), core::ptr::null_mut());
    }
}

#[unsafe(link_section = "audit_first")]
unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    let commits = event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_COMMIT;
    // See `Engine::stir`: in calm, where no query waits for the commit either, that decides about nothing. But
    // something may have been pushed without a frame (a setting), or by an earlier transaction.
    if commits && asks::for_no_end() && !engine_as_it_is().lone.is_there() {
        return;
    }
    unsafe { ended_or_ending(event) };
}

#[inline(never)]
#[unsafe(link_section = "audit_hot")]
unsafe fn ended_or_ending(event: pg_sys::XactEvent::Type) {
    use pg_sys::XactEvent::*;
    // One by one, as the commonest need no table of jumps then.
    if event == XACT_EVENT_PRE_COMMIT {
        unsafe {
            before_commit();
            about_to_commit(true);
        }
    } else if event == XACT_EVENT_COMMIT {
        home::committed();
        apply::ended(Fate::Committed);
        end(Fate::Committed);
    } else {
        unsafe { rare(event) };
    }
}

/// What is not a commit. Throws before a PREPARE.
#[cold]
#[inline(never)]
unsafe fn rare(event: pg_sys::XactEvent::Type) {
    use pg_sys::XactEvent::*;
    match event {
        // PREPARE TRANSACTION is told once it is done, as its event says what it prepared.
        XACT_EVENT_PRE_PREPARE => unsafe {
            home::about_to_prepare();
            apply::before_commit();
            about_to_commit(false);
        },
        // A parallel worker's part of it: what it ran has read, and its leader's end is not told here.
        XACT_EVENT_PARALLEL_COMMIT => end_rarely(Fate::Committed),
        XACT_EVENT_PARALLEL_ABORT => {
            aborted(TOP_SUBXACT);
            end_rarely(Fate::RolledBack);
        }
        XACT_EVENT_ABORT => {
            home::aborted();
            aborted(TOP_SUBXACT);
            apply::ended(Fate::RolledBack);
            end_rarely(Fate::RolledBack);
        }
        XACT_EVENT_PREPARE => {
            apply::ended(Fate::Prepared);
            end_rarely(Fate::Prepared);
        }
        _ => {}
    }
}

#[inline(never)]
fn end_rarely(fate: Fate) {
    end(fate);
}

/// The first commit of a session is that of its start-up: role and database settings are loaded,
/// catalogs can still be read. Throws.
#[unsafe(link_section = "audit_session")]
unsafe fn before_commit() {
    if !session::known() && capture::on() {
        cold_path();
        unsafe { sessions::connected() };
    } else {
        unsafe { apply::before_commit() };
    }
}

/// No end of a statement was seen: what was noted for its time is over.
fn aborted(subxact: u32) {
    home::reattach();
    guard_utility::aborted(subxact);
    unlock::aborted();
}

/// From here on the transaction may turn out to be committed even if nobody is left to say so: the
/// slot gets the id by which that can be looked up. With `audit.durability = commit` its records are
/// on disk when this returns. Throws: the transaction is then aborted.
#[inline(always)]
unsafe fn about_to_commit(send_held: bool) {
    unsafe {
        let xid = raw::GetTopFullTransactionIdIfAny().value;
        if xid == 0 {
            return; // Nor has the slot one: the end of each transaction takes it away.
        }
        home::about_to_commit();
        slot::keep_transaction(xid);
        if durability::on_commit() {
            if capture::on_quietly() && session::known() {
                make_durable(send_held, xid);
            } else {
                unrecorded();
            }
        }
    }
}

/// Throws.
#[inline(never)]
unsafe fn make_durable(send_held: bool, xid: u64) {
    with(|engine| {
        checks::flush(engine);
        if send_held {
            engine.send_held();
        }
        // What was rolled back to a savepoint is known, so far, to this process and its slot, which
        // is not synced. Told later, it could be lost with the operating system, and would then count
        // as committed.
        if engine.fates.has_pending() {
            emit::fate_event(engine);
        }
        slot::keep_commit(engine.fates.undecided_from(), xid);
    });
    unsafe { durability::ensure(false) };
}

/// A transaction of which there is no record, as the server has no ring: not with
/// `audit.durability = commit`. Throws.
#[cold]
unsafe fn unrecorded() {
    unsafe {
        if capture::wants_ring() {
            durability::refuse_without_ring();
        }
    }
}

#[inline(always)]
fn end(fate: Fate) {
    let engine = engine_as_it_is();
    engine.subxact = TOP_SUBXACT;
    if engine.is_stirred() {
        end_stirred(fate);
    } else {
        end_calm(fate);
    }
}

/// A transaction ends of which anything may be known.
#[inline(never)]
#[unsafe(link_section = "audit_hot")]
fn end_stirred(fate: Fate) {
    let engine = engine_as_it_is();
    if !engine.is_at_rest() || engine.fates.has_pending() {
        end_known(fate);
    } else {
        end_calm(fate);
    }
    engine_as_it_is().settle(fate);
}

/// A transaction ends of which nothing is known, but perhaps the lone query.
#[inline]
fn end_calm(fate: Fate) {
    if engine_as_it_is().lone.is_there() {
        end_lone(fate);
    } else {
        slot::keep_transaction(0);
    }
}

/// As [`end_calm`], where there is one.
#[inline(never)]
#[unsafe(link_section = "audit_hot")]
fn end_lone(fate: Fate) {
    if engine_as_it_is().lone.waits() && fate == Fate::Committed {
        with_as_it_is(|engine| engine.send_repeat(fate));
        slot::keep_transaction(0);
    } else {
        end_known(fate);
    }
}

/// A transaction ends of which something is known.
#[inline(never)]
#[unsafe(link_section = "audit_session")]
fn end_known(fate: Fate) {
    if capture::follows() && session::known() {
        with(|engine| engine.end_transaction(fate));
    } else {
        slot::keep_transaction(0);
    }
}

unsafe extern "C-unwind" fn subtransaction(
    event: pg_sys::SubXactEvent::Type,
    id: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    use pg_sys::SubXactEvent::*;
    match event {
        SUBXACT_EVENT_START_SUB => {
            engine_as_it_is().stir();
            engine_as_it_is().subxact = id;
        }
        SUBXACT_EVENT_COMMIT_SUB | SUBXACT_EVENT_ABORT_SUB => engine_as_it_is().subxact = parent,
        _ => {}
    }
    if event == SUBXACT_EVENT_ABORT_SUB {
        aborted(id);
    }
    if !capture::follows() {
        if event == SUBXACT_EVENT_START_SUB {
            engine_as_it_is().fates.start_unheard(id);
        }
        return;
    }
    // What ran in the subtransaction around shall not share its fate.
    with(|engine| {
        checks::flush(engine);
        match event {
            SUBXACT_EVENT_START_SUB => engine.fates.start_sub(id),
            SUBXACT_EVENT_COMMIT_SUB => engine.fates.commit_sub(id),
            SUBXACT_EVENT_ABORT_SUB => engine.abort_sub(id),
            _ => {}
        }
    });
}
