//! The home of the trail: the database that carries our security label. A label is transactional,
//! replicated and survives a rename, and pg_shseclabel is a shared catalog that a process without a
//! database can read.
//!
//! Where the library isn't loaded nobody guards that catalog. So the ring's directory has a note of which
//! database is the home: where the label is gone and the extension is not, the worker puts it back.

use core::ffi::c_char;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use pgrx::{PgSqlErrorCode, pg_sys};

use super::report::refuse;
use super::shared::{HOME_NONE, shared};
use super::{asks, ring_file};

/// Name of the label provider.
pub const PROVIDER: &core::ffi::CStr = c"audit_ext";
/// The label of the home.
pub const LABEL: &core::ffi::CStr = c"home";

/// OID of pg_shseclabel (catalog/pg_shseclabel.h).
const SHARED_SEC_LABEL_RELATION_ID: pg_sys::Oid = pg_sys::Oid::from_u32(3592);
const NO_CHANGE: u32 = 0;
/// Where the home will be once the running transaction commits: [`NO_CHANGE`], `HOME_NONE`, an OID.
#[unsafe(link_section = "audit_data")]
static CHANGE: AtomicU32 = AtomicU32::new(NO_CHANGE);

/// Whether it is the label that moves, which a savepoint can take back.
static BY_LABEL: AtomicBool = AtomicBool::new(false);
/// Whether a trail was made meanwhile: that in the same database is another.
static MADE: AtomicBool = AtomicBool::new(false);

/// The running transaction moves the home: an OID, or `HOME_NONE`. Never throws.
pub fn will_be(home: u32) {
    asks::stir();
    CHANGE.store(home, Ordering::Relaxed);
}

/// The running transaction is about to commit. If it moves the home, a part of it may have been rolled back
/// since: what the catalog says by now counts. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
#[inline]
pub unsafe fn about_to_commit() {
    if BY_LABEL.load(Ordering::Relaxed) {
        unsafe { look_again() };
    }
}

/// As [`about_to_commit`], of PREPARE TRANSACTION, which is refused: whoever ends what is prepared would have
/// to tell everybody, and nothing tells him.
///
/// # Safety
/// As there.
pub unsafe fn about_to_prepare() {
    unsafe { about_to_commit() };
    if CHANGE.load(Ordering::Relaxed) != NO_CHANGE {
        unsafe { refuse_prepare() };
    }
}

#[cold]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn refuse_prepare() {
    refuse(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot PREPARE a transaction that has created or dropped the extension \"audit_ext\"",
        "End it with COMMIT.",
    );
}

#[cold]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn look_again() {
    let found = unsafe {
        pg_sys::CommandCounterIncrement();
        find()
    };
    let made = MADE.load(Ordering::Relaxed);
    if found == pg_sys::InvalidOid {
        will_be(HOME_NONE);
    } else if !made && shared().is_some_and(|shared| shared.home() == found.to_u32()) {
        forget_change();
    } else {
        will_be(found.to_u32());
    }
}

/// From now on everybody knows. Runs in a commit callback: never throws.
#[inline]
pub fn committed() {
    if CHANGE.load(Ordering::Relaxed) != NO_CHANGE || DETACHED.load(Ordering::Relaxed) {
        change();
    }
}

#[cold]
#[inline(never)]
fn change() {
    let change = CHANGE.load(Ordering::Relaxed);
    forget_change();
    if change != NO_CHANGE
        && let Some(shared) = shared()
    {
        forget();
        // Whoever opened the trail that was there has not opened the next one.
        shared.close_trail();
        shared.set_home(change);
        shared.set_worker_latch();
    }
    reattach();
}

/// Whether the running transaction has asked the worker off the home.
#[unsafe(link_section = "audit_data")]
static DETACHED: AtomicBool = AtomicBool::new(false);

/// The running transaction renames, moves or copies the home, which nobody may be connected to:
/// asks the worker off. The server itself waits some seconds for others to leave. Never throws.
pub fn detach_worker() {
    if let Some(shared) = shared() {
        asks::stir();
        DETACHED.store(true, Ordering::Relaxed);
        shared.ask_to_detach();
    }
}

/// The transaction has ended, or a part of it was rolled back that may have asked: the worker may come back.
/// Never throws.
pub fn reattach() {
    if DETACHED.swap(false, Ordering::Relaxed)
        && let Some(shared) = shared()
    {
        shared.end_detach();
    }
}

/// Nothing has changed. Never throws.
pub fn aborted() {
    forget_change();
    reattach();
}

fn forget_change() {
    CHANGE.store(NO_CHANGE, Ordering::Relaxed);
    BY_LABEL.store(false, Ordering::Relaxed);
    MADE.store(false, Ordering::Relaxed);
}

/// Attribute numbers of pg_shseclabel (catalog/pg_shseclabel.h).
const ANUM_OBJOID: i32 = 1;
const ANUM_CLASSOID: i32 = 2;
const ANUM_PROVIDER: i32 = 3;
const ANUM_LABEL: i32 = 4;

/// Lets pg_upgrade carry the label over: it sets it by SECURITY LABEL, which needs a provider. In
/// other servers none is registered, so that SECURITY LABEL behaves as if we were not there; the
/// label is set and removed by [`mark`] and [`unmark`].
///
/// # Safety
/// From `_PG_init`, in a server started by pg_upgrade.
pub unsafe fn install_for_upgrade() {
    unsafe extern "C-unwind" fn accept(_: *const pg_sys::ObjectAddress, _: *const c_char) {}
    unsafe { pg_sys::register_label_provider(PROVIDER.as_ptr(), Some(accept)) };
}

/// Makes this database the home, once the running transaction commits. Throws.
///
/// # Safety
/// In a transaction.
pub unsafe fn mark() {
    unsafe {
        label(pg_sys::MyDatabaseId, LABEL.as_ptr());
        BY_LABEL.store(true, Ordering::Relaxed);
        MADE.store(true, Ordering::Relaxed);
        will_be(pg_sys::MyDatabaseId.to_u32());
    }
}

/// Takes the label away, once the running transaction commits. Throws.
///
/// # Safety
/// In a transaction.
pub unsafe fn unmark() {
    unsafe {
        label(pg_sys::MyDatabaseId, core::ptr::null());
        BY_LABEL.store(true, Ordering::Relaxed);
        will_be(HOME_NONE);
    }
}

/// [`unmark`] for a hook: an ERROR passes as an ERROR, not as a panic. Throws.
///
/// # Safety
/// In a transaction.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn unmark_in_hook() {
    unsafe { unmark() };
}

/// Gives a database a label; NULL: takes it away. Throws.
unsafe fn label(database: pg_sys::Oid, label: *const c_char) {
    unsafe {
        let database = pg_sys::ObjectAddress {
            classId: pg_sys::DatabaseRelationId,
            objectId: database,
            objectSubId: 0,
        };
        pg_sys::SetSecurityLabel(&database, PROVIDER.as_ptr(), label);
    }
}

/// [`look_for`] for a hook: an ERROR passes as an ERROR, not as a panic. Throws.
///
/// # Safety
/// Inside a transaction that is not aborted.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn look_for_in_hook() -> pg_sys::Oid {
    unsafe { look_for() }
}

/// The database with the label; where there is none that of the note, if it still exists. InvalidOid: there
/// is none. Throws.
///
/// # Safety
/// As [`find`].
pub unsafe fn look_for() -> pg_sys::Oid {
    unsafe {
        let found = find();
        if found != pg_sys::InvalidOid {
            return found;
        }
        noted()
            .filter(|home| !pg_sys::get_database_name(*home).is_null())
            .unwrap_or(pg_sys::InvalidOid)
    }
}

/// Whether this database is the home: it has the extension, and the label. That is put back where nobody has
/// it and this was the home, and taken away where the extension isn't. Throws.
///
/// # Safety
/// As [`find`]; in the worker, in a transaction that commits. `is_attached`: to the extension of now.
pub unsafe fn is_here(is_attached: impl FnOnce() -> bool) -> bool {
    unsafe {
        let here = pg_sys::MyDatabaseId;
        // First: DROP EXTENSION takes both away.
        let found = find();
        let was_here = noted() == Some(here);
        if !is_attached() {
            // There may be another by now, which is that of another trail.
            let extension = pg_sys::get_extension_oid(c"audit_ext".as_ptr(), true);
            if extension == pg_sys::InvalidOid && was_here {
                forget();
            }
            if extension == pg_sys::InvalidOid && found == here {
                label(here, core::ptr::null());
            }
            return false;
        }
        let lost = was_here && found == pg_sys::InvalidOid;
        if lost {
            pgrx::warning!(
                "audit_ext: the label of the trail's home was gone from pg_shseclabel; it is put back"
            );
            label(here, LABEL.as_ptr());
        } else if found == here && !was_here {
            note(here);
        }
        lost || found == here
    }
}

/// The note of which database is the home, in the ring's directory.
const NOTE: &str = "home";

fn noted() -> Option<pg_sys::Oid> {
    ring_file::read_note(NOTE)?
        .trim()
        .parse()
        .ok()
        .map(pg_sys::Oid::from_u32)
}

/// What can't be noted is not there to help, and nothing else.
fn note(home: pg_sys::Oid) {
    let _ = ring_file::write_note(NOTE, &format!("{}\n", home.to_u32()));
}

fn forget() {
    // In a commit, so without a look at the disk: a note that is there again after a crash is found out.
    let _ = ring_file::forget_note(NOTE);
}

/// The home's OID, InvalidOid if there is none. Throws; needs a transaction.
///
/// # Safety
/// Inside a transaction that is not aborted.
pub unsafe fn find() -> pg_sys::Oid {
    unsafe {
        let relation =
            pg_sys::table_open(SHARED_SEC_LABEL_RELATION_ID, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::systable_beginscan(
            relation,
            pg_sys::InvalidOid,
            false,
            core::ptr::null_mut(),
            0,
            core::ptr::null_mut(),
        );
        let mut home = pg_sys::InvalidOid;
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            if is_home(tuple, (*relation).rd_att) {
                home = pg_sys::Oid::from(
                    attribute(tuple, ANUM_OBJOID, (*relation).rd_att).value() as u32
                );
                break;
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        home
    }
}

unsafe fn is_home(tuple: pg_sys::HeapTuple, desc: pg_sys::TupleDesc) -> bool {
    unsafe {
        attribute(tuple, ANUM_CLASSOID, desc).value() as u32 == pg_sys::DatabaseRelationId.to_u32()
            && text_is(attribute(tuple, ANUM_PROVIDER, desc), PROVIDER)
            && text_is(attribute(tuple, ANUM_LABEL, desc), LABEL)
    }
}

/// An attribute of a catalog row whose columns are all NOT NULL.
unsafe fn attribute(
    tuple: pg_sys::HeapTuple,
    number: i32,
    desc: pg_sys::TupleDesc,
) -> pg_sys::Datum {
    unsafe { pg_sys::nocachegetattr(tuple, number, desc) }
}

unsafe fn text_is(datum: pg_sys::Datum, expected: &core::ffi::CStr) -> bool {
    unsafe {
        let text = pg_sys::text_to_cstring(datum.cast_mut_ptr());
        let same = core::ffi::CStr::from_ptr(text) == expected;
        pg_sys::pfree(text.cast());
        same
    }
}
