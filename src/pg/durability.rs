//! `audit.durability = commit`: no transaction that writes commits before its records are on disk.
//!
//! Before the commit record is written the backend has its records in the ring's file synced. The file
//! was written in full and synced when it was made, so that no metadata is needed to find them. One
//! backend syncs for all that wait: a sync counts for those who came before it *began*, as their
//! records were complete then.
//!
//! # What a sync is of
//!
//! The first one since shared memory was made is of the whole file: its header says what it is, and
//! where the next run's transaction ids begin. Each later one is of records alone:
//! * from where the last one ended, so that no hole is left before the records that somebody waits for;
//! * or from the first record that somebody asks for, where that is before it: it was reserved before
//!   the last sync and published after it, or belongs to a session that had not asked before;
//! * never from before the tail: those records are in the trail, which is on disk, and nothing that
//!   is not refers to them;
//! * to the head: whoever asked has moved it over his records before.
//!
//! Whoever waits says from where (`asked`), then reads the number of the last sync that began, and
//! waits for the next one after it. The leader counts its sync as begun, then takes what was asked
//! for. So a sync covers all who wait for it: they had asked before it was counted, and it took that
//! itself; or between the two of the sync before, which then took it, and is why `asked_before` is
//! asked for once more.
//!
//! Those who wait for a sync sleep apart from those who wait for the next: the one wakes all of the
//! former, and one of the latter, to lead.
//!
//! A sync that fails may not be repeated: the kernel reports a lost page once and then forgets it.
//! So from the first failure on every commit that needs a sync is refused, until the server has a
//! new ring (a restart).

use audit_core::ring::Ring;
use core::ffi::{c_int, c_void};
use core::ops::Range;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering, fence};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

use super::guc::{self, EnumOptions};
use super::{asks, compat, raw, ring_file, shared};

const ASYNC: c_int = 0;
const COMMIT: c_int = 1;

#[unsafe(link_section = "audit_data")]
static mut DURABILITY: c_int = ASYNC;
static OPTIONS: EnumOptions<3> = EnumOptions([
    guc::entry(c"async", ASYNC),
    guc::entry(c"commit", COMMIT),
    guc::END,
]);

/// Where the last record ends that this backend has pushed and not yet had synced; 0 for none. And
/// where the first one begins.
#[unsafe(link_section = "audit_data")]
static mut UNSYNCED: u64 = 0;
#[unsafe(link_section = "audit_data")]
static mut UNSYNCED_FROM: u64 = 0;
/// The transaction of which a record found no room in the ring, by its number in this process; 0: none.
static mut DROPPED_IN: u32 = 0;

/// What backends share about syncing the ring's file.
#[repr(C)]
pub struct Syncs {
    /// Number of the last sync that began, and of the last that ended well.
    begun: AtomicU64,
    ended: AtomicU64,
    /// The first position that somebody asks for, counted down from the largest one: 0 is nobody.
    asked: AtomicU64,
    /// Of the last sync: the same, and where it ended. Of the leader alone, whoever that is.
    asked_before: AtomicU64,
    synced_to: AtomicU64,
    /// Process that syncs; 0 for none.
    leader: AtomicI32,
    /// The errno of the first sync that failed; 0: none has.
    failed: AtomicI32,
    /// Who waits for a sync of even number, and of odd number: never for more than two at a time.
    waits: [pg_sys::ConditionVariable; 2],
}

/// Milliseconds. Whoever was woken to lead may have been cancelled instead, and from 17 on the server
/// doesn't pass that on: the others look by themselves after this time.
const LOOK: core::ffi::c_long = 20;

impl Syncs {
    /// # Safety
    /// In zeroed shared memory, before anybody uses it.
    pub unsafe fn init(this: *mut Syncs) {
        unsafe {
            raw::ConditionVariableInit(&raw mut (*this).waits[0]);
            raw::ConditionVariableInit(&raw mut (*this).waits[1]);
        }
    }

    /// Where those wait who need the sync of this number.
    fn waits(&self, number: u64) -> *mut pg_sys::ConditionVariable {
        (&raw const self.waits[(number & 1) as usize]).cast_mut()
    }

    /// The sync of this number has ended, well or not. Never throws.
    unsafe fn wake(&self, number: u64) {
        unsafe {
            raw::ConditionVariableBroadcast(self.waits(number));
            if self.failed.load(Ordering::Relaxed) == 0 {
                raw::ConditionVariableSignal(self.waits(number + 1));
            } else {
                raw::ConditionVariableBroadcast(self.waits(number + 1));
            }
        }
    }

    /// What the leader has to sync (see above), after it has counted the sync as begun. That it counts as
    /// done already harms nobody: where the sync fails no other comes after it, and a leader that dies
    /// takes all of shared memory with it.
    fn take(&self, ring: &Ring) -> Range<u64> {
        let asked = self.asked.swap(0, Ordering::SeqCst);
        let first = asked.max(self.asked_before.swap(asked, Ordering::Relaxed));
        // The tail first: it is never behind the head that is read after it.
        let tail = ring.tail();
        let end = ring.head();
        let from = self.synced_to.swap(end, Ordering::Relaxed);
        from.min(u64::MAX - first).max(tail)..end
    }
}

/// Defines the setting. Throws.
///
/// # Safety
/// From `_PG_init` only.
pub unsafe fn define() {
    unsafe {
        raw::DefineCustomEnumVariable(
            c"audit.durability".as_ptr(),
            c"Whether a transaction's records are on disk before it commits.".as_ptr(),
            c"\"commit\" syncs the ring's file before each commit of a transaction that writes."
                .as_ptr(),
            &raw mut DURABILITY,
            ASYNC,
            OPTIONS.0.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            0,
            None,
            Some(assigned),
            None,
        );
    }
}

unsafe extern "C-unwind" fn assigned(value: c_int, extra: *mut c_void) {
    asks::set_syncs(value == COMMIT);
    unsafe { guc::assigned_int(value, extra) };
}

/// Whether commits wait for their records.
#[inline]
pub fn on_commit() -> bool {
    unsafe { DURABILITY == COMMIT }
}

/// A record was pushed that ends there and needs the file from `from` on: where it begins, or the
/// record that it refers to, which may be in the trail and yet not on disk in the file.
#[inline]
pub fn pushed(from: u64, end: u64) {
    unsafe {
        if UNSYNCED == 0 || from < UNSYNCED_FROM {
            UNSYNCED_FROM = from;
        }
        UNSYNCED = end;
    }
}

/// A record found no room. (Of a transaction whose end is decided that is nothing: it has no number any more.)
pub fn dropped() {
    unsafe { DROPPED_IN = compat::local_transaction() };
}

/// Has all that this backend pushed on disk, or refuses: throws. Other transactions' records, too,
/// where a prepared one is to be committed (`all`).
///
/// # Safety
/// Where an ERROR aborts the transaction: before its commit record is written.
pub unsafe fn ensure(all: bool) {
    unsafe {
        if DROPPED_IN != 0 && DROPPED_IN == compat::local_transaction() {
            refused(Refusal::Dropped);
        }
        let (Some(shared), Some(ring)) = (shared::shared(), ring_file::ring()) else {
            return;
        };
        // What is in the trail is on disk there.
        if !all && shared.flushed.load(Ordering::Acquire) >= UNSYNCED {
            UNSYNCED = 0;
            return;
        }
        let syncs = &shared.syncs;
        // The records, and where they begin, before the look at the number: a sync that is counted after
        // it holds them. (SeqCst, as in `take`: one of the two sees the other.)
        let first = if all { ring.tail() } else { UNSYNCED_FROM };
        syncs.asked.fetch_max(u64::MAX - first, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let wanted = syncs.begun.load(Ordering::SeqCst) + 1;
        let cv = syncs.waits(wanted);
        raw::ConditionVariablePrepareToSleep(cv);
        loop {
            if syncs.failed.load(Ordering::Acquire) != 0 {
                raw::ConditionVariableCancelSleep();
                refused(Refusal::Sync(syncs.failed.load(Ordering::Acquire)));
            }
            if syncs.ended.load(Ordering::Acquire) >= wanted {
                break;
            }
            let me = pg_sys::MyProcPid;
            let leads = syncs
                .leader
                .compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
            if leads {
                // Nothing throws until the leader is none again.
                let number = syncs.begun.fetch_add(1, Ordering::SeqCst) + 1;
                let positions = syncs.take(ring);
                match ring_file::sync((number > 1).then_some(positions)) {
                    Ok(()) => syncs.ended.store(number, Ordering::Release),
                    Err(errno) => syncs.failed.store(errno, Ordering::Release),
                }
                syncs.leader.store(0, Ordering::SeqCst);
                syncs.wake(number);
            } else {
                raw::ConditionVariableTimedSleep(cv, LOOK, pg_sys::PG_WAIT_EXTENSION);
            }
        }
        raw::ConditionVariableCancelSleep();
        UNSYNCED = 0;
    }
}

/// There is no ring, and so no record of what is about to be committed. Throws.
///
/// # Safety
/// As [`ensure`].
pub unsafe fn refuse_without_ring() {
    unsafe { refused(Refusal::NoRing) };
}

/// Why commits are refused: the first sync that failed.
pub fn failure(shared: &shared::Shared) -> Option<String> {
    match shared.syncs.failed.load(Ordering::Acquire) {
        0 => None,
        errno => Some(std::io::Error::from_raw_os_error(errno).to_string()),
    }
}

enum Refusal {
    Dropped,
    Sync(i32),
    NoRing,
}

/// Throws.
unsafe fn refused(why: Refusal) {
    let (code, detail) = match why {
        Refusal::Dropped => (0, 0),
        Refusal::Sync(errno) => (1, errno),
        Refusal::NoRing => (2, 0),
    };
    unsafe { report(code, detail) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn report(code: c_int, errno: c_int) {
    let (state, detail, hint) = match code {
        0 => (
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            "The ring was full: a record of the transaction was dropped.".to_owned(),
            "SELECT * FROM audit.status tells why the worker does not keep up; retry when the ring has room again.",
        ),
        1 => (
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!(
                "The ring's file could not be synced: {}.",
                std::io::Error::from_raw_os_error(errno)
            ),
            "Mend the file system of audit.ring_directory and restart the server; until then transactions that write are refused.",
        ),
        _ => (
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "The server has no ring; its log says why it could not be made.".to_owned(),
            "Mend audit.ring_directory and restart the server, or do without: SET audit.durability = async.",
        ),
    };
    ErrorReport::new(
        state,
        "transaction refused: its audit records cannot be made durable",
        function_name!(),
    )
    .set_detail(detail)
    .set_hint(hint)
    .report(PgLogLevel::ERROR);
}
