//! What users do to the home: DROP EXTENSION and DROP DATABASE (from the commit on everybody knows that
//! there is no home any more), and what needs it free of connections (RENAME, SET TABLESPACE, TEMPLATE).

use core::ffi::{c_int, c_void};
use core::hint::cold_path;
use pgrx::pg_sys;

use super::{drops, functions, guard_objects, truncated};
use crate::pg::shared::{HOME_NONE, shared};
use crate::pg::{compat, foreign, home, lookup, raw};

#[unsafe(link_section = "audit_data")]
static mut NEXT: pg_sys::object_access_hook_type = None;

/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        let earlier = pg_sys::object_access_hook;
        NEXT = earlier;
        // Who was there before us is told of every call.
        let alone = earlier.is_none();
        pg_sys::object_access_hook = Some(if alone { object_access } else { accessed });
    }
}

/// A statement that the server refuses while anybody is connected to the home makes the worker leave
/// it, if its user may do that to the home. Whoever may create databases may copy a template of others, too.
/// Throws.
///
/// # Safety
/// `node` is a utility statement; in a transaction that is not aborted.
pub unsafe fn make_way(node: *mut pg_sys::Node) {
    unsafe {
        let mut copies = false;
        let database = match (*node).type_ {
            pg_sys::NodeTag::T_RenameStmt => {
                let stmt = node.cast::<pg_sys::RenameStmt>();
                if (*stmt).renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                    return;
                }
                (*stmt).subname.cast_const()
            }
            pg_sys::NodeTag::T_AlterDatabaseStmt => {
                let stmt = node.cast::<pg_sys::AlterDatabaseStmt>();
                if option(c"tablespace", (*stmt).options).is_null() {
                    return;
                }
                (*stmt).dbname.cast_const()
            }
            pg_sys::NodeTag::T_CreatedbStmt => {
                copies = true;
                let template = option(c"template", (*node.cast::<pg_sys::CreatedbStmt>()).options);
                if template.is_null() {
                    c"template1".as_ptr()
                } else {
                    template
                }
            }
            _ => return,
        };
        let Some(shared) = shared() else { return };
        let oid = pg_sys::Oid::from(shared.home());
        let home = raw::get_database_name(oid);
        if database.is_null() || home.is_null() || raw::bytes(database) != raw::bytes(home) {
            return;
        }
        let user = raw::GetUserId();
        if compat::owns_database(oid, user)
            || copies && lookup::is_template(oid) && lookup::may_create_databases(user)
        {
            home::detach_worker();
        }
    }
}

/// The string value of an option; NULL where it isn't given or is no string. Never throws.
unsafe fn option(name: &core::ffi::CStr, options: *const pg_sys::List) -> *const core::ffi::c_char {
    let mut value = core::ptr::null();
    unsafe {
        compat::for_each_pointer(options, |option: *mut pg_sys::DefElem| {
            let argument = (*option).arg;
            if raw::bytes((*option).defname) == name.to_bytes()
                && !argument.is_null()
                && (*argument).type_ == pg_sys::NodeTag::T_String
            {
                value = compat::string(argument.cast());
            }
        });
    }
    value
}

/// [`accessed`], where nobody else listens: of the calls of functions only those that may leave something.
#[unsafe(link_section = "audit_first")]
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    arg: *mut c_void,
) {
    unsafe {
        // The server asks for each function of each expression that it makes ready.
        let called = access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE;
        if !(called && functions::are_surely_left_out(object)) {
            accessed(access, class, object, sub, arg);
        }
    }
}

/// A plain frame. Throws.
#[inline(never)]
#[unsafe(link_section = "audit_session")]
unsafe extern "C-unwind" fn accessed(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    arg: *mut c_void,
) {
    unsafe {
        if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE {
            functions::called(object);
        } else {
            if access != pg_sys::ObjectAccessType::OAT_NAMESPACE_SEARCH {
                foreign::object_changed();
            }
            guard_objects::check(access, class, object, sub, arg);
        }
        if access == pg_sys::ObjectAccessType::OAT_DROP {
            cold_path();
            if class == pg_sys::ExtensionRelationId {
                extension_dropped(object);
            } else if class == pg_sys::DatabaseRelationId {
                database_dropped(object);
            }
            drops::object_dropped(class, object, sub, arg.cast());
        } else if access == pg_sys::ObjectAccessType::OAT_TRUNCATE {
            cold_path();
            truncated::emptied(object);
        }
        if let Some(next) = NEXT {
            next(access, class, object, sub, arg);
        }
    }
}

/// Takes the label away in the transaction that drops the extension. Throws.
unsafe fn extension_dropped(extension: pg_sys::Oid) {
    unsafe {
        if extension != raw::get_extension_oid(c"audit_ext".as_ptr(), true) {
            return;
        }
        home::unmark_in_hook();
    }
}

/// DROP DATABASE takes the label with it.
unsafe fn database_dropped(database: pg_sys::Oid) {
    if shared().is_some_and(|shared| shared.home() == database.to_u32()) {
        home::will_be(HOME_NONE);
    }
}
