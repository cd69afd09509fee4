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

/// Is told of a query's relations. (No closure: that is put wherever the compiler likes, and each place where
/// a session's first statement comes by is a page fault.)
pub trait Told {
    fn relation(&mut self, relid: pg_sys::Oid, privileges: u64);
}

struct Visit<'t> {
    told: &'t mut dyn Told,
}

/// Tells of each relation that a query, or a query inside of it, names, and the privileges that
/// it needs on it. Throws where the query is too deep for the stack, and what `told` throws.
///
/// # Safety
/// `query` is a valid query.
pub unsafe fn for_each_named_relation(query: *const pg_sys::Query, told: &mut dyn Told) {
    let mut visit = Visit { told };
    unsafe { walk(query.cast_mut().cast(), (&raw mut visit).cast()) };
}

unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            let visit = &mut *context.cast::<Visit>();
            query_relations(node.cast(), visit.told);
            return query_tree_walker(node.cast(), walk, context, 0);
        }
        expression_tree_walker(node, walk, context)
    }
}
