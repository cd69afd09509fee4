//! Literals that stand behind a secret's name, told by their quotes alone.

use super::super::super::cut::Sink;
use super::super::super::lexer::{dollar_end, dollar_tag, is_space};
use super::super::conninfo;
use super::super::edit::REDACTED;
use super::super::layer::{Fragment, Layer};
use super::Scan;

impl<S: Sink> Scan<'_, '_, '_, '_, S> {
    /// Redacts the literal at `at`, whatever its quotes; `None` if there is none.
    pub(super) fn literal(&mut self, at: usize, known: bool) -> Option<usize> {
        let fragment = self.fragment;
        let (first, next) = fragment.get(at)?;
        let second = fragment.get(next);
        match (first, second) {
            (b'\'', _) => self.quoted(at, fragment.layer == Layer::Escaped, known),
            (b'\\', Some((b'\'', _))) => Some(self.escaped(next)),
            (b'$', _) => self.dollar(at),
            (b'e' | b'E', Some((b'\'', _))) => self.quoted(next, true, known),
            (b'n' | b'N' | b'b' | b'B' | b'x' | b'X', Some((b'\'', _))) => {
                self.quoted(next, false, known)
            }
            (b'u' | b'U', Some((b'&', quote))) => match fragment.get(quote) {
                Some((b'\'', _)) => self.quoted(quote, false, known),
                _ => None,
            },
            _ => None,
        }
    }

    fn dollar(&mut self, at: usize) -> Option<usize> {
        let fragment = self.fragment;
        let within = fragment.text.get(..fragment.end)?;
        let body = dollar_tag(within, at)?;
        let tag = body - at;
        let end = dollar_end(within, body, tag).unwrap_or(fragment.end);
        self.edit.replace(body, end, REDACTED);
        Some((end + tag).min(fragment.end))
    }

    /// Redacts between the run of quotes at `at` and the run that closes it.
    pub(super) fn quoted(&mut self, at: usize, escapes: bool, known: bool) -> Option<usize> {
        let fragment = self.fragment;
        let (run, behind) = fragment.quotes(at);
        let next = fragment.get(fragment.blanks(behind)).map(|(byte, _)| byte);
        let glued = fragment
            .get(behind)
            .is_some_and(|(byte, _)| !is_space(byte));
        let ends_here = matches!(next, None | Some(b'|' | b',' | b')' | b';'));
        if run > 1 && !run.is_power_of_two() && ends_here {
            // '…PASSWORD ''' || x: the literal and the one around it end together.
            return Some(self.later(at, known).max(behind));
        }
        if known && run == 1 && matches!(next, Some(b'|' | b',')) {
            // '…PASSWORD ' || x. If it is a password that begins so, it goes as well.
            return Some(self.later(at, known).max(behind));
        }
        let unit = 1usize << run.trailing_zeros();
        let start = fragment.skip(at, unit);
        let (end, closed) = closing(fragment, start, unit, escapes);
        if start == end {
            self.open |= next.is_none() && known;
            return Some(behind);
        }
        if !closed && run > 1 && (!glued || ends_here) {
            // An empty literal.
            self.open |= next.is_none() && known;
            return Some(behind);
        }
        let value = fragment.bytes(start, end);
        if conninfo::placeholder(value) == Some(value.len()) {
            return Some(self.later(end, known));
        }
        self.edit.replace(start, end, REDACTED);
        Some(end)
    }

    /// Whether the quote behind `password=` is the end of a literal and not the beginning of the
    /// value: it is one quote, and no value follows.
    pub(super) fn ends_literal(&self, at: usize) -> bool {
        let (run, behind) = self.fragment.quotes(at);
        let next = self.fragment.get(self.fragment.blanks(behind));
        run == 1 && matches!(next, None | Some((b'|' | b',' | b')' | b';', _)))
    }

    /// Redacts `\'…\'`, a literal in an E'' that is itself in quotes, so that backslashes and runs
    /// of quotes come together. `at` is that of the first run. Returns where the contents end.
    pub(super) fn escaped(&mut self, at: usize) -> usize {
        let fragment = self.fragment;
        let (unit, start) = fragment.quotes(at);
        let mut at = start;
        let mut end = fragment.end;
        while let Some((byte, next)) = fragment.get(at) {
            match (byte, fragment.get(next)) {
                (b'\\', Some((b'\'', _))) => {
                    let behind = fragment.skip(next, unit);
                    let again = fragment.skip(behind, 1);
                    if let (Some((b'\\', _)), Some((b'\'', _))) =
                        (fragment.get(behind), fragment.get(again))
                    {
                        // A doubled quote.
                        at = fragment.skip(again, unit);
                        continue;
                    }
                    end = at;
                    break;
                }
                (b'\\', Some((b'\\', behind))) => {
                    // An escaped backslash, which escapes the quote that follows it.
                    let quote = fragment.skip(behind, 1);
                    let escapes = matches!(fragment.get(behind), Some((b'\\', _)))
                        && matches!(fragment.get(quote), Some((b'\'', _)));
                    at = if escapes {
                        fragment.skip(quote, unit)
                    } else {
                        behind
                    };
                }
                (b'\'', _) => {
                    end = at;
                    break;
                }
                _ => at = next,
            }
        }
        self.edit.replace(start, end, REDACTED);
        end.max(start)
    }
}

/// Where the contents end of a literal in runs of `unit` quotes, and whether it is closed there.
fn closing(fragment: &Fragment, start: usize, unit: usize, escapes: bool) -> (usize, bool) {
    let mut at = start;
    while let Some((byte, next)) = fragment.get(at) {
        if byte == b'\\' && escapes {
            let escaped = if let Some((b'\'', _)) = fragment.get(next) {
                unit
            } else {
                1
            };
            at = fragment.skip(next, escaped);
            continue;
        }
        if byte != b'\'' {
            at = next;
            continue;
        }
        let (run, behind) = fragment.quotes(at);
        let units = run / unit;
        if units % 2 == 1 {
            return (fragment.skip(at, (units - 1) * unit), true);
        }
        if run % unit != 0 {
            return (fragment.skip(at, units * unit), false);
        }
        at = behind;
    }
    (fragment.end, false)
}
