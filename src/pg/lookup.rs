//! Where the server would find a name: the schema of what is named without one, by the search path.
//!
//! Unlike the server's own look-ups, these report no missing name, check no privilege and take no
//! lock: what a statement names wrongly is its own business, and its own error. Everything here
//! throws, as any catalog look-up may; the callers have nothing to drop.

use core::ffi::{c_char, c_int};
use pgrx::pg_sys::{self, SysCacheIdentifier::*};

use super::{compat, raw};

/// What to look for.
#[derive(Clone, Copy)]
pub enum Kind {
    Type,
    Collation,
    Conversion,
    /// Of this access method.
    OperatorClass(*const c_char),
    OperatorFamily(*const c_char),
    TextSearchParser,
    TextSearchDictionary,
    TextSearchTemplate,
    TextSearchConfiguration,
    Statistics,
    /// With arguments of these types.
    Function(*const pg_sys::oidvector),
    /// With operands of these types.
    Operator(pg_sys::Oid, pg_sys::Oid),
}

/// More schemas of a search path are not looked at.
const MOST: usize = 64;

const NONE: pg_sys::Datum = pg_sys::Datum::null();

/// The schema in which the search path finds the name; NULL where it doesn't.
///
/// # Safety
/// `name` is a C string; in a transaction that is not aborted.
pub unsafe fn schema_of(kind: Kind, name: *const c_char) -> *const c_char {
    unsafe {
        let (mut temporary, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        raw::GetTempNamespaceState(&mut temporary, &mut toast);
        // The path without one's temporary schema, where types are found before all else.
        if matches!(kind, Kind::Type) && is_in(kind, name, temporary) {
            return c"pg_temp".as_ptr();
        }
        let mut path = [pg_sys::InvalidOid; MOST];
        let len = raw::fetch_search_path_array(path.as_mut_ptr(), MOST as c_int) as usize;
        for schema in &path[..len.min(MOST)] {
            if is_in(kind, name, *schema) {
                return raw::get_namespace_name(*schema);
            }
        }
        core::ptr::null()
    }
}

unsafe fn is_in(kind: Kind, name: *const c_char, schema: pg_sys::Oid) -> bool {
    if schema == pg_sys::InvalidOid {
        return false;
    }
    let (text, schema) = (
        pg_sys::Datum::from(name as usize),
        pg_sys::Datum::from(schema),
    );
    unsafe {
        let exists = |cache, key1, key2, key3, key4| {
            raw::SearchSysCacheExists(cache as c_int, key1, key2, key3, key4)
        };
        match kind {
            Kind::Type => exists(TYPENAMENSP, text, schema, NONE, NONE),
            Kind::Collation => [raw::GetDatabaseEncoding(), -1].iter().any(|encoding| {
                let encoding = pg_sys::Datum::from(*encoding);
                exists(COLLNAMEENCNSP, text, encoding, schema, NONE)
            }),
            Kind::Conversion => exists(CONNAMENSP, text, schema, NONE, NONE),
            Kind::OperatorClass(method) => {
                exists(CLAAMNAMENSP, access_method(method), text, schema, NONE)
            }
            Kind::OperatorFamily(method) => {
                exists(OPFAMILYAMNAMENSP, access_method(method), text, schema, NONE)
            }
            Kind::TextSearchParser => exists(TSPARSERNAMENSP, text, schema, NONE, NONE),
            Kind::TextSearchDictionary => exists(TSDICTNAMENSP, text, schema, NONE, NONE),
            Kind::TextSearchTemplate => exists(TSTEMPLATENAMENSP, text, schema, NONE, NONE),
            Kind::TextSearchConfiguration => exists(TSCONFIGNAMENSP, text, schema, NONE, NONE),
            Kind::Statistics => exists(STATEXTNAMENSP, text, schema, NONE, NONE),
            Kind::Function(arguments) => {
                let arguments = pg_sys::Datum::from(arguments as usize);
                exists(PROCNAMEARGSNSP, text, arguments, schema, NONE)
            }
            Kind::Operator(left, right) => {
                exists(OPERNAMENSP, text, left.into(), right.into(), schema)
            }
        }
    }
}

unsafe fn access_method(name: *const c_char) -> pg_sys::Datum {
    unsafe {
        let name = pg_sys::Datum::from(name as usize);
        let column = pg_sys::Anum_pg_am_oid as pg_sys::AttrNumber;
        raw::GetSysCacheOid(AMNAME as c_int, column, name, NONE, NONE, NONE).into()
    }
}

/// The type that a name in a statement means; InvalidOid where there is none, or it is named after a
/// column.
///
/// # Safety
/// `name` is NULL or a valid node; in a transaction that is not aborted.
pub unsafe fn type_oid(name: *const pg_sys::TypeName) -> pg_sys::Oid {
    unsafe {
        if name.is_null() || (*name).pct_type {
            return pg_sys::InvalidOid;
        }
        if (*name).names.is_null() {
            return (*name).typeOid;
        }
        let (mut schema, type_) = compat::last_two((*name).names);
        if schema.is_null() {
            schema = schema_of(Kind::Type, type_);
        }
        if schema.is_null() {
            return pg_sys::InvalidOid;
        }
        let found = raw::GetSysCacheOid(
            TYPENAMENSP as c_int,
            pg_sys::Anum_pg_type_oid as pg_sys::AttrNumber,
            pg_sys::Datum::from(type_ as usize),
            schema_oid(schema).into(),
            NONE,
            NONE,
        );
        if (*name).arrayBounds.is_null() || found == pg_sys::InvalidOid {
            found
        } else {
            raw::get_array_type(found)
        }
    }
}

/// A schema by its name, `pg_temp` being one's own.
///
/// # Safety
/// `name` is a C string; in a transaction that is not aborted.
pub unsafe fn schema_oid(name: *const c_char) -> pg_sys::Oid {
    unsafe {
        if raw::bytes(name) != b"pg_temp" {
            return raw::get_namespace_oid(name, true);
        }
        let (mut temporary, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        raw::GetTempNamespaceState(&mut temporary, &mut toast);
        temporary
    }
}

/// The relation of that name; InvalidOid where there is none.
///
/// # Safety
/// `schema` is NULL or a C string, `name` a C string; in a transaction that is not aborted.
pub unsafe fn relation(schema: *const c_char, name: *const c_char) -> pg_sys::Oid {
    unsafe {
        if schema.is_null() {
            return raw::RelnameGetRelid(name);
        }
        match schema_oid(schema) {
            pg_sys::InvalidOid => pg_sys::InvalidOid,
            schema => raw::get_relname_relid(name, schema),
        }
    }
}

/// The schema in which something new without a schema is made; NULL where there is none.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn creation_schema() -> *const c_char {
    unsafe {
        // Asked for the path then, the server would make the temporary schema.
        if begins_with_temporary(raw::bytes(pg_sys::namespace_search_path)) {
            return c"pg_temp".as_ptr();
        }
        let path = raw::fetch_search_path(false);
        if path.is_null() || (*path).length == 0 {
            return core::ptr::null();
        }
        raw::get_namespace_name((*(*path).elements).oid_value)
    }
}

fn begins_with_temporary(path: &[u8]) -> bool {
    let path = path.trim_ascii_start();
    let path = path.strip_prefix(b"\"").unwrap_or(path);
    path.get(..7)
        .is_some_and(|p| p.eq_ignore_ascii_case(b"pg_temp"))
        && path
            .get(7)
            .is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_')
}

/// The one function of a name, when it is the only one: its schema, and its arguments. `None` where
/// there is none or are several.
///
/// # Safety
/// `names` is a valid list of names; in a transaction that is not aborted.
pub unsafe fn only_function<'a>(
    names: *mut pg_sys::List,
) -> Option<(*const c_char, &'a [pg_sys::Oid])> {
    unsafe {
        let (schema, _) = compat::last_two(names);
        // The server's look-up reports a schema that may not be used.
        if !schema.is_null() && !compat::may_use_schema(schema_oid(schema)) {
            return None;
        }
        let none = core::ptr::null_mut();
        let found = raw::FuncnameGetCandidates(names, -1, none, false, false, false, true);
        if found.is_null() || !(*found).next.is_null() {
            return None;
        }
        let arguments = (*found).args.as_slice((*found).nargs as usize);
        let schema = raw::get_namespace_name(raw::get_func_namespace((*found).oid));
        Some((schema, arguments))
    }
}

/// Whether whoever may create databases may copy this one.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn is_template(database: pg_sys::Oid) -> bool {
    unsafe {
        row(
            DATABASEOID,
            database,
            |row: *const pg_sys::FormData_pg_database| (*row).datistemplate,
        )
    }
}

/// Whether a role may create databases.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn may_create_databases(role: pg_sys::Oid) -> bool {
    unsafe {
        raw::superuser_arg(role)
            || row(AUTHOID, role, |row: *const pg_sys::FormData_pg_authid| {
                (*row).rolcreatedb
            })
    }
}

/// What `f` says of the row with this OID; `false` where there is none. `f` doesn't throw.
unsafe fn row<T>(cache: u32, oid: pg_sys::Oid, f: impl FnOnce(*const T) -> bool) -> bool {
    unsafe {
        let tuple = raw::SearchSysCache1(cache as c_int, oid.into());
        if tuple.is_null() {
            return false;
        }
        let data = (*tuple).t_data;
        let found = f(data.cast::<u8>().add((*data).t_hoff.into()).cast());
        raw::ReleaseSysCache(tuple);
        found
    }
}
