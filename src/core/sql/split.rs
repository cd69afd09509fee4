//! Cutting one statement out of a string of several.

use core::ops::Range;

use super::lexer::{Kind, Lexer, Token, is_space};

/// The statement that begins at byte `offset`: from its first token or comment to the last before
/// its top-level `;`. A `;` in parentheses (CREATE RULE) or in the body of an SQL function
/// (BEGIN ATOMIC … END) does not end it. Empty, at a place in the text, if there is none.
///
/// Backslashes in plain strings are taken as standard_conforming_strings = on takes them; see
/// [`statement_in`].
pub fn statement_at(text: &[u8], offset: usize) -> Range<usize> {
    statement_in(text, offset, true)
}

/// [`statement_at`] with the setting.
pub fn statement_in(text: &[u8], offset: usize, standard_conforming_strings: bool) -> Range<usize> {
    let mut body = Body::default();
    let mut parens = 0usize;
    let mut range: Option<Range<usize>> = None;
    for token in Lexer::starting_at(text, offset, standard_conforming_strings) {
        if token.is_punct(text, b';') && parens == 0 && body.depth == 0 {
            match range {
                Some(_) => break,
                None => continue,
            }
        }
        if token.kind == Kind::Space {
            continue;
        }
        range = Some(range.map_or(token.start, |range| range.start)..token.end);
        if token.is_punct(text, b'(') {
            parens += 1;
        } else if token.is_punct(text, b')') {
            parens = parens.saturating_sub(1);
        }
        if !token.kind.is_blank() {
            body.see(text, token, parens);
        }
    }
    range.unwrap_or_else(|| {
        let end = text.len();
        end..end
    })
}

/// Whether nothing is left from byte `offset` on but blanks, comments and `;`.
pub fn is_rest_empty(text: &[u8], offset: usize) -> bool {
    Lexer::starting_at(text, offset, true)
        .all(|token| token.kind.is_blank() || token.is_punct(text, b';'))
}

/// Without blanks around it and `;` behind it. Looks at bytes only, so that a `;` that ends a
/// trailing comment goes too.
#[inline]
pub fn trim(text: &[u8]) -> &[u8] {
    let ends_with = |byte: u8| !is_space(byte) && byte != b';';
    match text {
        [first, .., last] if !is_space(*first) && ends_with(*last) => text,
        _ => trim_ends(text),
    }
}

#[inline(never)]
fn trim_ends(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !is_space(byte));
    let end = text
        .iter()
        .rposition(|&byte| !is_space(byte) && byte != b';');
    match (start, end) {
        (Some(start), Some(end)) => text.get(start..=end).unwrap_or_default(),
        _ => &[],
    }
}

/// Follows the words of a statement to know when it is inside BEGIN ATOMIC … END.
#[derive(Default)]
struct Body {
    /// BEGINs and CASEs not yet ended.
    depth: usize,
    head: Head,
    before: Before,
}

/// How much of CREATE [OR REPLACE] FUNCTION | PROCEDURE has been seen.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Head {
    #[default]
    Nothing,
    Create,
    Or,
    Replace,
    Routine,
    Different,
}

/// The token before, as far as it changes what a word means.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Before {
    #[default]
    Anything,
    Begin,
    /// A label or a part of a qualified name follows, no keyword.
    Name,
}

impl Body {
    fn see(&mut self, text: &[u8], token: Token, parens: usize) {
        if self.head == Head::Different {
            return;
        }
        let is = |keyword| token.is_word(text, keyword);
        self.head = match self.head {
            Head::Nothing if is("CREATE") => Head::Create,
            Head::Create if is("OR") => Head::Or,
            Head::Or if is("REPLACE") => Head::Replace,
            Head::Create | Head::Replace if is("FUNCTION") || is("PROCEDURE") => Head::Routine,
            Head::Routine => Head::Routine,
            _ => Head::Different,
        };
        let before = core::mem::take(&mut self.before);
        if token.is_punct(text, b'.') || is("AS") {
            self.before = Before::Name;
        }
        if self.head != Head::Routine || before == Before::Name {
            return;
        }
        if self.depth > 0 {
            if is("CASE") {
                self.depth += 1;
            } else if is("END") {
                self.depth -= 1;
            }
        } else if is("BEGIN") && parens == 0 {
            self.before = Before::Begin;
        } else if is("ATOMIC") && before == Before::Begin {
            self.depth = 1;
        }
    }
}
