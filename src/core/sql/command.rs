//! The command of a text that has no parse tree.

use super::lexer::Lexer;

/// The command tag by the first keywords; `UNKNOWN` where they say nothing.
pub fn command_of_first_keyword(text: &[u8]) -> &'static str {
    let mut words = Lexer::new(text, true).filter(|token| !token.kind.is_blank());
    match words.next() {
        Some(word) if word.is_word(text, "SELECT") => "SELECT",
        _ => "UNKNOWN",
    }
}
