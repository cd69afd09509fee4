//! The text on its way to the sink, with parts replaced.

use super::super::cut::Sink;
use super::super::lexer::{Kind, Lexer, is_ident};

/// What stands for a secret.
pub const REDACTED: &[u8] = b"<REDACTED>";
/// The same as a quoted identifier.
pub const REDACTED_IDENT: &[u8] = b"\"<REDACTED>\"";
/// The same as a literal.
const REDACTED_LITERAL: &[u8] = b"'<REDACTED>'";

const SPACED_LITERAL: &[u8] = b" '<REDACTED>'";

/// Takes replacements in the order of the text and passes on everything else as it is.
pub struct Edit<'a, S> {
    text: &'a [u8],
    /// Everything before is written.
    done: usize,
    /// What was written last is `'<REDACTED>'`.
    after_literal: bool,
    out: &'a mut S,
}

impl<'a, S: Sink> Edit<'a, S> {
    pub fn new(text: &'a [u8], out: &'a mut S) -> Self {
        Edit {
            text,
            done: 0,
            after_literal: false,
            out,
        }
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
        self.after_literal = false;
        self.done = end;
    }

    /// Writes `'<REDACTED>'` for a token, apart from what would make it a part of another literal:
    /// `u&"x"` must not become `u&'…'`.
    pub fn replace_literal(&mut self, start: usize, end: usize) {
        if self.after_literal && self.is_seam(start) {
            // Behind a newline the two would be one literal.
            self.done = end.max(self.done);
            return;
        }
        let starts_alike = self.text.get(start) == Some(&b'\'');
        let glued = start > self.done
            && self
                .text
                .get(start.wrapping_sub(1))
                .is_some_and(|&byte| is_ident(byte) || matches!(byte, b'&' | b'\''));
        if glued && !starts_alike {
            self.replace(start, end, SPACED_LITERAL);
        } else {
            self.replace(start, end, REDACTED_LITERAL);
        }
        self.after_literal = true;
    }

    /// Whether a quote at `start` would continue a literal that ends at `done`.
    fn is_seam(&self, start: usize) -> bool {
        let gap = self.text.get(self.done..start).unwrap_or_default();
        gap.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
            && Lexer::new(gap, true)
                .all(|token| matches!(token.kind, Kind::Space | Kind::LineComment))
    }

    /// Writes the rest.
    pub fn finish(self) {
        if let Some(rest) = self.text.get(self.done..).filter(|b| !b.is_empty()) {
            self.out.put(rest);
        }
    }
}
