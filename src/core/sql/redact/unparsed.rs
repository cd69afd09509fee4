//! Secrets in text that the server could not parse.
//!
//! Nothing is known of where they are, so from the first needle on every literal goes, and every
//! quoted identifier (`PASSWORD "x"` is a common mistake). In a role's statement all literals go, as
//! it may be the needle that is misspelt. Where the quotes cannot be right, as in `'it's'`,
//! everything goes; where they lack, what stands in a secret's place, up to the end of the statement.

use super::super::cut::Sink;
use super::super::lexer::{Kind, Lexer, Token, is_space};
use super::edit::{Edit, REDACTED, REDACTED_IDENT};
use super::layer::Fragment;
use super::needle::{self, is_secret_option};
use super::uri;

/// Whether what follows is a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// If `=` or TO comes before it.
    Sign,
    Value,
}

/// Redacts a text whose first needle is at `from` and whose first role's statement is at `role`.
pub fn redact<S: Sink>(
    text: &[u8],
    from: Option<usize>,
    role: Option<usize>,
    standard_conforming_strings: bool,
    edit: &mut Edit<S>,
) {
    let idents = from.unwrap_or(text.len());
    let from = role.map_or(idents, |role| role.min(idents));
    let lexer = Lexer::new(text, standard_conforming_strings);
    let is_quoted = |token: &Token| token.kind.is_literal() || token.kind.is_quoted_ident();
    let broken = lexer
        .clone()
        .any(|token| token.unterminated && is_quoted(&token));
    let mut tokens = lexer.peekable();
    let mut statement = Statement::default();
    let mut wait = Wait::Nothing;
    // Where the literal begins that was the last token, if it stays.
    let mut literal = None;
    while let Some(token) = tokens.next() {
        let is = |keyword| token.is_word(text, keyword);
        if token.kind.is_blank() {
            if token.end > from && token.kind != Kind::Space {
                comment(text, token, edit);
                // What was written already can't be replaced together with what follows.
                literal = None;
            }
            continue;
        }
        let adjacent = literal.take();
        if token.kind.is_literal() && token.end <= from {
            literal = Some(token.start);
        }
        let goes = match token.kind.is_literal() {
            true => token.end > from,
            false => token.kind.is_quoted_ident() && token.end > idents,
        };
        if goes {
            // With a literal right before, which could become one with it.
            let start = adjacent.unwrap_or(token.start);
            if (broken && !token.unterminated) || tokens.peek().is_some_and(is_glued) {
                return edit.replace_literal(start, text.len());
            }
            if token.kind.is_literal() {
                edit.replace_literal(start, token.end);
            } else {
                edit.replace(token.start, token.end, REDACTED_IDENT);
            }
            let names = statement.options && token.kind.is_quoted_ident();
            wait = match names && is_secret_option(token.of(text)) {
                true => Wait::Value,
                false => Wait::Nothing,
            };
            continue;
        }
        let ends = token.is_punct(text, b';');
        let sign = matches!(token.of(text), b"=" | b":=") || (statement.sets && is("TO"));
        wait = match wait {
            Wait::Value if ends || is("NULL") || is("DEFAULT") => Wait::Nothing,
            Wait::Value if sign || is("BY") || matches!(token.of(text), b":" | b"(") => Wait::Value,
            Wait::Value => {
                // PASSWORD secret
                let mut end = token.end;
                while let Some(next) = tokens.next_if(|next| !is_end(text, next)) {
                    if next.kind != Kind::Space {
                        end = next.end;
                    }
                    if is_quoted(&next) {
                        end = text.len();
                    }
                }
                edit.replace_literal(token.start, end);
                Wait::Nothing
            }
            Wait::Sign if sign => Wait::Value,
            _ => statement.wait_behind(text, token),
        };
        statement.see(text, token, ends);
    }
}

/// What the words of a statement up to now make of the next ones.
#[derive(Default)]
struct Statement {
    /// ALTER or CREATE was there.
    creates: bool,
    /// So was SET, or one of those.
    sets: bool,
    options: bool,
}

impl Statement {
    fn see(&mut self, text: &[u8], token: Token, ends: bool) {
        if ends {
            *self = Statement::default();
        } else if token.kind == Kind::Word {
            let is = |keyword| token.is_word(text, keyword);
            self.creates |= is("ALTER") || is("CREATE");
            self.sets |= self.creates || is("SET");
            self.options |= is("OPTIONS");
        }
    }

    /// Whether a secret follows the token.
    fn wait_behind(&self, text: &[u8], token: Token) -> Wait {
        let bytes = token.of(text);
        let colon = token.start.wrapping_sub(1);
        if token.kind == Kind::Word && is_secret_option(bytes) {
            return match self.options || (self.creates && token.is_word(text, "PASSWORD")) {
                true => Wait::Value,
                false => Wait::Sign,
            };
        }
        if self.creates && token.is_word(text, "IDENTIFIED") {
            // BY: other databases' PASSWORD
            return Wait::Value;
        }
        let is_uri = token.kind == Kind::Operator
            && bytes.starts_with(b"//")
            && text.get(colon) == Some(&b':')
            && uri::may_have_password(text, colon);
        match is_uri {
            true => Wait::Value,
            false => Wait::Nothing,
        }
    }
}

/// Where ALTER or CREATE stands for the first time with ROLE, USER or GROUP behind it.
pub fn role_statement(text: &[u8], standard_conforming_strings: bool) -> Option<usize> {
    let mut verb = None;
    for token in Lexer::new(text, standard_conforming_strings) {
        if token.kind.is_blank() {
            continue;
        }
        let is = |keyword| token.is_word(text, keyword);
        if verb.is_some() && (is("ROLE") || is("USER") || is("GROUP")) {
            return verb;
        }
        verb = (is("ALTER") || is("CREATE")).then_some(token.start);
    }
    None
}

/// Whether a semicolon ends the statement, and is not a part of a secret without quotes.
fn is_end(text: &[u8], token: &Token) -> bool {
    token.is_punct(text, b';') && text.get(token.end).is_none_or(|&byte| is_space(byte))
}

/// Whether a token right behind a literal shows that the literal does not end there.
fn is_glued(next: &Token) -> bool {
    !next.kind.is_blank() && !matches!(next.kind, Kind::Punct | Kind::Operator)
}

/// A comment with a needle in it goes whole: to cut a literal out of it could change where it ends.
fn comment<S: Sink>(text: &[u8], token: Token, edit: &mut Edit<S>) {
    let inside = Fragment::inside(text, token, true);
    let within = text.get(..inside.end).unwrap_or_default();
    if token.unterminated || needle::find(within, inside.start).is_some() {
        edit.replace(inside.start, inside.end, REDACTED);
    }
}
