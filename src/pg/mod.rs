//! Everything that touches the server's C API. Each function says whether it can throw: "throws"
//! means that PostgreSQL may longjmp out of it, so no value with a destructor may be alive in any
//! frame between it and the server.

pub mod acl;
pub mod announce;
pub mod asks;
pub mod compat;
pub mod connection;
pub mod durability;
pub mod foreign;
pub mod guarded;
pub mod guc;
pub mod heap;
pub mod home;
pub mod identity;
pub mod jsonb;
pub mod lexis;
pub mod limits;
pub mod lookup;
pub mod names;
pub mod near;
pub mod parallel;
pub mod random;
pub mod raw;
pub mod report;
pub mod ring_file;
mod ring_lock;
pub mod schedule;
pub mod scrub;
pub mod session;
pub mod shared;
pub mod signal;
pub mod slot;
pub mod spi;
pub mod trail;
pub mod unlock;
pub mod witness;
