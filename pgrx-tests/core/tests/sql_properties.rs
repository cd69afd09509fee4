//! What holds for any text: tiling, soundness, idempotence, no secret left, linear time.

use std::time::{Duration, Instant};

use audit_core::sql::command::command_of_first_keyword;
use audit_core::sql::cut::CutSink;
use audit_core::sql::lexer::Lexer;
use audit_core::sql::redact::{Options, may_hold_secret, redact_error_message, redact_into};
use audit_core::sql::split::{is_rest_empty, statement_at, trim};
use proptest::prelude::*;
use proptest::sample::select;

const ALL: [Options; 4] = [
    options(true, false),
    options(true, true),
    options(false, false),
    options(false, true),
];

const fn options(standard_conforming_strings: bool, unparsed: bool) -> Options {
    Options {
        standard_conforming_strings,
        unparsed,
    }
}

fn redact(text: &[u8], options: Options) -> Vec<u8> {
    let mut out = Vec::new();
    redact_into(text, options, &mut out);
    out
}

/// What the code looks at, so that random texts reach all of it.
const PIECES: [&str; 84] = [
    "'",
    "''",
    "''''",
    "\"",
    "$$",
    "$a$",
    "$",
    "\\",
    "\\'",
    "E'",
    "U&'",
    "u&\"",
    "N'",
    "B'",
    "--",
    "/*",
    "*/",
    "\n",
    " ",
    " ",
    " ",
    "\t",
    ";",
    "(",
    ")",
    ",",
    ".",
    "=",
    " = ",
    ":",
    "://",
    "@",
    "?",
    "&",
    "/",
    "||",
    "+-",
    "%s",
    "%L",
    "$1",
    "1",
    "1e",
    "x",
    "é",
    "\u{80}",
    "PASSWORD",
    " password ",
    "passwd",
    "token",
    "secret",
    "passphrase",
    "primary_conninfo",
    "sslpassword=",
    "password=",
    "host=h ",
    "user = u ",
    "postgres://",
    "postgresql://u:p@h",
    "http://a:b@c/d",
    "ALTER ",
    "CREATE ",
    "ROLE ",
    "USER ",
    "a ",
    "MAPPING ",
    "OPTIONS ",
    "OPTIONS (",
    "SET ",
    "LOCAL ",
    "x.password",
    " TO ",
    "set_config(",
    "UPDATE ",
    "BEGIN ",
    "ATOMIC ",
    "END ",
    "CASE ",
    "FUNCTION ",
    "DO $$",
    "EXECUTE '",
    "NULL ",
    "DEFAULT",
    "<REDACTED>",
    "'<REDACTED>'",
];

fn soup() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(select(&PIECES[..]), 0..40)
        .prop_map(|pieces| pieces.concat().into_bytes())
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => soup(),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (soup(), prop::collection::vec(any::<u8>(), 0..20), soup())
            .prop_map(|(a, b, c)| [a, b, c].concat()),
    ]
}

/// A secret as a literal, `depth` quotings deep.
fn literal() -> impl Strategy<Value = (String, String)> {
    let quotings = select(
        &[
            "'@'", "E'@'", "$$@$$", "$q$@$q$", "U&'@'", "'@'\n''", "'@''s'", "E'\\'@'",
        ][..],
    );
    ("[A-Za-z0-9]{7,20}", quotings)
        .prop_map(|(secret, quoting)| (format!("Z{secret}"), quoting.to_string()))
        .prop_map(|(secret, quoting)| (quoting.replace('@', &secret), secret))
}

/// A statement that parses and holds the literal, `@`, where a secret stands.
const PLACES: [&str; 16] = [
    "ALTER ROLE a PASSWORD @",
    "create user b encrypted password /* c */ @ login",
    "SELECT 1; ALTER GROUP a WITH PASSWORD\n@; SELECT 'x'",
    "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password @)",
    "ALTER SERVER s OPTIONS (SET \"api_token\" @, ADD x 'y')",
    "CREATE FOREIGN DATA WRAPPER w OPTIONS (client_secret @)",
    "SET app.password = @",
    "ALTER SYSTEM SET ssl_passphrase_command TO @",
    "ALTER SYSTEM SET primary_conninfo = @",
    "SELECT set_config('x.password', @, true)",
    "SELECT f('ALTER ROLE a PASSWORD ' || @)",
    "-- it's\nALTER ROLE a PASSWORD @",
    "SELECT set_config('app.jwt_secret', @, true)",
    "ALTER DATABASE d SET app.settings.token = @",
    "SELECT f('ALTER ROLE ' || quote_ident('b') || ' PASSWORD ' || @)",
    "SELECT f(format($f$ALTER ROLE %I PASSWORD %L$f$, 'b', @))",
];

/// What a secret with the literal may be nested in: `@` is replaced by the statement, quoted for
/// the place.
fn nest(statement: &str, way: usize) -> String {
    let doubled = statement.replace('\'', "''");
    match way {
        0 => statement.to_string(),
        1 => format!("DO $body$ BEGIN {statement}; END $body$"),
        2 => format!("DO $body$ BEGIN EXECUTE '{doubled}'; END $body$"),
        3 => format!("SELECT dblink_exec('c', '{doubled}')"),
        4 => format!(
            "DO 'BEGIN EXECUTE ''{}''; END'",
            doubled.replace('\'', "''")
        ),
        5 => format!(
            "SELECT E'{}'",
            statement.replace('\\', "\\\\").replace('\'', "\\'")
        ),
        _ => format!("DO $o$ BEGIN EXECUTE $body${statement}$body$; END $o$"),
    }
}

fn conninfo() -> impl Strategy<Value = (String, String)> {
    let forms = select(
        &[
            "host=h password=@ port=1",
            "password=@",
            "user = u password = '@'",
            "host=h password='@\\' x'",
            "sslpassword=@ host=h",
            "postgresql://u:@@@h/d",
            "postgres://u:@@@h:1,h2/d?x=y",
            "postgresql://h/d?user=u&password=@",
            "postgresql:///d?password=@&x=y",
        ][..],
    );
    ("[A-Za-z0-9]{7,20}", forms).prop_map(|(secret, form)| {
        let secret = format!("Z{secret}");
        let form = form
            .replace("@@@", &format!("{secret}\u{1}"))
            .replace('@', &secret);
        (form.replace('\u{1}', "@"), secret)
    })
}

fn holds(text: &[u8], secret: &str) -> bool {
    text.windows(secret.len())
        .any(|window| window == secret.as_bytes())
}

/// What a text says apart from its blanks, with `@` for literals that stand together.
fn words(text: &[u8], options: Options) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for token in Lexer::new(text, options.standard_conforming_strings) {
        if token.kind.is_literal() {
            if words.last().is_none_or(|last| last != "@") {
                words.push("@".into());
            }
        } else if !token.kind.is_blank() {
            words.push(String::from_utf8_lossy(token.of(text)).into_owned());
        }
    }
    words
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn tokens_tile(text in any_text(), conforming: bool) {
        let mut at = 0;
        for token in Lexer::new(&text, conforming) {
            prop_assert_eq!(token.start, at);
            prop_assert!(token.end > at);
            at = token.end;
            prop_assert!(!token.unterminated || at == text.len());
        }
        prop_assert_eq!(at, text.len());
    }

    #[test]
    fn never_panics(text in any_text(), message in any_text(), offset in 0usize..300) {
        let range = statement_at(&text, offset);
        prop_assert!(range.start <= range.end && range.end <= text.len());
        is_rest_empty(&text, offset);
        trim(&text);
        command_of_first_keyword(&text);
        redact_error_message(&message, &text, &mut Vec::new());
    }

    /// Of text that does not parse. What is left may join literals that were two (a comment with a
    /// line's end between them), so words are compared, and literals next to each other count once.
    #[test]
    fn redaction_of_anything_is_idempotent(text in any_text()) {
        for options in [ALL[1], ALL[3]] {
            let once = redact(&text, options);
            let twice = redact(&once, options);
            prop_assert_eq!(words(&twice, options), words(&once, options), "{:?}", options);
        }
    }

    /// Of text that parses: elsewhere the quotes that a redaction leaves may be read differently.
    #[test]
    fn redaction_of_statements_is_idempotent((literal, _) in literal(), (conninfo, _) in conninfo(),
        place in select(&PLACES[..]), way in 0usize..7, other in 0usize..7) {
        let connect = format!("SELECT dblink_connect('{}')", conninfo.replace('\'', "''"));
        let text = [nest(&place.replace('@', &literal), way), nest(&connect, other)].join(";\n");
        for options in [ALL[0], ALL[1]] {
            let once = redact(text.as_bytes(), options);
            let twice = redact(&once, options);
            prop_assert_eq!(
                String::from_utf8_lossy(&twice), String::from_utf8_lossy(&once), "{:?}", options);
        }
    }

    #[test]
    fn first_check_is_sound(text in any_text()) {
        if !may_hold_secret(&text) {
            // A role's statement that did not parse loses its literals all the same.
            let role = ["role", "user", "group"].iter().any(|word| {
                holds(&text.to_ascii_lowercase(), word)
            });
            for options in ALL.into_iter().filter(|options| !(role && options.unparsed)) {
                prop_assert_eq!(&redact(&text, options), &text);
            }
        }
    }

    #[test]
    fn cut_agrees_with_whole(text in any_text(), max in 0usize..300) {
        use sha2::Digest;
        let whole = redact(&text, ALL[0]);
        let mut out = Vec::new();
        let mut sink = CutSink::new(&mut out, max);
        redact_into(&text, ALL[0], &mut sink);
        let cut = sink.finish();
        prop_assert_eq!(cut.full_len, whole.len() as u64);
        prop_assert!(whole.starts_with(&out) && out.len() <= max);
        let digest: [u8; 32] = sha2::Sha256::digest(&whole).into();
        prop_assert_eq!(cut.sha256, (whole.len() > max).then_some(digest));
        prop_assert!(out.len() + 3 >= max.min(whole.len()));
    }

    #[test]
    fn no_role_password_survives((literal, secret) in literal(), place in select(&PLACES[..])) {
        let text = place.replace('@', &literal).into_bytes();
        prop_assert!(may_hold_secret(&text));
        for options in [ALL[0], ALL[1]] {
            let out = redact(&text, options);
            prop_assert!(!holds(&out, &secret), "{}", String::from_utf8_lossy(&out));
        }
    }

    #[test]
    fn no_nested_password_survives(
        (literal, secret) in literal(), place in select(&PLACES[..6]), way in 0usize..7
    ) {
        let text = nest(&place.replace('@', &literal), way).into_bytes();
        for options in [ALL[0], ALL[1]] {
            let out = redact(&text, options);
            prop_assert!(!holds(&out, &secret),
                "{}\n{}", String::from_utf8_lossy(&text), String::from_utf8_lossy(&out));
        }
    }

    #[test]
    fn no_connection_password_survives((conninfo, secret) in conninfo(), way in 0usize..7,
        quoting in 0usize..3) {
        let literal = match quoting {
            0 => format!("'{}'", conninfo.replace('\'', "''")),
            1 => format!("E'{}'", conninfo.replace('\\', "\\\\").replace('\'', "\\'")),
            _ => format!("$c${conninfo}$c$"),
        };
        let text = nest(&format!("SELECT dblink_connect({literal})"), way).into_bytes();
        for options in [ALL[0], ALL[1]] {
            let out = redact(&text, options);
            prop_assert!(!holds(&out, &secret),
                "{}\n{}", String::from_utf8_lossy(&text), String::from_utf8_lossy(&out));
        }
    }

    #[test]
    fn slices_agree_with_what_was_joined(
        statements in prop::collection::vec(select(&[
            "select 1", "select ';'", "/* ; */ select $a$;$a$", "begin", "end", "select E'\\';'",
            "create rule r as on insert to t do (select 1; delete from t)", "select \";\" -- x;\n+1",
            "create function f() returns int begin atomic select case when a then 1 end; end",
            "select 'a'\n';b'", "select (1)", "commit",
        ][..]), 1..8),
        blanks in prop::collection::vec(select(&["", " ", "\n", " ;"][..]), 8)
    ) {
        let mut text = String::new();
        let mut starts = Vec::new();
        for (statement, blank) in statements.iter().zip(&blanks) {
            starts.push(text.len());
            text.push_str(&format!("{blank}{statement}{};", blank.trim_end_matches(';')));
        }
        for (statement, start) in statements.iter().zip(starts) {
            let range = statement_at(text.as_bytes(), start);
            prop_assert_eq!(&text[range], *statement);
        }
        prop_assert!(is_rest_empty(text.as_bytes(), text.len()));
    }
}

/// Quadratic time would take minutes.
#[test]
fn hostile_texts_take_linear_time() {
    let len = 1 << 15;
    for piece in PIECES.iter().copied().chain([
        "+-",
        "$a$b",
        "password /* ",
        "password -- ",
        "password '' ",
        "password ''x ",
        "password '",
        "password=",
        "password='",
        "a=b password=",
        "password = ",
        "postgres://a:x/",
        "postgresql://a:x",
        "://a:",
        "x://a@",
        "passwordpassword",
        "OPTIONS token ",
        "\\password",
        "'password'\n",
        "'a'\n''\n",
        "E'\\'password ",
        "/*password*/",
        "$$password$$",
        "$$ password ",
        "$a$ password $b$",
        "(((",
        "ss",
        "user=u ",
        "\"password\" ",
        "''''''",
        "secret ",
        "alter role a password '%",
        "set a.password to ",
        "-- password 'x\n",
        "alter role a password %L '' ",
        "set x.password.password.",
        "'password',",
        "set_config('x.password',",
        "a=password ",
        "create ",
        "password = x;",
        "alter user password x",
    ]) {
        for before in ["", "'", "$x$", "E'\\'"] {
            let text = [
                before.as_bytes(),
                &piece.as_bytes().repeat(len / piece.len()),
            ]
            .concat();
            let start = Instant::now();
            for options in [ALL[0], ALL[1]] {
                redact(&text, options);
            }
            statement_at(&text, 0);
            is_rest_empty(&text, 0);
            let spent = start.elapsed();
            assert!(spent < Duration::from_secs(5), "{before}{piece}: {spent:?}");
        }
    }
}
