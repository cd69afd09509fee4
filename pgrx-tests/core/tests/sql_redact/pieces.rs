//! Secrets in statements that are put together, in text without quotes, in what surrounds a secret.

use audit_core::sql::redact::Options;

use super::{ON, UNPARSED, check, message, redact, unchanged};

/// Texts in which `hunter2` must not be readable afterwards, whatever else goes.
fn hidden(options: Options, cases: &[&str]) {
    let seen: Vec<String> = cases
        .iter()
        .map(|input| redact(input, options))
        .filter(|found| found.contains("hunter2"))
        .collect();
    assert!(
        seen.is_empty(),
        "{} readable\n{}",
        seen.len(),
        seen.join("\n")
    );
}

#[test]
fn set_statements_in_literals_with_other_secrets() {
    check(
        ON,
        &[
            (
                "DO $$ BEGIN EXECUTE 'ALTER SUBSCRIPTION s CONNECTION ''host=h password=hunter2'''; END $$",
                "DO $$ BEGIN EXECUTE 'ALTER SUBSCRIPTION s CONNECTION ''host=h password=@'''; END $$",
            ),
            (
                "SELECT dblink_exec('c', 'ALTER SUBSCRIPTION s CONNECTION ''host=h password=hunter2 port=1''')",
                "SELECT dblink_exec('c', 'ALTER SUBSCRIPTION s CONNECTION ''host=h password=@ port=1''')",
            ),
            (
                "DO $$ BEGIN EXECUTE 'SET my.dsn = ''host=h password=hunter2'''; END $$",
                "DO $$ BEGIN EXECUTE 'SET my.dsn = ''host=h password=@'''; END $$",
            ),
            (
                "DO $$ BEGIN EXECUTE 'ALTER SERVER s OPTIONS (SET conn ''host=h password=hunter2'')'; END $$",
                "DO $$ BEGIN EXECUTE 'ALTER SERVER s OPTIONS (SET conn ''host=h password=@'')'; END $$",
            ),
            (
                "-- ALTER SUBSCRIPTION s CONNECTION 'host=h password=hunter2'\nSELECT 1",
                "-- ALTER SUBSCRIPTION s CONNECTION 'host=h password=@'\nSELECT 1",
            ),
            (
                "DO $$ BEGIN EXECUTE 'ALTER USER MAPPING FOR a SERVER s OPTIONS (SET sslpassword ''hunter2'')'; END $$",
                "DO $$ BEGIN EXECUTE 'ALTER USER MAPPING FOR a SERVER s OPTIONS (SET sslpassword ''@'')'; END $$",
            ),
            (
                "SELECT f('ALTER SERVER s OPTIONS (ADD passphrase ''hunter2'', SET dbpasswd ''hunter2'', \"password\" ''hunter2'')')",
                "SELECT f('ALTER SERVER s OPTIONS (ADD passphrase ''@'', SET dbpasswd ''@'', \"password\" ''@'')')",
            ),
            (
                "SELECT f('SET app.\"password\" = ''hunter2''')",
                "SELECT f('SET app.\"password\" = ''@''')",
            ),
            (
                "SELECT f('SET app.jwt_secret TO ''hunter2''')",
                "SELECT f('SET app.jwt_secret TO ''@''')",
            ),
            (
                "SELECT f('SET app.password = hunter2; SELECT 1')",
                "SELECT f('SET app.password = @; SELECT 1')",
            ),
            (
                "DO 'BEGIN SET LOCAL app.password = ''hunter2''; END'",
                "DO 'BEGIN SET LOCAL app.password = ''@''; END'",
            ),
        ],
    );
}

#[test]
fn set_config() {
    check(
        ON,
        &[
            (
                "DO 'BEGIN PERFORM set_config(''app.password'', ''hunter2'', false); END'",
                "DO 'BEGIN PERFORM set_config(''app.password'', ''@'', false); END'",
            ),
            (
                "DO $$ BEGIN EXECUTE 'SELECT set_config(''app.password''::text, ''hunter2'', false)'; END $$",
                "DO $$ BEGIN EXECUTE 'SELECT set_config(''app.password''::text, ''@'', false)'; END $$",
            ),
            (
                "SELECT f('SELECT set_config(''app.password'', format(''%s'', ''hunter2''), false)')",
                "SELECT f('SELECT set_config(''app.password'', format@')",
            ),
            (
                "SELECT set_config('app.password', format('%s','hunter2'), false), 'y'",
                "SELECT set_config('app.password', format('@','@'), false), 'y'",
            ),
            (
                "SELECT set_config('app.password', coalesce(NULL, 'hunter2'), false), 'y'",
                "SELECT set_config('app.password', coalesce(NULL, '@'), false), 'y'",
            ),
            (
                "SELECT set_config(new_value => 'hunter2', setting_name => 'app.password', is_local => true), 'y'",
                "SELECT set_config(new_value => '@', setting_name => '@', is_local => true), 'y'",
            ),
            (
                "SELECT \"set_config\"(('app.password'), 'hunter2', false)",
                "SELECT \"set_config\"(('app.password'), '@', false)",
            ),
            (
                "UPDATE pg_settings SET setting = 'hunter2' WHERE name = 'app.password'; SELECT 'y'",
                "UPDATE pg_settings SET setting = '@' WHERE name = '@'; SELECT 'y'",
            ),
        ],
    );
    unchanged(
        ON,
        &[
            "SELECT set_config('app.note', 'x', false), 'password'",
            "SELECT f('SELECT ''password'', ''x''')",
        ],
    );
}

#[test]
fn names_of_settings() {
    check(
        ON,
        &[
            (
                "ALTER DATABASE d SET app.settings.jwt_secret='hunter2'",
                "ALTER DATABASE d SET app.settings.jwt_secret='@'",
            ),
            ("SET vault.token TO 'hunter2'", "SET vault.token TO '@'"),
            (
                "SET app.password_prod = 'hunter2'",
                "SET app.password_prod = '@'",
            ),
            (
                "ALTER ROLE a SET session.\"token\" = 'hunter2'",
                "ALTER ROLE a SET session.\"token\" = '@'",
            ),
            (
                "SELECT set_config('app.settings.jwt_secret', 'hunter2', false)",
                "SELECT set_config('app.settings.jwt_secret', '@', false)",
            ),
            (
                "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (scram_client_key 'hunter2')",
                "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (scram_client_key '@')",
            ),
        ],
    );
    unchanged(
        ON,
        &[
            "ALTER SYSTEM SET credcheck.password_min_length = '8'",
            "SET passwordcheck.min_password_length = 12",
            "ALTER TABLE secret.t SET (fillfactor = '70')",
            "ALTER FUNCTION secret.f() SET search_path = 'x'",
        ],
    );
}

#[test]
fn secrets_yet_to_come() {
    hidden(
        ON,
        &[
            "DO $$ BEGIN EXECUTE format($f$ALTER ROLE %I PASSWORD %L$f$, 'bob', 'hunter2'); END $$",
            "SELECT exec(format($f$ALTER ROLE %1$I PASSWORD %2$L$f$, 'bob', 'hunter2'))",
            "SELECT exec(format($f$ALTER ROLE a PASSWORD '%s'$f$, 'hunter2'))",
            "SELECT exec($q$ALTER ROLE a PASSWORD $q$ || quote_literal('hunter2'))",
            "DO $$ BEGIN EXECUTE $q$ALTER ROLE a PASSWORD '$q$ || 'hunter2' || $q$'$q$; END $$",
            "SELECT exec('ALTER ROLE ' || quote_ident('bob') || ' PASSWORD ' || quote_literal('hunter2'))",
            "SELECT exec($q$ALTER ROLE $q$ || quote_ident('bob') || $q$ PASSWORD $q$ || 'hunter2')",
            "DO $$ BEGIN v := 'ALTER USER bob'; EXECUTE v || ' PASSWORD ' || quote_literal('hunter2'); END $$",
            "SELECT exec(format(E'\\nALTER ROLE %I PASSWORD %L', 'bob', 'hunter2'))",
            "SELECT exec(format('CREATE SUBSCRIPTION %I CONNECTION ''host=h password=%s'' PUBLICATION p', 's', 'hunter2'))",
            "SELECT exec('CREATE SUBSCRIPTION s CONNECTION ''host=h password=' || 'hunter2' || '''')",
            "SELECT exec(format('SET app.password = %L', 'hunter2'))",
            "SELECT exec(format('ALTER SERVER s OPTIONS (SET password %L)', 'hunter2'))",
            "SELECT exec(format('ALTER SERVER s OPTIONS (ADD token %L)', 'hunter2'))",
            "SELECT exec(format($f$ALTER SERVER s OPTIONS (ADD token %L)$f$, 'hunter2'))",
            "DO 'BEGIN EXECUTE ''ALTER ROLE a PASSWORD '' || ''hunter2''; END'",
            "DO 'BEGIN EXECUTE format(''ALTER ROLE %I PASSWORD %L'', ''bob'', ''hunter2''); END'",
            "DO 'BEGIN EXECUTE ''ALTER ROLE a PASSWORD '''''' || ''hunter2'' || ''''''''; END'",
            "SELECT exec(format('SELECT set_config(''app.password'', %L, false)', 'hunter2'))",
            "SELECT exec('SELECT set_config(''app.password'', ' || quote_literal('hunter2') || ', false)')",
            "SELECT exec('ALTER ROLE a PASSWORD $1', 'hunter2')",
            "SELECT exec(concat('CREATE USER ', n, ' WITH ENCRYPTED PASSWORD ''', 'hunter2', ''''))",
            "DO $p$\nplpy.execute(\"ALTER ROLE a PASSWORD \" + plpy.quote_literal(\"hunter2\"))\n$p$ LANGUAGE plpython3u",
            "DO $p$\nplpy.execute(\"ALTER ROLE a PASSWORD %s\" % plpy.quote_literal(\"hunter2\"))\n# don't\n$p$ LANGUAGE plpython3u",
            "SELECT exec(format('host=h password=%s sslpassword=x', 'hunter2'))",
        ],
    );
    unchanged(
        ON,
        &[
            "SELECT $$enter your password$$, 'x'",
            "CREATE ROLE a; SELECT 'enter your password', 'x'",
            "SELECT 'ALTER ROLE a RESET app.password', 'x'",
            "SELECT 'WHERE password = ' || 'x'",
            "DO $$ BEGIN EXECUTE format('ALTER TABLE t RENAME COLUMN password TO %I', 'x'); END $$",
            "DO $$ BEGIN EXECUTE 'ALTER TABLE t RENAME COLUMN password TO x'; END $$",
            "SELECT exec(format('UPDATE t SET password = %L WHERE i = %s', 'x', 'y'))",
        ],
    );
}

#[test]
fn connection_strings_inside_others() {
    hidden(
        ON,
        &[
            "SELECT f('url=postgres://u:hunter2@h/d')",
            "COPY t FROM PROGRAM 'DATABASE_URL=postgres://u:hunter2@h/d run'",
            "/*dsn=amqp://u:hunter2@h*/ SELECT 1",
            "SELECT f('conninfo=''host=h password=hunter2''')",
            "SELECT f('url=postgresql://h/d?password=hunter2')",
            "SELECT f('Server=h;User Id=u;Password=hunter2')",
            "SELECT f('Server=h; User Id=u; Password=hunter2; Encrypt=True')",
            "SELECT f('use host=h password=\"hunter2\"')",
            "SELECT f('Driver={X};Server=my server;Password={correct hunter2}')",
            "COPY t FROM PROGRAM 'curl https://h/x?token=hunter2'",
            "SELECT f('jdbc:sqlserver://h;user=u;password=hunter2')",
            "SELECT f('h:6379,user=u,password=hunter2')",
            "ALTER SUBSCRIPTION s CONNECTION 'host=h password==hunter2'",
            "ALTER SUBSCRIPTION s CONNECTION 'host=h password=>hunter2'",
            "ALTER SUBSCRIPTION s CONNECTION 'password==hunter2 host=h'",
            "ALTER SUBSCRIPTION s CONNECTION 'postgresql://h/d?user=u&password=ab#hunter2'",
            "ALTER SUBSCRIPTION s CONNECTION 'postgresql://h/d?user=u&password=a b<''hunter2&port=1'",
            "ALTER SUBSCRIPTION s CONNECTION $$application_name=s1 host=h password='hunter2'$$",
            "ALTER SUBSCRIPTION s CONNECTION $$sslmode=require host=h password = hunter2$$",
            "DO $$ BEGIN c := foo host=h password='hunter2'; END $$",
            "SELECT dblink_connect(\"connect_timeout=5 password=hunter2\")",
            "SELECT f('host=h password=%hunter2')",
            "SELECT f('use host=h password=%hunter2')",
            "COPY t FROM PROGRAM 'env PGPASSWORD=hunter2 psql'",
            "COPY t FROM PROGRAM 'cd /tmp; PGPASSWORD=''hunter2'' psql'",
            "COPY t FROM PROGRAM 'mysql --password=hunter2'",
            "ALTER SYSTEM SET archive_command = 'env AWS_SECRET_ACCESS_KEY=hunter2 aws s3 cp'",
        ],
    );
    check(
        ON,
        &[
            (
                "SELECT f('host=h password=%aB3x')",
                "SELECT f('host=h password=@')",
            ),
            (
                "SELECT f('x host=h password=%aB3x')",
                "SELECT f('x host=h password=@')",
            ),
        ],
    );
    unchanged(
        ON,
        &[
            "CREATE FUNCTION f() RETURNS int AS $$ UPDATE t SET a=1,password=crypt($1,'y') $$ LANGUAGE sql",
            "SELECT f('if a = b and password == c')",
            "SELECT f('f(user => a, password => b)')",
        ],
    );
}

#[test]
fn other_languages_and_passwords_without_quotes_in_bodies() {
    hidden(
        ON,
        &[
            "DO $p$\n# don't worry\nplpy.execute(\"ALTER ROLE a PASSWORD 'hunter2'\")\n# that's all\n$p$ LANGUAGE plpython3u",
            "DO $p$\n# the boys' own\nplpy.execute(\"ALTER ROLE a PASSWORD '!hunter2'\")\n# users' data\n$p$ LANGUAGE plpython3u",
            "DO $$ BEGIN ALTER ROLE a PASSWORD hunter2; END $$",
            "DO $$ BEGIN ALTER ROLE a PASSWORD \"hunter2\"; END $$",
            "DO $$ BEGIN ALTER ROLE a PASSWORD 1-hunter2 hunter2; END $$",
            "DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD hunter2'; END $$",
            "DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD correct horse hunter2'; END $$",
        ],
    );
    unchanged(
        ON,
        &[
            "DO $$ BEGIN ALTER ROLE a PASSWORD NULL; SELECT password FROM t; END $$",
            "DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD NULL'; END $$",
            "CREATE FUNCTION f() RETURNS text AS $$ SELECT password FROM t $$ LANGUAGE sql",
            "CREATE USER password LOGIN",
        ],
    );
}

#[test]
fn unparsed_text_with_wrong_quotes() {
    check(
        UNPARSED,
        &[
            (
                "ALTER ROLE a PASSWORD correct horse hunter2; SELECT 2",
                "ALTER ROLE a PASSWORD '@'; SELECT 2",
            ),
            (
                "SELECT 1; ALTER ROLE a PASSWORD 'my boys' hunter2'",
                "SELECT 1; ALTER ROLE a PASSWORD '@'",
            ),
        ],
    );
    hidden(
        UNPARSED,
        &[
            "ALTER ROLE a PASSWORD TO hunter2",
            "ALTER ROLE a PASSWORD p;hunter2",
            "ALTER ROLE a PASSWORD 'a'!hunter2'",
            "ALTER ROLE a PASSWORD 'a',hunter2'",
            "CREATE SUBSCRIPTION s CONNECTION postgresql://u:hunter2@h/d PUBLICATION p",
            "SELECT dblink_connect(host=h password=hunter2)",
            "SET app.password = p@hunter2",
            "SET app.password TO hunter2",
            "ALTER SERVER s OPTIONS (SET token hunter2)",
            "SELECT 1 ALTER ROLE a PASSWORD hunter2",
            "ALTER ROLE a PASSOWRD 'hunter2'",
            "ALTER ROLE a PASWORD 'hunter2'",
            "CREATE USER a IDENTIFIED BY 'hunter2'",
            "CREATE USER a IDENTIFIED BY hunter2",
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (user u, \"password\" hunter2)",
        ],
    );
    unchanged(
        UNPARSED,
        &[
            "ALTER TABLE t ADD a text DEFAULT 'x' 'y",
            "SELCT 'x' -- it's",
        ],
    );
}

#[test]
fn messages() {
    let many = format!("{}do\"", "do\" \"".repeat(8));
    for (text, statement, expected) in [
        (
            &*format!("\"{many}"),
            "DO 'x' -- password", // Each is a look through the statement.
            "\"<REDACTED>\"",
        ),
        ("\"do\" \"do\"", "DO 'x' -- password", "\"do\" \"do\""),
        (
            "cannot reach postgres://u:x@h/d",
            "DO $$ BEGIN RAISE EXCEPTION 'cannot reach postgres://u:x@h/d'; END $$",
            "cannot reach postgres://u:<REDACTED>@h/d",
        ),
        (
            "relation \"t\": host=h password=x",
            "SELECT f()",
            "relation \"t\": host=h password=<REDACTED>",
        ),
        (
            "syntax error at or near \"'x'\"",
            "ALTER ROLE a PASSOWRD 'x'",
            "syntax error at or near \"<REDACTED>\"",
        ),
        (
            "syntax error at or near \"PASSOWRD\"",
            "ALTER ROLE a PASSOWRD 'x'",
            "syntax error at or near \"PASSOWRD\"",
        ),
        (
            "syntax error at or near \"acted\"",
            "ALTER ROLE a PASSWORD acted",
            "syntax error at or near \"<REDACTED>\"",
        ),
        (
            "syntax error at or near \"word\"",
            "ALTER ROLE a PASSWORD word",
            "syntax error at or near \"<REDACTED>\"",
        ),
        (
            "relation \"s.t\" does not exist",
            "SELECT password FROM s.t",
            "relation \"s.t\" does not exist",
        ),
    ] {
        assert_eq!(
            message(text.as_bytes(), statement),
            expected.as_bytes(),
            "{statement}"
        );
    }
    let latin1 = message(b"Syntaxfehler bei \xbbx\xab", "ALTER ROLE a PASSWORD x");
    assert_eq!(latin1, b"Syntaxfehler bei \xbb<REDACTED>\xab");
    let latin2 = message(b"b\xb3\xb1d x", "ALTER ROLE a PASSWORD x");
    assert_eq!(latin2, b"<REDACTED>");
}
