//! Tests of the pure part that need more than the crate itself; see tests/.
