//! The home of the trail: the database that carries our security label. A label is transactional,
//! replicated and survives a rename, and pg_shseclabel is a shared catalog that a process without a
//! database can read.

use core::ffi::c_char;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use pgrx::pg_sys;

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

/// The running transaction moves the home: an OID, or `HOME_NONE`. Never throws.
pub fn will_be(home: u32) {
    CHANGE.store(home, Ordering::Relaxed);
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
    let change = CHANGE.swap(NO_CHANGE, Ordering::Relaxed);
    if change != NO_CHANGE
        && let Some(shared) = super::shared::shared()
    {
        shared.set_home(change);
        // Whoever opened the trail that was there has not opened the next one.
        super::unlock::set_open(false);
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
    if let Some(shared) = super::shared::shared() {
        DETACHED.store(true, Ordering::Relaxed);
        shared.ask_to_detach();
    }
}

/// The transaction has ended: the worker may come back. Never throws.
fn reattach() {
    if DETACHED.swap(false, Ordering::Relaxed)
        && let Some(shared) = super::shared::shared()
    {
        shared.end_detach();
    }
}

/// Nothing has changed. Never throws.
pub fn aborted() {
    CHANGE.store(NO_CHANGE, Ordering::Relaxed);
    reattach();
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
        label_this_database(LABEL.as_ptr());
        will_be(pg_sys::MyDatabaseId.to_u32());
    }
}

/// Takes the label away, once the running transaction commits. Throws.
///
/// # Safety
/// In a transaction.
pub unsafe fn unmark() {
    unsafe {
        label_this_database(core::ptr::null());
        will_be(super::shared::HOME_NONE);
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

unsafe fn label_this_database(label: *const c_char) {
    unsafe {
        let database = pg_sys::ObjectAddress {
            classId: pg_sys::DatabaseRelationId,
            objectId: pg_sys::MyDatabaseId,
            objectSubId: 0,
        };
        pg_sys::SetSecurityLabel(&database, PROVIDER.as_ptr(), label);
    }
}

/// [`find`] for a hook: an ERROR passes as an ERROR, not as a panic. Throws.
///
/// # Safety
/// Inside a transaction that is not aborted.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn find_in_hook() -> pg_sys::Oid {
    unsafe { find() }
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
