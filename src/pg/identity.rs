//! The name of an object that is just being dropped, as pg_identify_object() writes it.
//!
//! The server's own function reports an error where something that the name is made of is gone. That
//! must not happen here, so: what an object is named after is dropped later than the object, since the
//! object depends on it. The exception are loops: a type depends on its input function, which depends
//! on the type. All names with types in them are therefore made here, with `???` for a type that is
//! gone. (Operators and functions of operator families, the one other case, are not asked for.)
//!
//! Everything here throws for lack of memory; the callers have nothing to drop.

use core::ffi::{c_char, c_int};
use pgrx::pg_sys::{self, SysCacheIdentifier::*};

use super::raw;

// Fixed OIDs of the catalog.
const CAST: u32 = 2605;
const OPERATOR: u32 = 2617;
const TRANSFORM: u32 = 3576;

/// FORMAT_TYPE_ALLOW_INVALID and FORMAT_TYPE_FORCE_QUALIFY (utils/builtins.h).
const TYPE_FLAGS: u16 = 0x02 | 0x04;

/// The object's name; NULL where it has none any more.
///
/// # Safety
/// In the server's hook, before the object is dropped.
pub unsafe fn of_dropped(address: &pg_sys::ObjectAddress) -> *const c_char {
    unsafe {
        let (mut one, mut two) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        match address.classId.to_u32() {
            _ if address.classId == pg_sys::ProcedureRelationId => {
                return function(address.objectId);
            }
            OPERATOR => raw::op_input_types(address.objectId, &mut one, &mut two),
            CAST => (one, two) = types_of_cast(address.objectId),
            TRANSFORM => one = type_of_transform(address.objectId),
            _ => {}
        }
        if is_gone(one) || is_gone(two) {
            return c"???".as_ptr();
        }
        raw::getObjectIdentity(address, true)
    }
}

unsafe fn is_gone(type_: pg_sys::Oid) -> bool {
    let none = pg_sys::Datum::null();
    type_ != pg_sys::InvalidOid
        && unsafe { !raw::SearchSysCacheExists(TYPEOID as c_int, type_.into(), none, none, none) }
}

/// A row of the catalog, GETSTRUCT of htup_details.h.
unsafe fn row<T>(tuple: pg_sys::HeapTuple) -> *const T {
    unsafe {
        let data = (*tuple).t_data;
        data.cast::<u8>().add((*data).t_hoff as usize).cast()
    }
}

/// `s.f(integer,s.t)`
unsafe fn function(function: pg_sys::Oid) -> *const c_char {
    unsafe {
        let tuple = raw::SearchSysCache1(PROCOID as c_int, function.into());
        if tuple.is_null() {
            return core::ptr::null();
        }
        let form = row::<pg_sys::FormData_pg_proc>(tuple);
        let count = (*form).pronargs as usize;
        let types = (&raw const (*form).proargtypes.values).cast::<pg_sys::Oid>();
        let schema = raw::get_namespace_name((*form).pronamespace);
        let name = (&raw const (*form).proname.data).cast::<c_char>();
        let mut text = raw::quote_qualified_identifier(schema, name);
        text = joined(text, c"(".as_ptr());
        for i in 0..count {
            if i > 0 {
                text = joined(text, c",".as_ptr());
            }
            text = joined(
                text,
                raw::format_type_extended(*types.add(i), -1, TYPE_FLAGS),
            );
        }
        raw::ReleaseSysCache(tuple);
        joined(text, c")".as_ptr())
    }
}

/// Both texts in one.
unsafe fn joined(one: *const c_char, two: *const c_char) -> *mut c_char {
    unsafe {
        let (first, second) = (raw::bytes(one), raw::bytes(two));
        let len = first.len() + second.len() + 1;
        let text = raw::MemoryContextAlloc(pg_sys::CurrentMemoryContext, len).cast::<u8>();
        text.copy_from_nonoverlapping(first.as_ptr(), first.len());
        text.add(first.len())
            .copy_from_nonoverlapping(second.as_ptr(), second.len());
        *text.add(len - 1) = 0;
        text.cast()
    }
}

/// The first columns of pg_cast and pg_transform are the object's OID and these.
unsafe fn types_of_cast(cast: pg_sys::Oid) -> (pg_sys::Oid, pg_sys::Oid) {
    unsafe {
        let lock = pg_sys::AccessShareLock as c_int;
        let catalog = raw::table_open(pg_sys::Oid::from(CAST), lock);
        let tuple = raw::get_catalog_object_by_oid(catalog, 1, cast);
        let mut types = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        if !tuple.is_null() {
            let oids = row::<pg_sys::Oid>(tuple);
            types = (*oids.add(1), *oids.add(2));
        }
        raw::table_close(catalog, lock);
        types
    }
}

unsafe fn type_of_transform(transform: pg_sys::Oid) -> pg_sys::Oid {
    unsafe {
        let tuple = raw::SearchSysCache1(TRFOID as c_int, transform.into());
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let type_ = *row::<pg_sys::Oid>(tuple).add(1);
        raw::ReleaseSysCache(tuple);
        type_
    }
}
