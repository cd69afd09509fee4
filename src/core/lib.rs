//! The pure part of audit_ext: what an event is, how it travels through the ring, what the level
//! grammar means, how SQL text is cut and redacted, how the trail is hashed and proven. It knows no PostgreSQL and does no I/O, so that
//! the extension, `audit-verify`, tests, fuzzers and benches share one implementation.

pub mod calendar;
pub mod classify;
pub mod codec;
mod crc;
pub mod drops;
pub mod event;
pub mod fate;
pub mod fit;
pub mod json;
pub mod level;
pub mod missing;
pub mod note;
pub mod numbers;
pub mod proof;
pub mod record;
pub mod repeat;
pub mod ring;
#[cfg(not(loom))]
pub mod settle;
pub mod sha;
#[cfg(not(loom))]
pub mod slot;
pub mod sql;
pub mod tree;
pub mod trial;
