//! Nodes of statements: names, constants, and what only some versions have.

use pgrx::pg_sys;

use super::{for_each_pointer, string};

/// Schema (or NULL) and name of a dotted name; a database before them is left out. Never throws.
///
/// # Safety
/// `names` is a list of strings that is not empty.
pub unsafe fn last_two(
    names: *const pg_sys::List,
) -> (*const core::ffi::c_char, *const core::ffi::c_char) {
    unsafe {
        let len = (*names).length as usize;
        let part = |i: usize| string((*(*names).elements.add(i)).ptr_value.cast());
        match len {
            0 => (core::ptr::null(), c"".as_ptr()),
            1 => (core::ptr::null(), part(0)),
            _ => (part(len - 2), part(len - 1)),
        }
    }
}

/// A constant in a statement.
pub enum Constant {
    Text(*const core::ffi::c_char),
    Integer(i64),
    /// NULL, or no constant.
    None,
}

/// The constant that a node is. Never throws.
///
/// # Safety
/// `node` is NULL or a valid node.
#[cfg(feature = "pg14")]
pub unsafe fn constant(node: *const pg_sys::Node) -> Constant {
    use pg_sys::NodeTag::*;
    unsafe {
        if node.is_null() {
            return Constant::None;
        }
        match (*node).type_ {
            T_Integer => Constant::Integer((*node.cast::<pg_sys::Value>()).val.ival.into()),
            T_String | T_Float => Constant::Text(string(node.cast())),
            T_A_Const => constant((&raw const (*node.cast::<pg_sys::A_Const>()).val).cast()),
            T_TypeCast => constant((*node.cast::<pg_sys::TypeCast>()).arg),
            _ => Constant::None,
        }
    }
}

/// The constant that a node is. Never throws.
///
/// # Safety
/// `node` is NULL or a valid node.
#[cfg(not(feature = "pg14"))]
pub unsafe fn constant(node: *const pg_sys::Node) -> Constant {
    use pg_sys::NodeTag::*;
    unsafe {
        if node.is_null() {
            return Constant::None;
        }
        match (*node).type_ {
            T_Integer => Constant::Integer((*node.cast::<pg_sys::Integer>()).ival.into()),
            T_String => Constant::Text(string(node.cast())),
            T_Float => Constant::Text((*node.cast::<pg_sys::Float>()).fval),
            T_Boolean if (*node.cast::<pg_sys::Boolean>()).boolval => {
                Constant::Text(c"true".as_ptr())
            }
            T_Boolean => Constant::Text(c"false".as_ptr()),
            T_A_Const if (*node.cast::<pg_sys::A_Const>()).isnull => Constant::None,
            T_A_Const => constant((&raw const (*node.cast::<pg_sys::A_Const>()).val).cast()),
            T_TypeCast => constant((*node.cast::<pg_sys::TypeCast>()).arg),
            _ => Constant::None,
        }
    }
}

/// Calls `f` with each table that CREATE or ALTER PUBLICATION names. Never throws itself.
///
/// # Safety
/// `node` is one of the two.
#[cfg(feature = "pg14")]
pub unsafe fn for_each_published(
    node: *const pg_sys::Node,
    f: &mut dyn FnMut(*const pg_sys::RangeVar),
) {
    unsafe {
        let tables = match (*node).type_ {
            pg_sys::NodeTag::T_CreatePublicationStmt => {
                (*node.cast::<pg_sys::CreatePublicationStmt>()).tables
            }
            _ => (*node.cast::<pg_sys::AlterPublicationStmt>()).tables,
        };
        for_each_pointer(tables, |table: *mut pg_sys::RangeVar| f(table));
    }
}

/// As above: from 15 on there are schemas among them, and filters.
///
/// # Safety
/// `node` is one of the two.
#[cfg(not(feature = "pg14"))]
pub unsafe fn for_each_published(
    node: *const pg_sys::Node,
    f: &mut dyn FnMut(*const pg_sys::RangeVar),
) {
    unsafe {
        let objects = match (*node).type_ {
            pg_sys::NodeTag::T_CreatePublicationStmt => {
                (*node.cast::<pg_sys::CreatePublicationStmt>()).pubobjects
            }
            _ => (*node.cast::<pg_sys::AlterPublicationStmt>()).pubobjects,
        };
        for_each_pointer(objects, |object: *mut pg_sys::PublicationObjSpec| {
            if !(*object).pubtable.is_null() {
                f((*(*object).pubtable).relation);
            }
        });
    }
}

/// Whether an ALTER DATABASE … REFRESH COLLATION VERSION (15 on): its database, else NULL. Never throws.
///
/// # Safety
/// `node` is a valid node.
pub unsafe fn refreshed_database(node: *const pg_sys::Node) -> *const core::ffi::c_char {
    #[cfg(not(feature = "pg14"))]
    unsafe {
        if (*node).type_ == pg_sys::NodeTag::T_AlterDatabaseRefreshCollStmt {
            return (*node.cast::<pg_sys::AlterDatabaseRefreshCollStmt>()).dbname;
        }
    }
    #[cfg(feature = "pg14")]
    let _ = node;
    core::ptr::null()
}

/// Whether an object type is PARAMETER, which has privileges of its own since 15.
pub fn is_parameter(kind: pg_sys::ObjectType::Type) -> bool {
    #[cfg(not(feature = "pg14"))]
    return kind == pg_sys::ObjectType::OBJECT_PARAMETER_ACL;
    #[cfg(feature = "pg14")]
    {
        let _ = kind;
        false
    }
}

/// Whether the current user has USAGE on a schema that may not exist. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
#[cfg(any(feature = "pg14", feature = "pg15"))]
pub unsafe fn may_use_schema(schema: pg_sys::Oid) -> bool {
    unsafe extern "C-unwind" {
        fn pg_namespace_aclcheck(
            schema: pg_sys::Oid,
            role: pg_sys::Oid,
            mode: pg_sys::AclMode,
        ) -> pg_sys::AclResult::Type;
    }
    let usage = pg_sys::ACL_USAGE as pg_sys::AclMode;
    unsafe {
        schema != pg_sys::InvalidOid
            && pg_namespace_aclcheck(schema, crate::pg::raw::GetUserId(), usage)
                == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// As above: from 16 on one function serves all kinds of objects.
///
/// # Safety
/// In a transaction that is not aborted.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
pub unsafe fn may_use_schema(schema: pg_sys::Oid) -> bool {
    unsafe extern "C-unwind" {
        fn object_aclcheck(
            class: pg_sys::Oid,
            object: pg_sys::Oid,
            role: pg_sys::Oid,
            mode: pg_sys::AclMode,
        ) -> pg_sys::AclResult::Type;
    }
    let usage = pg_sys::ACL_USAGE as pg_sys::AclMode;
    let class = pg_sys::NamespaceRelationId;
    unsafe {
        schema != pg_sys::InvalidOid
            && object_aclcheck(class, schema, crate::pg::raw::GetUserId(), usage)
                == pg_sys::AclResult::ACLCHECK_OK
    }
}
