//! Secrets in SQL that parses: the literals that stand where the grammar has a secret.

use super::super::cut::Sink;
use super::super::lexer::{Kind, Lexer, Token};
use super::edit::{Edit, REDACTED};
use super::layer::Fragment;
use super::needle::{self, is_secret_keyword, is_secret_option, is_secret_setting};
use super::{conninfo, fragment, uri};

/// How many dollar-quoted bodies deep statements are looked for. Deeper ones are looked at as
/// fragments.
const DEEPEST: usize = 4;

/// Redacts the statements in `text[start..end]`, which is the whole text or a dollar-quoted body.
pub fn redact<S: Sink>(
    text: &[u8],
    start: usize,
    end: usize,
    standard_conforming_strings: bool,
    depth: usize,
    edit: &mut Edit<S>,
) {
    let text = text.get(..end).unwrap_or(text);
    let mut scan = Scan {
        text,
        start,
        standard_conforming_strings,
        depth,
        edit,
        first: First::Nothing,
        expect: Expect::Nothing,
        in_options: false,
        updates: false,
        tainted: false,
    };
    for token in Lexer::starting_at(text, start, standard_conforming_strings) {
        match token.kind {
            Kind::Space => {}
            Kind::LineComment | Kind::BlockComment => {
                fragment::redact(&scan.inside(token), scan.edit);
            }
            _ => scan.see(token),
        }
    }
}

/// The first keyword of the statement, as far as it says whether SET sets a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Nothing,
    Set,
    Alter,
    Create,
    Other,
}

/// What the tokens before make of the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Nothing,
    /// PASSWORD was there.
    Password,
    /// OPTIONS was there.
    Options,
    /// The name of a secret option was there.
    OptionValue,
    /// SET was there; whether the last part of the name is that of a secret.
    Setting {
        secret: bool,
    },
    /// TO or = of a secret setting, or a comma in its value.
    SettingValue,
    /// A part of the value of a secret setting.
    SettingMore,
    /// set_config
    Config,
    /// set_config(
    ConfigName,
    /// set_config('a.secret'
    ConfigComma,
    /// set_config('a.secret',
    ConfigValue,
}

struct Scan<'a, 'e, 't, S> {
    text: &'a [u8],
    /// Where the body begins; it ends with `text`.
    start: usize,
    standard_conforming_strings: bool,
    depth: usize,
    edit: &'e mut Edit<'t, S>,
    first: First,
    expect: Expect,
    in_options: bool,
    /// UPDATE was there, so that SET is its own.
    updates: bool,
    /// A literal of the statement waits for its secret: see [`fragment::redact`].
    tainted: bool,
}

impl<'a, S: Sink> Scan<'a, '_, '_, S> {
    fn inside(&self, token: Token) -> Fragment<'a> {
        Fragment::inside(self.text, token, self.standard_conforming_strings)
    }

    fn see(&mut self, token: Token) {
        let expect = core::mem::replace(&mut self.expect, Expect::Nothing);
        if token.kind.is_literal() {
            self.literal(token, expect);
        } else if token.kind == Kind::Word {
            self.word(token, expect);
        } else if token.kind.is_quoted_ident() {
            self.quoted_ident(token, expect);
        } else {
            self.other(token, expect);
        }
        if token.kind != Kind::Word && !token.is_punct(self.text, b';') {
            self.first = match self.first {
                First::Nothing => First::Other,
                first => first,
            };
        }
    }

    fn literal(&mut self, token: Token, expect: Expect) {
        let secret = match expect {
            Expect::Password | Expect::OptionValue => true,
            Expect::SettingValue => {
                self.expect = Expect::SettingMore;
                true
            }
            Expect::ConfigName => {
                let name = self.inside(token);
                if is_secret_setting(name.bytes(name.start, name.end)) {
                    self.expect = Expect::ConfigComma;
                }
                false
            }
            Expect::ConfigValue => {
                self.expect = expect;
                true
            }
            _ => false,
        };
        if secret || self.tainted {
            self.edit.replace_literal(token.start, token.end);
        } else if self.is_body(token) {
            let body = self.inside(token);
            let plain = self.standard_conforming_strings;
            redact(
                self.text,
                body.start,
                body.end,
                plain,
                self.depth + 1,
                self.edit,
            );
        } else {
            self.tainted |= fragment::redact(&self.inside(token), self.edit);
        }
    }

    /// Whether a literal is the body of a function or the like and can be read as SQL. A body in
    /// which that leaves a quote open is in another language.
    fn is_body(&self, token: Token) -> bool {
        if token.kind != Kind::DollarString || token.unterminated || self.depth >= DEEPEST {
            return false;
        }
        let body = self.inside(token);
        let within = self.text.get(..body.end).unwrap_or_default();
        if needle::find(within, body.start).is_none() || conninfo::begins(&body) {
            return false;
        }
        self.depth > 0
            || !Lexer::starting_at(within, body.start, self.standard_conforming_strings)
                .any(|token| token.unterminated)
    }

    fn word(&mut self, token: Token, expect: Expect) {
        let text = self.text;
        let is = |keyword| token.is_word(text, keyword);
        if self.first == First::Nothing {
            self.first = match () {
                _ if is("SET") => First::Set,
                _ if is("ALTER") => First::Alter,
                _ if is("CREATE") => First::Create,
                _ => First::Other,
            };
        }
        match expect {
            Expect::Setting { .. } if is("LOCAL") || is("SESSION") => self.expect = expect,
            Expect::Setting { .. } if !is("TO") => {
                let secret = is_secret_setting(token.of(text));
                self.expect = Expect::Setting { secret };
            }
            Expect::Setting { secret: true } => self.expect = Expect::SettingValue,
            Expect::SettingValue if is("DEFAULT") => {}
            Expect::SettingValue => self.setting_value(token),
            Expect::ConfigComma | Expect::ConfigValue => self.expect = expect,
            _ if self.in_options => self.option_name(token),
            _ => self.keyword(token),
        }
    }

    fn keyword(&mut self, token: Token) {
        let text = self.text;
        if self.depth > 0 && is_secret_keyword(token.of(text)) {
            let body = Fragment::raw(text, self.start);
            conninfo::redact_bare(&body, token.start, token.end, self.edit);
        }
        let is = |keyword| token.is_word(text, keyword);
        if is("PASSWORD") {
            self.expect = Expect::Password;
        } else if is("OPTIONS") {
            self.expect = Expect::Options;
        } else if is("SET_CONFIG") {
            self.expect = Expect::Config;
        } else if is("UPDATE") {
            self.updates = true;
        } else if is("SET") {
            let sets = match self.first {
                First::Set | First::Alter => true,
                First::Create => !self.updates,
                _ => false,
            };
            if sets {
                self.expect = Expect::Setting { secret: false };
            }
        } else if is("BEGIN") || is("ATOMIC") || is("THEN") || is("ELSE") || is("LOOP") {
            // In a function's body a statement begins behind these.
            self.begin_statement();
        }
    }

    fn begin_statement(&mut self) {
        self.first = First::Nothing;
        self.updates = false;
    }

    fn quoted_ident(&mut self, token: Token, expect: Expect) {
        match expect {
            Expect::Setting { .. } => {
                let name = self.inside(token);
                let secret = is_secret_setting(name.bytes(name.start, name.end));
                self.expect = Expect::Setting { secret };
            }
            Expect::SettingValue => self.setting_value(token),
            Expect::ConfigComma | Expect::ConfigValue => self.expect = expect,
            _ if self.in_options => self.option_name(token),
            // A string in another language; a connection string in the wrong quotes.
            _ if self.depth > 0 || conninfo::begins(&self.inside(token)) => {
                self.tainted |= fragment::redact(&self.inside(token), self.edit);
            }
            _ => {}
        }
    }

    fn option_name(&mut self, token: Token) {
        if is_secret_option(token.of(self.text)) {
            self.expect = Expect::OptionValue;
        }
    }

    fn setting_value(&mut self, token: Token) {
        self.edit.replace_literal(token.start, token.end);
        self.expect = Expect::SettingMore;
    }

    fn other(&mut self, token: Token, expect: Expect) {
        let text = self.text;
        let is = |byte| token.is_punct(text, byte);
        if is(b';') {
            self.begin_statement();
            self.tainted = false;
            self.in_options = false;
            return;
        }
        if is(b')') {
            self.in_options = false;
        }
        let bytes = token.of(text);
        if self.depth > 0
            && bytes.starts_with(b"//")
            && let Some(colon) = token.start.checked_sub(1)
            && text.get(colon) == Some(&b':')
            && let Some((start, end)) = uri::password(&Fragment::raw(text, self.start), colon)
        {
            // Not SQL, but a text in dollar quotes.
            self.edit.replace(start, end, REDACTED);
        }
        match expect {
            Expect::Options if is(b'(') => self.in_options = true,
            Expect::Setting { .. } if is(b'.') => self.expect = expect,
            Expect::Setting { secret: true } if bytes == b"=" => self.expect = Expect::SettingValue,
            Expect::SettingValue if matches!(bytes, b"+" | b"-") => self.expect = expect,
            Expect::SettingValue if token.kind == Kind::Number => self.setting_value(token),
            Expect::SettingMore if is(b',') => self.expect = Expect::SettingValue,
            Expect::Config if is(b'(') => self.expect = Expect::ConfigName,
            Expect::ConfigComma if is(b',') => self.expect = Expect::ConfigValue,
            Expect::ConfigComma if !is(b')') => self.expect = expect,
            Expect::ConfigValue if !is(b')') && !is(b',') => self.expect = expect,
            _ => {}
        }
    }
}
