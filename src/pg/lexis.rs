//! How the server reads string literals. `standard_conforming_strings` may be another when a text is taken down
//! than it was when the server parsed it: in a string of several statements, between Parse and Execute.

use pgrx::pg_sys;

use super::raw;

const NAME: &[u8] = b"standard_conforming_strings";

/// As the session began, if it has.
static mut FIRST: Option<bool> = None;
/// A statement has named the setting since.
static mut NAMED: bool = false;

/// `standard_conforming_strings` as it is now.
pub fn plain() -> bool {
    // SAFETY of all uses: a backend is one thread.
    unsafe { pg_sys::standard_conforming_strings }
}

/// The session begins.
pub fn begin() {
    unsafe { FIRST = Some(plain()) };
}

/// Whether texts may have been parsed under the other value.
pub fn is_unsure() -> bool {
    unsafe { NAMED || FIRST.is_some_and(|first| first != plain()) }
}

/// A utility statement begins. Never throws.
///
/// # Safety
/// `node` is one.
#[inline]
pub unsafe fn note(node: *const pg_sys::Node) {
    unsafe {
        if (*node).type_ == pg_sys::NodeTag::T_VariableSetStmt {
            let name = (*node.cast::<pg_sys::VariableSetStmt>()).name;
            NAMED |= raw::bytes(name).eq_ignore_ascii_case(NAME);
        }
    }
}
