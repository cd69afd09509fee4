//! What the tables hold, read back: for the worker, for the SQL functions. Hashes of what is stored
//! (`canon`, `reader`), the tree over them (`store`, `tree`), what is kept when a partition is
//! dropped (`retain`) or a value is destroyed (`erase`), who signs (`keys`, `origin`).

pub mod canon;
pub mod erase;
pub mod keys;
pub mod origin;
pub mod reader;
pub mod retain;
pub mod store;
pub mod tree;
