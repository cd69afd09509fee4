//! Walking an analyzed query with the server's own walker.

use core::ffi::{c_int, c_void};
use pgrx::pg_sys;

use super::query_relations;

type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

unsafe extern "C-unwind" {
    #[cfg_attr(
        not(any(feature = "pg14", feature = "pg15")),
        link_name = "query_tree_walker_impl"
    )]
    fn query_tree_walker(
        query: *const pg_sys::Query,
        walker: Walker,
        context: *mut c_void,
        flags: c_int,
    ) -> bool;
    #[cfg_attr(
        not(any(feature = "pg14", feature = "pg15")),
        link_name = "expression_tree_walker_impl"
    )]
    fn expression_tree_walker(
        node: *mut pg_sys::Node,
        walker: Walker,
        context: *mut c_void,
    ) -> bool;
}

struct Visit<'f> {
    f: &'f mut dyn FnMut(pg_sys::Oid, u64),
}

/// Calls `f` with each relation that a query, or a query inside of it, names, and the privileges that
/// it needs on it. Throws where the query is too deep for the stack, and what `f` throws.
///
/// # Safety
/// `query` is a valid query.
pub unsafe fn for_each_named_relation(
    query: *const pg_sys::Query,
    f: &mut dyn FnMut(pg_sys::Oid, u64),
) {
    let mut visit = Visit { f };
    unsafe { walk(query.cast_mut().cast(), (&raw mut visit).cast()) };
}

unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            let visit = &mut *context.cast::<Visit>();
            query_relations(node.cast(), visit.f);
            return query_tree_walker(node.cast(), walk, context, 0);
        }
        expression_tree_walker(node, walk, context)
    }
}
