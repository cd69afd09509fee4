//! audit_ext: every statement of a PostgreSQL cluster in a trail that can be queried.
//!
//! ```text
//! backend: hooks → event → codec → ring (pg::ring_file)      worker: ring → batch → trail
//! ```
//!
//! * `audit_core` (src/core): event, codec, ring, level, SQL text. Pure.
//! * `pg`: the server's C API.
//! * `hooks`: from the server's calls to events in the ring.
//! * `worker`: from the ring to the tables of schema `audit`.
//! * `api`: SQL functions and the schema.
//!
//! Arrows point one way: hooks, worker and api use pg and core; hooks and worker meet in the ring.
//! docs/architecture.md tells the rest.

#[cfg(not(panic = "unwind"))]
compile_error!("audit_ext must be built with panic = \"unwind\"");

use pgrx::pg_sys;

mod api;
mod hooks;
mod pg;
mod worker;

pgrx::pg_module_magic!();

/// Called when the server loads the library. Outside of shared_preload_libraries nothing is
/// installed: CREATE EXTENSION then says what to do. In pg_upgrade's servers it stays out of the way.
///
/// # Safety
/// Called by the server.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn _PG_init() {
    unsafe {
        if !pg_sys::process_shared_preload_libraries_in_progress {
            return;
        }
        if pg_sys::IsBinaryUpgrade {
            pg::home::install_for_upgrade();
            return;
        }
        pg::guc::define();
        pg::shared::install();
        pg::names::install();
        pg::foreign::install();
        pg::near::install();
        hooks::install();
        worker::register();
    }
}
