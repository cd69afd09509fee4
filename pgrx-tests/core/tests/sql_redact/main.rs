//! The redactor: a table of cases, what must stay, what cannot be read.

mod connections;
mod pieces;

use audit_core::sql::redact::{
    Options, Seen, may_hold_secret, redact_error_message, redact_into, redact_next_error_message,
};

const ON: Options = Options {
    standard_conforming_strings: true,
    unparsed: false,
};
const OFF: Options = Options {
    standard_conforming_strings: false,
    unparsed: false,
};
const UNPARSED: Options = Options {
    standard_conforming_strings: true,
    unparsed: true,
};

fn redact(text: &str, options: Options) -> String {
    let mut out = Vec::new();
    redact_into(text.as_bytes(), options, &mut out);
    String::from_utf8(out).expect("cuts no character")
}

fn message(message: &[u8], statement: &str) -> Vec<u8> {
    let mut out = Vec::new();
    redact_error_message(message, statement.as_bytes(), &mut out);
    out
}

/// Runs all cases, so that one run shows all that differ. In the expected text `@` is the mark.
fn check(options: Options, cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (input, expected) in cases {
        let expected = expected.replace('@', "<REDACTED>");
        let found = redact(input, options);
        let again = redact(&found, options);
        if found != expected {
            wrong.push(format!(
                "  input    {input}\n  expected {expected}\n  found    {found}"
            ));
        } else if again != found {
            wrong.push(format!("  once  {found}\n  twice {again}"));
        }
        assert!(
            found == *input || options.unparsed || may_hold_secret(input.as_bytes()),
            "{input}"
        );
    }
    assert!(
        wrong.is_empty(),
        "{} wrong\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}

/// Texts that must come out as they went in.
fn unchanged(options: Options, cases: &[&str]) {
    // `@` is data here, so no replacing.
    for input in cases {
        assert_eq!(redact(input, options), *input);
    }
}

#[test]
fn role_passwords() {
    check(
        ON,
        &[
            ("CREATE ROLE a PASSWORD 'x'", "CREATE ROLE a PASSWORD '@'"),
            (
                "create user a encrypted password 'x' valid until '2030-01-01'",
                "create user a encrypted password '@' valid until '2030-01-01'",
            ),
            (
                "ALTER GROUP a WITH UNENCRYPTED PASSWORD 'x';",
                "ALTER GROUP a WITH UNENCRYPTED PASSWORD '@';",
            ),
            ("ALTER ROLE a PASSWORD'x'", "ALTER ROLE a PASSWORD'@'"),
            ("ALTER ROLE a PASSWORD 'it''s'", "ALTER ROLE a PASSWORD '@'"),
            (
                "ALTER ROLE a PASSWORD E'it\\'s \\\\'",
                "ALTER ROLE a PASSWORD '@'",
            ),
            (
                "ALTER ROLE a PASSWORD e'\\'' LOGIN",
                "ALTER ROLE a PASSWORD '@' LOGIN",
            ),
            (
                "ALTER ROLE a PASSWORD U&'d\\0061t' UESCAPE '!'",
                "ALTER ROLE a PASSWORD '@' UESCAPE '!'",
            ),
            ("ALTER ROLE a PASSWORD $$x'y$$", "ALTER ROLE a PASSWORD '@'"),
            (
                "ALTER ROLE a PASSWORD $t$x$$y$t$ LOGIN",
                "ALTER ROLE a PASSWORD '@' LOGIN",
            ),
            (
                "ALTER ROLE a PASSWORD 'x'\n  'y' LOGIN",
                "ALTER ROLE a PASSWORD '@' LOGIN",
            ),
            (
                "ALTER ROLE a PASSWORD 'x' -- c\n -- d\n 'y'",
                "ALTER ROLE a PASSWORD '@'",
            ),
            (
                "ALTER ROLE a PASSWORD /* 'no' */ -- it's\n 'x'",
                "ALTER ROLE a PASSWORD /* 'no' */ -- it's\n '@'",
            ),
            (
                "ALTER ROLE a PASSWORD/**/'x'",
                "ALTER ROLE a PASSWORD/**/'@'",
            ),
            (
                "ALTER ROLE a PASSWORD '\\' LOGIN",
                "ALTER ROLE a PASSWORD '@' LOGIN",
            ),
            ("ALTER ROLE a PASSWORD ''", "ALTER ROLE a PASSWORD '@'"),
            (
                "ALTER ROLE a PASSWORD NULL VALID UNTIL 'x'",
                "ALTER ROLE a PASSWORD NULL VALID UNTIL 'x'",
            ),
            (
                "ALTER ROLE \"PASSWORD\" PASSWORD 'x'",
                "ALTER ROLE \"PASSWORD\" PASSWORD '@'",
            ),
            (
                "ALTER ROLE a PASSWORD 'x'; ALTER ROLE b PASSWORD 'y'; SELECT 'z'",
                "ALTER ROLE a PASSWORD '@'; ALTER ROLE b PASSWORD '@'; SELECT 'z'",
            ),
            (
                "ALTER ROLE a PASSWORD 'ä€' /* ü */",
                "ALTER ROLE a PASSWORD '@' /* ü */",
            ),
            (
                "CREATE ROLE a CONNECTION LIMIT 1PASSWORD 'x'",
                "CREATE ROLE a CONNECTION LIMIT 1PASSWORD '@'",
            ),
        ],
    );
    check(
        OFF,
        &[
            (
                "ALTER ROLE a PASSWORD 'it\\'s' LOGIN",
                "ALTER ROLE a PASSWORD '@' LOGIN",
            ),
            (
                "ALTER ROLE a PASSWORD '\\\\' LOGIN",
                "ALTER ROLE a PASSWORD '@' LOGIN",
            ),
            (
                "DO 'BEGIN ALTER ROLE a PASSWORD \\'x\\'; END'",
                "DO 'BEGIN ALTER ROLE a PASSWORD \\'@\\'; END'",
            ),
        ],
    );
}

#[test]
fn settings() {
    check(
        ON,
        &[
            (
                "ALTER SYSTEM SET primary_conninfo = 'host=h password=x'",
                "ALTER SYSTEM SET primary_conninfo = '@'",
            ),
            (
                "ALTER SYSTEM SET ssl_passphrase_command TO 'echo x'",
                "ALTER SYSTEM SET ssl_passphrase_command TO '@'",
            ),
            ("SET app.password = 'x'", "SET app.password = '@'"),
            (
                "SET LOCAL app.\"DB_Passphrase\" TO $$x$$; SELECT 'y'",
                "SET LOCAL app.\"DB_Passphrase\" TO '@'; SELECT 'y'",
            ),
            (
                "SET SESSION app.password TO hunter2, \"b\", 3",
                "SET SESSION app.password TO '@', '@', '@'",
            ),
            ("SET app.password = -5", "SET app.password = -'@'"),
            ("SET app.password TO DEFAULT", "SET app.password TO DEFAULT"),
            (
                "ALTER ROLE a IN DATABASE d SET app.password = 'x'",
                "ALTER ROLE a IN DATABASE d SET app.password = '@'",
            ),
            (
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.password = 'x' AS 'SELECT 1'",
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.password = '@' AS 'SELECT 1'",
            ),
            (
                "SELECT set_config('app.password', 'x', false), 'y'",
                "SELECT set_config('app.password', '@', false), 'y'",
            ),
            (
                "SELECT pg_catalog.set_config('app.password'::text, 'x' || 'y', true)",
                "SELECT pg_catalog.set_config('app.password'::text, '@' || '@', true)",
            ),
            (
                "SELECT $$see host=h password=x$$, $$x amqp://u$$",
                "SELECT $$see host=h password=@$$, $$x amqp://u$$",
            ),
            (
                "DO $$ BEGIN SET app.password = 'x'; END $$",
                "DO $$ BEGIN SET app.password = '@'; END $$",
            ),
            (
                "DO $$ BEGIN EXECUTE 'SET app.password = ''x'''; END $$",
                "DO $$ BEGIN EXECUTE 'SET app.password = ''@'''; END $$",
            ),
        ],
    );
}

#[test]
fn statements_inside_literals() {
    check(
        ON,
        &[
            (
                "DO $$ BEGIN ALTER ROLE a PASSWORD 'x'; END $$",
                "DO $$ BEGIN ALTER ROLE a PASSWORD '@'; END $$",
            ),
            (
                "DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''x'''; END $$",
                "DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''@'''; END $$",
            ),
            (
                "DO $$ BEGIN EXECUTE $q$ALTER ROLE a PASSWORD 'x'$q$; END $$",
                "DO $$ BEGIN EXECUTE $q$ALTER ROLE a PASSWORD '@'$q$; END $$",
            ),
            (
                "DO 'BEGIN EXECUTE ''ALTER ROLE a PASSWORD ''''x''''''; END'",
                "DO 'BEGIN EXECUTE ''ALTER ROLE a PASSWORD ''''@''''''; END'",
            ),
            (
                "DO 'BEGIN ALTER ROLE a PASSWORD ''it''''s''; END'",
                "DO 'BEGIN ALTER ROLE a PASSWORD ''@''; END'",
            ),
            (
                "DO 'BEGIN ALTER ROLE a PASSWORD $x$y$x$; END'",
                "DO 'BEGIN ALTER ROLE a PASSWORD $x$@$x$; END'",
            ),
            (
                "DO E'BEGIN ALTER ROLE a PASSWORD \\'x\\'; END'",
                "DO E'BEGIN ALTER ROLE a PASSWORD \\'@\\'; END'",
            ),
            (
                "DO E'BEGIN\\nALTER ROLE a\\nPASSWORD ''x''; END'",
                "DO E'BEGIN\\nALTER ROLE a\\nPASSWORD ''@''; END'",
            ),
            (
                "SELECT dblink_exec('c', 'ALTER ROLE a PASSWORD ''x''')",
                "SELECT dblink_exec('c', 'ALTER ROLE a PASSWORD ''@''')",
            ),
            (
                "SELECT dblink_exec('c', 'ALTER ROLE a '\n  'PASSWORD ''x''')",
                "SELECT dblink_exec('c', 'ALTER ROLE a '\n  'PASSWORD ''@''')",
            ),
            (
                "SELECT exec('ALTER ROLE a PASSWORD ' || 'x')",
                "SELECT exec('ALTER ROLE a PASSWORD ' || '@')",
            ),
            (
                "DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''' || 'x' || ''''; END $$",
                "DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''' || '@' || '@'; END $$",
            ),
            (
                "DO $$ BEGIN EXECUTE format('ALTER ROLE %I PASSWORD %L', 'a', 'x'); PERFORM 'y'; END $$",
                "DO $$ BEGIN EXECUTE format('ALTER ROLE %I PASSWORD %L', '@', '@'); PERFORM 'y'; END $$",
            ),
            (
                "DO $$ BEGIN EXECUTE format('ALTER ROLE a PASSWORD ''%s''', 'x'); END $$",
                "DO $$ BEGIN EXECUTE format('ALTER ROLE a PASSWORD ''%s''', '@'); END $$",
            ),
            (
                "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $f$ ALTER ROLE a PASSWORD 'x' $f$",
                "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $f$ ALTER ROLE a PASSWORD '@' $f$",
            ),
            (
                "DO $p$\n# don't\nplpy.execute(\"ALTER ROLE a PASSWORD 'x'\")\n$p$ LANGUAGE plpython3u",
                "DO $p$\n# don't\nplpy.execute(\"ALTER ROLE a PASSWORD '@'\")\n$p$ LANGUAGE plpython3u",
            ),
            (
                "-- ALTER ROLE a PASSWORD 'x'\nSELECT 1",
                "-- ALTER ROLE a PASSWORD '@'\nSELECT 1",
            ),
            (
                "/* it's PASSWORD 'x' */ SELECT 1",
                "/* it's PASSWORD '@' */ SELECT 1",
            ),
            (
                "SELECT 'ALTER ROLE a PASSWORD ''x'' LOGIN', 'y'",
                "SELECT 'ALTER ROLE a PASSWORD ''@'' LOGIN', 'y'",
            ),
        ],
    );
}

#[test]
fn data_stays() {
    unchanged(
        ON,
        &[
            "INSERT INTO t(password) VALUES('x')",
            "INSERT INTO t (token, secret) VALUES ('a', $$b$$) RETURNING password",
            "UPDATE t SET password = 'x', token = 'y' WHERE secret = 'z'",
            "SELECT * FROM t WHERE password = 'x' AND token IN ('a', 'b')",
            "INSERT INTO t VALUES ('{\"password\": \"x\"}', 'enter your password', 'y')",
            "SELECT crypt('x', gen_salt('bf')) AS password",
            "MERGE INTO t USING s ON t.i = s.i WHEN MATCHED THEN UPDATE SET password = 'x'",
            "INSERT INTO t VALUES (1) ON CONFLICT (i) DO UPDATE SET password = 'x'",
            "CREATE RULE r AS ON INSERT TO t DO UPDATE t SET password = 'x'",
            "CREATE FUNCTION f() RETURNS int AS $$ UPDATE t SET a = 1, password = crypt($1, 'y') $$ LANGUAGE sql",
            "CREATE FUNCTION f() RETURNS int AS $$ SELECT 1 FROM t WHERE a = b AND password = $2 $$ LANGUAGE sql",
            "CREATE FUNCTION f() RETURNS int AS 'SELECT 1 FROM t WHERE password = ''x''' LANGUAGE sql",
            "CREATE TABLE t (password text DEFAULT 'x', token text)",
            "ALTER TABLE t ALTER COLUMN password SET DEFAULT 'x'",
            "COMMENT ON COLUMN t.password IS 'x'",
            "SET password_encryption = 'scram-sha-256'",
            "SET search_path = 'secret', 'token'",
            "SELECT 'password', 'x'",
            "EXPLAIN SELECT 1 -- password",
            "RESET app.password",
            "SHOW app.password",
            "",
        ],
    );
}

#[test]
fn unparsed_text_loses_all_literals() {
    check(
        UNPARSED,
        &[
            // A comment that went stands between two literals.
            ("''/*PASSWORD*/''\nPASSWORD", "''/*@*/'@'\nPASSWORD"),
            (
                "ALTER ROLE a PASSWORD 'x' VALID UNTILL 'y'",
                "ALTER ROLE a PASSWORD '@' VALID UNTILL '@'",
            ),
            (
                "SELCT 'a'; ALTER ROLE a PASSWORD 'x'",
                "SELCT 'a'; ALTER ROLE a PASSWORD '@'",
            ),
            ("ALTER ROLE a PASSWORD 'x", "ALTER ROLE a PASSWORD '@'"),
            ("ALTER ROLE a PASSWORD $$x", "ALTER ROLE a PASSWORD '@'"),
            ("ALTER ROLE a PASSWORD \"x\"", "ALTER ROLE a PASSWORD \"@\""),
            ("ALTER ROLE a PASSWORD \"x", "ALTER ROLE a PASSWORD \"@\""),
            ("ALTER ROLE a PASSWORD x", "ALTER ROLE a PASSWORD '@'"),
            (
                "ALTER ROLE a PASSWORD = 1x!y; SELECT 2",
                "ALTER ROLE a PASSWORD = '@'; SELECT 2",
            ),
            (
                "ALTER ROLE a PASSWORD 'it's x'",
                "ALTER ROLE a PASSWORD '@'",
            ),
            ("ALTER ROLE a PASSWORD x'y z", "ALTER ROLE a PASSWORD '@'"),
            (
                "ALTER ROLE a PASSWORD hunt'er z'",
                "ALTER ROLE a PASSWORD '@'",
            ),
            (
                "ALTER ROLE a PASSWORD NULL NULL 'x'",
                "ALTER ROLE a PASSWORD NULL NULL '@'",
            ),
            ("ALTER ROLE a PASSWORD /* 'x", "ALTER ROLE a PASSWORD /*@"),
            (
                "ALTER ROLE a PASSWORD -- PASSWORD 'y'\n 'x')",
                "ALTER ROLE a PASSWORD --@\n '@')",
            ),
            (
                "SELECT dblink_connect('host=h password=x'",
                "SELECT dblink_connect('@'",
            ),
            ("SELECT 1 FORM 'a'", "SELECT 1 FORM 'a'"),
            (
                "SELECT token FORM t WHERE a = 'x'",
                "SELECT token FORM t WHERE a = '@'",
            ),
            (
                "CREATE USER MAPPING FOR a SERVER s OPTIONS (password 'x'",
                "CREATE USER MAPPING FOR a SERVER s OPTIONS (password '@'",
            ),
        ],
    );
}

#[test]
fn error_messages() {
    for (text, statement, expected) in [
        (
            "syntax error at or near \"'x'\"",
            "ALTER ROLE a PASSWRD 'x'",
            "syntax error at or near \"<REDACTED>\"",
        ),
        (
            "syntax error at or near \"\"x\"\"",
            "ALTER ROLE a PASSWORD \"x\"",
            "syntax error at or near \"<REDACTED>\"",
        ),
        (
            "unterminated quoted string at or near \"'x \"y\" z\"",
            "ALTER ROLE a PASSWORD 'x \"y\" z",
            "unterminated quoted string at or near \"<REDACTED>\"",
        ),
        (
            "Syntaxfehler bei »x«",
            "ALTER ROLE a PASSWORD x",
            "Syntaxfehler bei »<REDACTED>«",
        ),
        (
            "syntax error at or near \"FORM\"",
            "SELECT 1 FORM t",
            "syntax error at or near \"FORM\"",
        ),
        (
            "syntax error at end of input",
            "ALTER ROLE a PASSWORD",
            "syntax error at end of input",
        ),
        (
            "role \"bob\" does not exist",
            "ALTER ROLE Bob PASSWORD 'x'",
            "role \"bob\" does not exist",
        ),
        (
            "syntax error at or near \"x",
            "ALTER ROLE a PASSWORD x",
            "syntax error at or near \"<REDACTED>",
        ),
    ] {
        let found = message(text.as_bytes(), statement);
        assert_eq!(String::from_utf8_lossy(&found), expected, "{statement}");
    }
}

/// However many errors one statement has: each as if it were the first, until too many names were looked for.
#[test]
fn messages_of_one_statement() {
    let names: Vec<_> = (10..60).map(|number| format!("n{number}")).collect();
    let statement = format!("SELECT {}, 'password=x y', n4", names.join(", "));
    let mut seen = Seen::NOTHING;
    let mut next = |text: &str| {
        let mut out = Vec::new();
        redact_next_error_message(text.as_bytes(), statement.as_bytes(), &mut seen, &mut out);
        String::from_utf8(out).expect("cuts no character")
    };
    let hidden = "no \"<REDACTED>\"";
    for (at, name) in names.iter().enumerate() {
        let text = format!("no \"{name}\"");
        // Two more were looked for by then.
        let known = at < 14;
        for _ in 0..2 {
            assert_eq!(next("no \"x\""), hidden);
            assert_eq!(next("no \"n4\""), "no \"n4\"");
            assert_eq!(next(&text), if known { &text } else { hidden });
        }
        assert_eq!(message(text.as_bytes(), &statement), text.as_bytes());
    }
}
