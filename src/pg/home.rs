//! The home of the trail: the database that carries our security label. A label is transactional,
//! replicated and survives a rename, and pg_shseclabel is a shared catalog that a process without a
//! database can read.

use core::ffi::c_char;
use core::sync::atomic::{AtomicU32, Ordering};
use pgrx::{PgSqlErrorCode, ereport, pg_sys};

/// Name of the label provider.
pub const PROVIDER: &core::ffi::CStr = c"audit_ext";
/// The label of the home.
pub const LABEL: &core::ffi::CStr = c"home";

/// OID of pg_shseclabel (catalog/pg_shseclabel.h).
const SHARED_SEC_LABEL_RELATION_ID: pg_sys::Oid = pg_sys::Oid::from_u32(3592);
const NO_CHANGE: u32 = 0;
/// Where the home will be once the running transaction commits: [`NO_CHANGE`], `HOME_NONE`, an OID.
static CHANGE: AtomicU32 = AtomicU32::new(NO_CHANGE);

/// The running transaction moves the home: an OID, or `HOME_NONE`. Never throws.
pub fn will_be(home: u32) {
    CHANGE.store(home, Ordering::Relaxed);
}

/// From now on everybody knows. Runs in a commit callback: never throws.
pub fn committed() {
    let change = CHANGE.swap(NO_CHANGE, Ordering::Relaxed);
    if change != NO_CHANGE
        && let Some(shared) = super::shared::shared()
    {
        shared.set_home(change);
        shared.set_worker_latch();
    }
}

/// Nothing has changed. Never throws.
pub fn aborted() {
    CHANGE.store(NO_CHANGE, Ordering::Relaxed);
}

/// Attribute numbers of pg_shseclabel (catalog/pg_shseclabel.h).
const ANUM_OBJOID: i32 = 1;
const ANUM_CLASSOID: i32 = 2;
const ANUM_PROVIDER: i32 = 3;
const ANUM_LABEL: i32 = 4;

/// Registers the label provider. Called once, from `_PG_init`.
///
/// # Safety
/// While the library is loaded by the postmaster.
pub unsafe fn install() {
    unsafe { pg_sys::register_label_provider(PROVIDER.as_ptr(), Some(relabel)) };
}

/// Permits a label only on a database, and only to our own script: anything else would move the
/// trail's home behind its back. Throws.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn relabel(object: *const pg_sys::ObjectAddress, label: *const c_char) {
    let (class, installing) = unsafe { ((*object).classId, pg_sys::creating_extension) };
    if class == pg_sys::DatabaseRelationId && installing {
        return;
    }
    let what = if label.is_null() { "removed" } else { "set" };
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("a security label of audit_ext cannot be {what} by hand"),
        "The label marks the database that holds the audit trail; CREATE EXTENSION audit_ext sets it and DROP EXTENSION removes it."
    );
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
        let relation = pg_sys::table_open(
            SHARED_SEC_LABEL_RELATION_ID,
            pg_sys::AccessShareLock as i32,
        );
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
        attribute(tuple, ANUM_CLASSOID, desc).value() as u32
            == pg_sys::DatabaseRelationId.to_u32()
            && text_is(attribute(tuple, ANUM_PROVIDER, desc), PROVIDER)
            && text_is(attribute(tuple, ANUM_LABEL, desc), LABEL)
    }
}

/// An attribute of a catalog row whose columns are all NOT NULL.
unsafe fn attribute(tuple: pg_sys::HeapTuple, number: i32, desc: pg_sys::TupleDesc) -> pg_sys::Datum {
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
