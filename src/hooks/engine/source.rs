//! Where a top-level statement was found, and what tells that two of its parts belong together.

/// Where a top-level statement was found.
#[derive(Clone, Copy)]
pub struct Source {
    /// The string. Compared, never read.
    pub string: usize,
    /// When its message came.
    pub message_at: i64,
    /// Where in the string, and how many bytes: see `begin::Text`.
    pub location: i32,
    pub len: i32,
}

impl Source {
    pub const NONE: Source = Source {
        string: 0,
        message_at: 0,
        location: 0,
        len: 0,
    };

    /// Where in the string it ends, as far as that is known.
    pub fn end(&self) -> usize {
        if self.len > 0 {
            (self.location.max(0) + self.len) as usize
        } else {
            usize::MAX
        }
    }
}

/// A statement between planner and executor.
#[derive(Clone, Copy)]
pub struct Planned {
    pub source: usize,
    pub location: i32,
    pub message_at: i64,
    pub started_at: i64,
    /// Where its text begins, comments before it included.
    pub text_from: usize,
    /// The last number given out inside it.
    pub last_sub: u32,
}
