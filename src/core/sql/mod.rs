//! SQL as text: what can be said of a statement without the server's parser.
//!
//! Everything works on bytes in any server encoding (those are ASCII-safe: a byte below 0x80 is
//! always that ASCII character), is linear in the text, allocates nothing but what a [`cut::Sink`]
//! collects, and never panics, so that all of it may be called in an error path.

pub mod attempted;
pub mod command;
pub mod cut;
pub mod lexer;
pub mod redact;
pub mod split;
