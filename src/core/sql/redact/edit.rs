//! The text on its way to the sink, with parts replaced.

use super::super::cut::Sink;

/// What stands for a secret.
pub const REDACTED: &[u8] = b"<REDACTED>";
/// The same as a literal.
pub const REDACTED_LITERAL: &[u8] = b"'<REDACTED>'";

/// Takes replacements in the order of the text and passes on everything else as it is.
pub struct Edit<'a, S> {
    text: &'a [u8],
    /// Everything before is written.
    done: usize,
    out: &'a mut S,
}

impl<'a, S: Sink> Edit<'a, S> {
    pub fn new(text: &'a [u8], out: &'a mut S) -> Self {
        Edit { text, done: 0, out }
    }

    /// Writes `with` for `text[start..end]`. What is already written stays.
    pub fn replace(&mut self, start: usize, end: usize, with: &[u8]) {
        let start = start.max(self.done);
        if end <= start {
            return;
        }
        if let Some(before) = self.text.get(self.done..start).filter(|b| !b.is_empty()) {
            self.out.put(before);
        }
        self.out.put(with);
        self.done = end;
    }

    /// Writes the rest.
    pub fn finish(self) {
        if let Some(rest) = self.text.get(self.done..).filter(|b| !b.is_empty()) {
            self.out.put(rest);
        }
    }
}
