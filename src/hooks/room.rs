//! A ring that is nearly full (spec/delivery.md, "Full ring"): a statement that starts waits, is
//! refused, or goes on, as `audit.on_full` says. The last quarter is for the ends of statements that
//! were let in.

use audit_core::ring::{Limit, Ring};
use core::hint::cold_path;
use core::sync::atomic::Ordering;
use pgrx::pg_sys;

use crate::pg::guc::{self, OnFull};
use crate::pg::shared::{Shared, shared};
use crate::pg::{compat, raw, report, ring_file};

/// Longest pause between two looks at the ring, in microseconds.
const LOOK_EVERY: i64 = 10_000;

/// Whether [`wait_for`] has nothing to look at. Never throws.
#[inline]
pub fn is_there() -> bool {
    shared().is_none_or(|shared| {
        shared.crowded.load(Ordering::Relaxed) | shared.trail_full.load(Ordering::Relaxed) == 0
    })
}

/// Acts on a ring that is nearly full; `exempt` is asked only then. Throws (the refusal; a cancel
/// while waiting).
///
/// # Safety
/// Where a statement may fail: before it has begun.
#[inline]
pub unsafe fn wait_for(exempt: impl Fn() -> bool) {
    let Some(shared) = shared() else { return };
    if shared.crowded.load(Ordering::Relaxed) != 0 {
        cold_path();
        if let Some(ring) = ring_file::ring()
            && ring.is_filled_to(Limit::ThreeQuarters)
        {
            unsafe {
                let overflow = overflow(shared, ring);
                if !exempt() {
                    nearly_full(shared, ring, overflow);
                }
            }
        }
    }
    if shared.trail_full.load(Ordering::Relaxed) != 0 {
        cold_path();
        if !exempt() {
            unsafe { trail_full() };
        }
    }
}

/// To be called after a push: tells those who start statements to look at the ring. Never throws.
#[inline]
pub fn pushed(shared: &Shared, fill: u64, capacity: u64) {
    if fill >= Limit::ThreeQuarters.of(capacity) {
        cold_path();
        if shared.crowded.load(Ordering::Relaxed) == 0 {
            shared.crowded.store(1, Ordering::Relaxed);
        }
    }
}

/// Superusers are let through: somebody has to be able to change the setting, and what they do is
/// recorded all the same. Throws.
#[cold]
unsafe fn trail_full() {
    unsafe {
        if raw::IsTransactionState()
            && !raw::IsAbortedTransactionBlockState()
            && !raw::superuser_arg(raw::GetUserId())
        {
            report::trail_full();
        }
    }
}

/// The overflow that is under way, of which is warned once. Throws as any report may.
unsafe fn overflow(shared: &Shared, ring: &Ring) -> u32 {
    let (number, begins) = shared.overflow();
    if begins {
        unsafe { report::ring_nearly_full(ring.fill(), ring.capacity()) };
    }
    number
}

#[cold]
unsafe fn nearly_full(shared: &Shared, ring: &Ring, overflow: u32) {
    /// In which this session has waited in vain.
    static mut GAVE_UP_IN: u32 = 0;
    unsafe {
        shared.set_worker_latch();
        match guc::on_full() {
            OnFull::Drop => return,
            OnFull::Refuse => report::ring_full(),
            // One wait per overflow: who has waited in vain doesn't wait again until it is over.
            OnFull::Wait if GAVE_UP_IN == overflow => return,
            OnFull::Wait => {}
        }
        let until = raw::GetCurrentTimestamp() + guc::full_timeout_ms() as i64 * 1000;
        while ring.is_filled_to(Limit::ThreeQuarters) {
            if raw::GetCurrentTimestamp() >= until {
                GAVE_UP_IN = overflow;
                return;
            }
            shared.remind_postmaster();
            raw::pg_usleep(LOOK_EVERY);
            if pg_sys::InterruptPending != 0 {
                raw::ProcessInterrupts();
            }
        }
    }
}

/// Whether a query looks at the trail's own state or data, which must be possible however full the
/// ring is: it names a relation of schema audit first, or calls a function of it, as a column or in FROM. (Who may
/// read those is no stranger to the trail.) Throws (catalog look-ups).
///
/// # Safety
/// `stmt` is a valid planned statement.
pub unsafe fn is_about_audit(stmt: *const pg_sys::PlannedStmt) -> bool {
    unsafe {
        if (*stmt).commandType != pg_sys::CmdType::CMD_SELECT {
            return false;
        }
        let audit = raw::get_namespace_oid(c"audit".as_ptr(), true);
        if audit == pg_sys::InvalidOid {
            return false;
        }
        let mut first = pg_sys::InvalidOid;
        compat::for_each_used_relation(stmt, |relid, _| {
            if first == pg_sys::InvalidOid {
                first = relid;
            }
        });
        if first != pg_sys::InvalidOid {
            return raw::get_rel_namespace(first) == audit;
        }
        let mut found = false;
        let mut look = |expression: *mut pg_sys::Node| {
            if !expression.is_null() && (*expression).type_ == pg_sys::NodeTag::T_FuncExpr {
                let function = (*expression.cast::<pg_sys::FuncExpr>()).funcid;
                found |= raw::get_func_namespace(function) == audit;
            }
        };
        let mut plan = (*stmt).planTree;
        if !plan.is_null() {
            compat::for_each_pointer((*plan).targetlist, |target: *mut pg_sys::TargetEntry| {
                look((*target).expr.cast());
            });
        }
        // What is first in FROM, below what sorts or counts it. (The list of relations has lost its functions.)
        while !plan.is_null() {
            if (*plan).type_ == pg_sys::NodeTag::T_FunctionScan {
                let functions = (*plan.cast::<pg_sys::FunctionScan>()).functions;
                compat::for_each_pointer(functions, |one: *mut pg_sys::RangeTblFunction| {
                    look((*one).funcexpr);
                });
            }
            plan = (*plan).lefttree;
        }
        found
    }
}
