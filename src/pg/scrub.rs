//! Overwrites what an UPDATE leaves behind, so that an erased value is gone from the files at once
//! and not some time after the next VACUUM, which does not zero what it frees either.
//!
//! A row version that a committed transaction has replaced keeps its place, but loses its content: the
//! number of its attributes is cut, as if later columns had been added since, and the bytes behind
//! are zeroed. Whoever still sees it (an older snapshot) finds NULLs. Chunks of a TOAST table keep
//! their form, their bytes are zeroed. Free space that holds old bytes is zeroed, too. All of it is
//! logged (generic WAL records), so standbys follow.
//!
//! Everything throws.

use core::ffi::c_int;
use pgrx::pg_sys;
use std::time::{Duration, Instant};

const PAGE: usize = pg_sys::BLCKSZ as usize;
const PAGE_HEADER: usize = 24;
/// Offsets in the header of a tuple (access/htup_details.h).
const XMAX: usize = 4;
const INFOMASK2: usize = 18;
const INFOMASK: usize = 20;
const TUPLE_HEADER: usize = 23;
const NATTS_MASK: u16 = 0x07ff;
const XMAX_LOCK_ONLY: u16 = 0x0080;
const XMAX_INVALID: u16 = 0x0800;
const XMAX_IS_MULTI: u16 = 0x1000;
/// LP_NORMAL (storage/itemid.h).
const NORMAL: u32 = 1;

/// What is wiped of a row version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wipe {
    /// All attributes behind this one, which is NOT NULL and of a type of variable length.
    Behind(usize),
    /// The data of a TOAST chunk.
    Chunk,
}

/// Attribute of TOAST tables that holds the data.
const CHUNK_DATA: usize = 3;

/// Wipes all replaced row versions of a table. In a transaction, with SHARE UPDATE EXCLUSIVE on the
/// table. With `only_look` nothing is written. Returns the number of pages that needed it.
///
/// # Safety
/// The table is a heap that `wipe` is right for.
pub unsafe fn scrub(table: pg_sys::Oid, wipe: Wipe, only_look: bool) -> u32 {
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::NoLock as c_int);
        let pages =
            pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        let strategy = pg_sys::GetAccessStrategy(pg_sys::BufferAccessStrategyType::BAS_BULKREAD);
        let mut found = 0;
        for page in 0..pages {
            pgrx::check_for_interrupts!();
            let buffer = pg_sys::ReadBufferExtended(
                relation,
                pg_sys::ForkNumber::MAIN_FORKNUM,
                page,
                pg_sys::ReadBufferMode::RBM_NORMAL,
                strategy,
            );
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
            // Work on a copy: what is wiped is decided by the same code that wipes.
            let mut copy = Box::new(Aligned([0; PAGE]));
            let at = pg_sys::BufferGetPage(buffer).cast::<u8>();
            core::ptr::copy_nonoverlapping(at, copy.0.as_mut_ptr(), PAGE);
            let due = wipe_page(&mut copy.0, (*relation).rd_att, wipe);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as c_int);
            if !due {
                pg_sys::ReleaseBuffer(buffer);
                continue;
            }
            found += 1;
            if only_look {
                pg_sys::ReleaseBuffer(buffer);
                continue;
            }
            // Nobody else has a pointer into the page then.
            lock_for_cleanup(buffer, page);
            let state = pg_sys::GenericXLogStart(relation);
            let image = pg_sys::GenericXLogRegisterBuffer(
                state,
                buffer,
                pg_sys::GENERIC_XLOG_FULL_IMAGE as c_int,
            );
            let image = &mut *image.cast::<[u8; PAGE]>();
            wipe_page(image, (*relation).rd_att, wipe);
            // It zeroes the free space between line pointers and tuples.
            pg_sys::GenericXLogFinish(state);
            pg_sys::UnlockReleaseBuffer(buffer);
        }
        pg_sys::FreeAccessStrategy(strategy);
        pg_sys::table_close(relation, pg_sys::NoLock as c_int);
        found
    }
}

/// How long a page may be in use by others: a query that reads it, or waits for us to end.
const IN_USE: Duration = Duration::from_secs(10);

/// Waits until nobody else uses the page; throws where that takes too long. (Whoever calls for the
/// erasure may be the one who uses it: a wait without an end would be a deadlock that nobody detects.)
unsafe fn lock_for_cleanup(buffer: pg_sys::Buffer, page: u32) {
    let since = Instant::now();
    while !unsafe { pg_sys::ConditionalLockBufferForCleanup(buffer) } {
        if since.elapsed() > IN_USE {
            pgrx::error!(
                "page {page} has been in use for {} s: another query reads it",
                IN_USE.as_secs()
            );
        }
        pgrx::check_for_interrupts!();
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A page's alignment: tuples are read in place.
#[repr(align(16))]
struct Aligned([u8; PAGE]);

fn u16_at(page: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([page[at], page[at + 1]])
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

/// Wipes a page; returns whether it needed it.
///
/// # Safety
/// `page` is a valid page of a heap with this descriptor, aligned as pages are.
unsafe fn wipe_page(page: &mut [u8; PAGE], desc: pg_sys::TupleDesc, wipe: Wipe) -> bool {
    let (lower, upper) = (u16_at(page, 12) as usize, u16_at(page, 14) as usize);
    if lower < PAGE_HEADER || lower > upper || upper > PAGE {
        return false; // new, or not ours to judge
    }
    let mut due = page[lower..upper].iter().any(|b| *b != 0);
    page[lower..upper].fill(0);
    for pointer in (PAGE_HEADER..lower).step_by(4) {
        let item = u32_at(page, pointer);
        // lp_off: 15 bits, lp_flags: 2, lp_len: 15.
        let (offset, flags, len) = (item & 0x7fff, item >> 15 & 3, item >> 17);
        let (offset, len) = (offset as usize, len as usize);
        if flags != NORMAL || len < TUPLE_HEADER || offset + len > PAGE {
            continue;
        }
        // SAFETY: within the page, by the test above.
        due |= unsafe { wipe_tuple(&mut page[offset..offset + len], desc, wipe) };
    }
    due
}

/// Wipes a tuple that a committed transaction has replaced or deleted.
unsafe fn wipe_tuple(tuple: &mut [u8], desc: pg_sys::TupleDesc, wipe: Wipe) -> bool {
    let infomask = u16_at(tuple, INFOMASK);
    let xmax = pg_sys::TransactionId::from(u32_at(tuple, XMAX));
    if infomask & (XMAX_INVALID | XMAX_LOCK_ONLY | XMAX_IS_MULTI) != 0
        || !unsafe { pg_sys::TransactionIdDidCommit(xmax) }
    {
        return false;
    }
    let keep = match wipe {
        Wipe::Behind(keep) => keep,
        Wipe::Chunk => CHUNK_DATA,
    };
    let infomask2 = u16_at(tuple, INFOMASK2);
    let attributes = (infomask2 & NATTS_MASK) as usize;
    if attributes < keep {
        return false;
    }
    let value = unsafe {
        let columns = (*desc).natts as usize;
        let mut values = vec![pg_sys::Datum::null(); columns];
        let mut nulls = vec![true; columns];
        let mut header = pg_sys::HeapTupleData {
            t_len: tuple.len() as u32,
            t_data: tuple.as_mut_ptr().cast(),
            ..Default::default()
        };
        pg_sys::heap_deform_tuple(&mut header, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
        if nulls[keep - 1] {
            return false;
        }
        let at = values[keep - 1].cast_mut_ptr::<pg_sys::varlena>();
        let begin = at.cast::<u8>().offset_from(tuple.as_ptr()) as usize;
        let end = begin + pgrx::varlena::varsize_any(at);
        Placed {
            data: end - pgrx::varlena::varsize_any_exhdr(at),
            end,
        }
    };
    let wiped = match wipe {
        Wipe::Behind(_) => value.end..tuple.len(),
        Wipe::Chunk => value.data..value.end,
    };
    if wiped.end > tuple.len() || wiped.start > wiped.end {
        return false;
    }
    let due = tuple[wiped.clone()].iter().any(|b| *b != 0)
        || (matches!(wipe, Wipe::Behind(_)) && attributes > keep);
    tuple[wiped].fill(0);
    if let Wipe::Behind(keep) = wipe {
        let cut = (infomask2 & !NATTS_MASK) | keep as u16;
        tuple[INFOMASK2..INFOMASK2 + 2].copy_from_slice(&cut.to_ne_bytes());
    }
    due
}

/// Where a value lies in its tuple.
struct Placed {
    /// Behind its header.
    data: usize,
    end: usize,
}
