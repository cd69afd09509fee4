//! Logical apply: one WRITE event `APPLY` per remote transaction (spec/capture.md, rule 1). The worker
//! changes tables without the executor, so no hook sees it; what a transaction has changed is read
//! from the server's own counters (pg_stat_xact_*) when it commits. Without track_counts, and on 14,
//! relations and rows aren't known.

use audit_core::event::{Class, Classes, Fate};
use core::ffi::c_void;
use pgrx::pg_sys;

use super::engine::{Engine, Id, engine, with};
use super::frame::Frame;
use super::{begin, capture, emit};
use crate::pg::{compat, durability, guc, names, near, raw, session};

pub const COMMAND: &[u8] = b"APPLY";
pub const CLASSES: Classes = Classes::of(Class::Write);

unsafe extern "C" {
    /// worker_internal.h
    static mut MyLogicalRepWorker: *const c_void;
    /// worker_internal.h; struct Subscription begins with its OID.
    static mut MySubscription: *const pg_sys::Oid;
}

/// The event of the transaction that commits, and the LSN of the last one.
#[unsafe(link_section = "audit_data")]
static mut READY: Option<Id> = None;
static mut LAST: u64 = 0;

/// Whether this process applies changes of a subscription, or copies its tables at first. Never throws.
#[inline]
pub fn is_worker() -> bool {
    unsafe {
        pg_sys::MyBackendType == pg_sys::BackendType::B_BG_WORKER && !MyLogicalRepWorker.is_null()
    }
}

/// The name of the subscription; NULL before it is known. Throws.
unsafe fn subscription() -> *const core::ffi::c_char {
    unsafe {
        if MySubscription.is_null() {
            return core::ptr::null();
        }
        raw::get_subscription_name(*MySubscription, true)
    }
}

/// A transaction is about to commit, or to be prepared: takes down what it has changed. Throws.
///
/// # Safety
/// From the callback, where catalogs can be read.
#[inline]
pub unsafe fn before_commit() {
    if near::MyBackendType() == pg_sys::BackendType::B_BG_WORKER {
        unsafe { take_down() };
    }
}

#[cold]
#[inline(never)]
unsafe fn take_down() {
    unsafe {
        if !is_worker() || !session::known() || !capture::on() {
            return;
        }
        if !guc::level().records(CLASSES, false) {
            return;
        }
        begin::session();
        let lsn = pg_sys::replorigin_session_origin_lsn;
        let mut any = false;
        let known = compat::for_each_written(|relid, _| {
            names::learn_relation(relid);
            any |= names::relation(relid).is_some_and(|relation| !relation.catalog);
        });
        let remote = lsn != LAST && raw::GetTopFullTransactionIdIfAny().value != 0;
        if !(any || (!known && remote)) {
            return;
        }
        let name = subscription();
        with(|engine| {
            engine.statement_id += 1;
            let statement_id = engine.statement_id;
            let id = engine.take_frame();
            describe(engine.frame(id), statement_id, name, lsn);
            if durability::on_commit() {
                // On disk before the commit: its fate follows.
                send(engine, id, Fate::Open);
            } else {
                READY = Some(id);
            }
        });
        LAST = lsn;
    }
}

unsafe fn describe(
    frame: &mut Frame,
    statement_id: u64,
    subscription: *const core::ffi::c_char,
    lsn: u64,
) {
    unsafe {
        frame.level = guc::level();
        frame.classes = CLASSES;
        frame.captured = true;
        frame.command.extend_from_slice(COMMAND);
        frame.session.extend_from_slice(session::encoded());
        frame.numbers.statement_id = statement_id;
        frame.numbers.substatement_id = 1;
        frame.numbers.started_at = raw::GetCurrentTransactionStartTimestamp();
        compat::for_each_written(|relid, rows| {
            let Some(relation) = names::relation(relid).filter(|found| !found.catalog) else {
                return;
            };
            frame.add_relation(&relation.name);
            frame.numbers.rows = frame.numbers.rows.max(0) + rows;
            frame.object_type = relation.kind;
        });
        let mut all = frame.relations.split(|b| *b == 0).filter(|r| !r.is_empty());
        match (all.next(), all.next()) {
            (Some(only), None) => frame.object_name.extend_from_slice(only),
            _ => frame.object_type = "",
        }
        if !subscription.is_null() {
            frame.details.text("subscription", raw::bytes(subscription));
        }
        // Without one it is the copy that a subscription begins with.
        if lsn != 0 {
            let text = format!("{:X}/{:X}", lsn >> 32, lsn as u32);
            frame.details.text("lsn", text.as_bytes());
        }
    }
}

/// The transaction has ended. Never throws.
#[inline]
pub fn ended(fate: Fate) {
    // SAFETY: one thread.
    if unsafe { (*(&raw const READY)).is_some() } {
        send_ready(fate);
    }
}

#[cold]
#[inline(never)]
fn send_ready(fate: Fate) {
    // SAFETY: one thread.
    if let Some(id) = unsafe { (*(&raw mut READY)).take() } {
        with(|engine| {
            if fate == Fate::RolledBack {
                engine.give_back(id);
            } else {
                send(engine, id, fate);
            }
        });
    }
}

/// Sends the event; one with an open fate has it told later. Never throws.
fn send(engine: &mut Engine, id: Id, fate: Fate) {
    // SAFETY: they read the clock and this process's own state.
    let (now, xid) = unsafe {
        (
            raw::GetCurrentTimestamp(),
            raw::GetTopFullTransactionIdIfAny().value,
        )
    };
    let frame = engine.frame(id);
    frame.numbers.duration = (now - frame.numbers.started_at).max(0);
    frame.numbers.transaction_id = xid;
    emit::push(engine, id, fate, fate == Fate::Open);
    engine.give_back(id);
}

/// Whether an error is that of applying a remote transaction. Never throws.
pub fn is_failing() -> bool {
    is_worker() && session::known() && engine().running.is_empty()
}
