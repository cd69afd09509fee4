//! What backends and the worker share in PostgreSQL's shared memory: small state that may be lost
//! in a crash restart. Records live in the ring file instead (`pg::ring_file`).
//!
//! Only atomics and a condition variable: no lock that a backend could hold while it dies. Nothing
//! here throws, except where it says so.

use core::hint::cold_path;
use core::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use pgrx::pg_sys;

/// `home` while nobody has looked yet.
pub const HOME_UNKNOWN: u32 = 0;
/// `home` when no database carries the label: capture is inert.
pub const HOME_NONE: u32 = u32::MAX;

/// Longest message kept by [`Shared::set_last_error`].
const ERROR_LEN: usize = 512;

/// At the begin of a cache line: PostgreSQL gives it out so.
#[repr(C)]
pub struct Shared {
    // What each statement looks at, in one cache line, which is seldom written to.
    /// OID of the home database, [`HOME_UNKNOWN`] or [`HOME_NONE`].
    home: AtomicU32,
    /// 1: a push found the ring filled beyond three quarters, and the worker hasn't emptied it since.
    /// What a statement looks at first, as the ring's own positions change with every push.
    pub crowded: AtomicU32,
    /// 1: the trail has reached `audit.max_size`, and statements are to be refused.
    pub trail_full: AtomicU32,
    /// Counts records that others repeat and that the worker could not read: sessions then refer to none
    /// that they pushed before.
    pub originals_lost: AtomicU32,
    /// 1 while the worker waits for the first record: whoever swaps it to 0 sets the latch.
    pub worker_sleeping: AtomicU32,
    /// The worker's latch; null while no worker runs.
    pub worker_latch: AtomicPtr<pg_sys::Latch>,
    /// The database that the worker attaches to at its next start; 0: it looks for the label first.
    pub attach: AtomicU32,
    pub worker_pid: AtomicI32,
    /// Process that wants the worker off the home, as it renames or copies it; 0 for none.
    detach: AtomicI32,
    /// Left-over rings that the worker still has to drain before the current one.
    pub leftover_rings: AtomicU32,
    /// Position of the ring in use before which every producer is dead: its head when shared memory
    /// was made.
    pub dead_before: AtomicU64,
    /// The first transaction id that can belong to this run of the server; 0 while nobody has looked.
    first_xid: AtomicU64,
    // The worker writes to these with each batch.
    /// Ring position up to which everything is in the trail and flushed.
    pub flushed: AtomicU64,
    /// Ring position that `audit.flush()` waits for: the worker lets nothing gather before it.
    pub flush_wanted: AtomicU64,
    /// Counts requests that the worker refer to no dictionary row stored so far; and those it met.
    pub forget_wanted: AtomicU32,
    pub forgotten: AtomicU32,
    /// Size of the last published checkpoint since server start.
    pub checkpointed: AtomicU64,
    /// 1 while the worker can't publish checkpoints; `error` says why.
    pub checkpoints_fail: AtomicU32,
    /// Size of the trail that somebody wants a checkpoint of without waiting for the interval.
    pub checkpoint_wanted: AtomicU64,
    /// The last seq of the trail.
    pub last_seq: AtomicU64,
    /// When the worker last stored a batch (TimestampTz), 0 before the first.
    pub last_batch_at: AtomicI64,
    /// `recorded_at` of the trail's last batch, whichever run of the server stored it; 0: there is none.
    pub last_recorded_at: AtomicI64,
    /// Events stored since server start.
    pub recorded: AtomicU64,
    /// GAP events written since server start.
    pub gaps: AtomicU64,
    /// Panics swallowed in hooks since server start; always a bug.
    pub panics: AtomicU64,
    /// Counts, twice each, the times that the ring was nearly full; odd while it is.
    overflows: AtomicU32,
    /// 1: periods were dropped of which the trail doesn't tell yet.
    pub news: AtomicU32,
    /// Counts the trails that have begun or gone since server start: `audit.unlock()` opens the one that it
    /// was called for.
    trails: AtomicU32,
    /// Sessions that found no in-flight slot since server start.
    pub unprotected: AtomicU64,
    /// Nanoseconds that the worker spent on batches since server start.
    pub worker_ns: AtomicU64,
    /// Even: `error` is stable. Written by the worker only.
    error_version: AtomicU32,
    error_len: AtomicU32,
    error: [AtomicU32; ERROR_LEN / 4],
    /// Syncs of the ring's file (`audit.durability`).
    pub syncs: super::durability::Syncs,
    /// Signalled after each batch; `audit.flush()` waits on it.
    pub flush_cv: pg_sys::ConditionVariable,
}

impl Shared {
    /// OID of the home, [`HOME_UNKNOWN`] or [`HOME_NONE`].
    #[inline]
    pub fn home(&self) -> u32 {
        // Acquire pairs with set_home: whoever sees a home sees the state behind it.
        self.home.load(Ordering::Acquire)
    }

    pub fn set_home(&self, home: u32) {
        self.home.store(home, Ordering::Release);
    }

    /// The ring is nearly full: the number of this overflow, never 0, and whether it begins with this call.
    pub fn overflow(&self) -> (u32, bool) {
        let before = self.overflows.fetch_or(1, Ordering::Relaxed);
        (before | 1, before & 1 == 0)
    }

    /// For the worker: the ring has room again.
    pub fn overflow_is_over(&self) {
        let now = self.overflows.load(Ordering::Relaxed);
        if now & 1 != 0 {
            // Nobody else makes an odd one even.
            self.overflows.store(now.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Which trail this is: another number after each change.
    pub fn trail(&self) -> u32 {
        self.trails.load(Ordering::Acquire)
    }

    /// The trail is about to be another: nobody's `audit.unlock()` holds any more.
    pub fn close_trail(&self) {
        self.trails.fetch_add(1, Ordering::AcqRel);
    }

    /// As [`Self::set_home`], unless it has changed since it was this.
    pub fn replace_home(&self, old: u32, home: u32) {
        let _ = self
            .home
            .compare_exchange(old, home, Ordering::AcqRel, Ordering::Acquire);
    }

    /// As [`Self::set_home`], unless somebody has come first: what CREATE EXTENSION or the worker
    /// know is newer than what a look at the catalog found.
    pub fn settle_home(&self, home: u32) {
        self.replace_home(HOME_UNKNOWN, home);
    }

    /// Notes the next transaction id, unless somebody has since (re)start: whatever ran before the
    /// last crash and left a trace on disk has a smaller one. Never throws; not during recovery.
    pub fn note_first_xid(&self) {
        if self.first_xid.load(Ordering::Acquire) != 0 {
            return;
        }
        // SAFETY: reads shared memory under a lock of the server's.
        let next = unsafe { super::raw::ReadNextFullTransactionId() }.value;
        // Where it outlives a crash first: nobody passes here, and is given an id, before it is there.
        if let Some(ring) = super::ring_file::ring() {
            ring.slots().set_horizon(next);
            let mark = ring.mark();
            let _ = mark.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        let first = &self.first_xid;
        let _ = first.compare_exchange(0, next, Ordering::Release, Ordering::Relaxed);
    }

    /// See [`Self::note_first_xid`].
    pub fn first_xid(&self) -> u64 {
        self.first_xid.load(Ordering::Relaxed)
    }

    /// Whoever waits for the worker and finds none reminds the postmaster to start it. Up to 15 a
    /// postmaster that is told of the worker's end just before it goes to sleep (select() after the
    /// signals are unblocked) forgets about it for up to a minute; SIGUSR1 without a reason makes it
    /// look, and does nothing else. Never throws.
    pub fn remind_postmaster(&self) {
        if self.worker_pid.load(Ordering::Acquire) != 0 {
            return;
        }
        // SAFETY: a plain global.
        let postmaster = unsafe { pg_sys::PostmasterPid };
        if let Some(pid) = rustix::process::Pid::from_raw(postmaster) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::USR1);
        }
    }

    /// This process wants the worker off the home for a while. Never throws.
    pub fn ask_to_detach(&self) {
        self.detach
            .store(unsafe { pg_sys::MyProcPid }, Ordering::SeqCst);
        self.set_worker_latch();
    }

    /// The worker may attach again, as far as this process is concerned. Never throws.
    pub fn end_detach(&self) {
        let me = unsafe { pg_sys::MyProcPid };
        let mine = self
            .detach
            .compare_exchange(me, 0, Ordering::SeqCst, Ordering::SeqCst);
        if mine.is_ok() {
            self.set_worker_latch();
        }
    }

    /// Whether somebody who still lives wants the worker off the home.
    pub fn detach_wanted(&self) -> bool {
        match self.detach.load(Ordering::SeqCst) {
            0 => false,
            pid => rustix::process::Pid::from_raw(pid)
                .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok()),
        }
    }

    /// Keeps the worker's last error for `audit.status` (cut to fit). Called by the worker only.
    pub fn set_last_error(&self, message: &str) {
        let bytes = message.as_bytes();
        let len = bytes.len().min(ERROR_LEN);
        self.error_version.fetch_add(1, Ordering::AcqRel);
        for (word, chunk) in self.error.iter().zip(bytes[..len].chunks(4)) {
            let mut b = [0; 4];
            b[..chunk.len()].copy_from_slice(chunk);
            word.store(u32::from_ne_bytes(b), Ordering::Relaxed);
        }
        self.error_len.store(len as u32, Ordering::Relaxed);
        self.error_version.fetch_add(1, Ordering::Release);
    }

    /// The worker's last error, empty if there was none.
    pub fn last_error(&self) -> String {
        for _ in 0..1000 {
            let before = self.error_version.load(Ordering::Acquire);
            let len = (self.error_len.load(Ordering::Relaxed) as usize).min(ERROR_LEN);
            let mut bytes = Vec::with_capacity(ERROR_LEN);
            for word in &self.error {
                bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
            core::sync::atomic::fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == self.error_version.load(Ordering::Relaxed) {
                bytes.truncate(len);
                return String::from_utf8_lossy(&bytes).into_owned();
            }
            std::hint::spin_loop();
        }
        String::new()
    }

    /// Wakes the worker if it sleeps: after a push, or a fence. One load when it doesn't; about 10 µs
    /// when it does.
    #[inline]
    pub fn wake_worker(&self) {
        // SeqCst: the push's move of the ring's head before this load and the worker's store of the
        // flag before its last look at the head must not pass each other, or a record would sleep.
        // The push has moved the head with SeqCst; where there was none, the caller has a fence.
        if self.worker_sleeping.load(Ordering::SeqCst) != 0 {
            cold_path();
            if self.worker_sleeping.swap(0, Ordering::SeqCst) != 0 {
                self.set_worker_latch();
            }
        }
    }

    /// Sets the worker's latch whatever it does.
    pub fn set_worker_latch(&self) {
        let latch = self.worker_latch.load(Ordering::Acquire);
        if !latch.is_null() {
            // SAFETY: the latch is in a PGPROC, which is never unmapped; SetLatch doesn't throw and
            // is allowed anywhere, signal handlers included.
            unsafe { super::raw::SetLatch(latch) };
        }
    }
}

#[unsafe(link_section = "audit_data")]
static mut SHARED: *mut Shared = core::ptr::null_mut();

/// The shared state; `None` when the library was not preloaded.
#[inline]
pub fn shared() -> Option<&'static Shared> {
    // SAFETY: set once per server start in the postmaster before any child exists.
    unsafe { SHARED.as_ref() }
}

#[cfg(not(feature = "pg14"))]
static mut NEXT_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut NEXT_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Requests the shared memory and has it initialised at each (re)start. Called by `_PG_init`.
///
/// # Safety
/// In the postmaster, while shared_preload_libraries are loaded.
pub unsafe fn install() {
    unsafe {
        #[cfg(not(feature = "pg14"))]
        {
            NEXT_REQUEST = pg_sys::shmem_request_hook;
            pg_sys::shmem_request_hook = Some(request);
        }
        #[cfg(feature = "pg14")]
        super::raw::RequestAddinShmemSpace(size_of::<Shared>());
        NEXT_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[cfg(not(feature = "pg14"))]
unsafe extern "C-unwind" fn request() {
    unsafe {
        if let Some(next) = NEXT_REQUEST {
            next();
        }
        super::raw::RequestAddinShmemSpace(size_of::<Shared>());
    }
}

/// Runs in the postmaster at server start and at each crash restart (may throw: FATAL at start).
unsafe extern "C-unwind" fn startup() {
    unsafe {
        if let Some(next) = NEXT_STARTUP {
            next();
        }
        let mut found = false;
        let at =
            super::raw::ShmemInitStruct(c"audit_ext".as_ptr(), size_of::<Shared>(), &mut found)
                .cast::<Shared>();
        if !found {
            core::ptr::write_bytes(at.cast::<u8>(), 0, size_of::<Shared>());
            super::raw::ConditionVariableInit(&raw mut (*at).flush_cv);
            super::durability::Syncs::init(&raw mut (*at).syncs);
        }
        SHARED = at;
        match super::ring_file::startup() {
            // An old ring that was put aside just now shows that the library has run here before.
            Ok(()) => super::witness::startup(super::ring_file::leftovers().is_empty()),
            // No worker runs yet. (What is in a directory that is not ours is not touched.)
            Err(message) => (*at).set_last_error(&message),
        }
        // Nobody else runs now: no child of before, none of after.
        if let Some(ring) = super::ring_file::ring() {
            ring.slots().orphan_all();
            (*at).dead_before.store(ring.head(), Ordering::Relaxed);
        }
    }
}
