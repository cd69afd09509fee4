//! From the server's calls to events in the ring. One file per family of hooks; what they share:
//! `capture` (whether at all), `begin` (what is known at the start), `frame` and `engine` (what is
//! under way), `emit` (out to the ring).

/// A field of a node that is known to be of a type.
macro_rules! field {
    ($node:ident as $type:ident . $field:ident) => {
        (*$node.cast::<pg_sys::$type>()).$field
    };
}

pub mod analyze;
pub mod apply;
pub mod attempted;
pub mod begin;
pub mod capture;
pub mod checks;
pub mod describe;
pub mod details;
pub mod drops;
pub mod emit;
pub mod engine;
pub mod error;
pub mod executor;
pub mod extension;
pub mod found;
pub mod frame;
pub mod functions;
pub mod guard;
pub mod guard_names;
pub mod guard_objects;
pub mod guard_roles;
pub mod guard_session;
pub mod guard_trigger;
pub mod guard_utility;
pub mod object;
pub mod objects;
pub mod parameters;
pub mod planned;
pub mod planner;
pub mod relations;
pub mod repeats;
pub mod replication;
pub mod room;
pub mod rules;
pub mod session;
pub mod settings;
pub mod truncated;
pub mod used;
pub mod utility;
pub mod wrapped;
pub mod xact;

/// Installs all hooks.
///
/// # Safety
/// From `_PG_init` only, in the postmaster.
pub unsafe fn install() {
    unsafe {
        error::install();
        session::install();
        settings::take_down();
        repeats::install();
        executor::install();
        analyze::install();
        planner::install();
        utility::install();
        xact::install();
        extension::install();
        replication::install();
        guard_session::install();
    }
}
