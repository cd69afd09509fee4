//! Secrets in options, connection strings and URIs.

use super::{ON, check, redact, unchanged};
use audit_core::sql::redact::may_hold_secret;

#[test]
fn options_of_servers_and_mappings() {
    check(
        ON,
        &[
            (
                "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'x')",
                "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password '@')",
            ),
            (
                "ALTER USER MAPPING FOR a SERVER s OPTIONS (SET password 'x', DROP y, ADD api_token 'z')",
                "ALTER USER MAPPING FOR a SERVER s OPTIONS (SET password '@', DROP y, ADD api_token '@')",
            ),
            (
                "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (host 'h', \"Secret_Key\" $$x$$, dbname 'd')",
                "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (host 'h', \"Secret_Key\" '@', dbname 'd')",
            ),
            (
                "ALTER FOREIGN DATA WRAPPER w OPTIONS (ADD passphrase E'x', sslpassword 'y', dbpasswd 'z')",
                "ALTER FOREIGN DATA WRAPPER w OPTIONS (ADD passphrase '@', sslpassword '@', dbpasswd '@')",
            ),
            (
                "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (secret /* c */ 'x')",
                "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (secret /* c */ '@')",
            ),
            (
                "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (conn 'host=h password=x port=1')",
                "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (conn 'host=h password=@ port=1')",
            ),
            (
                "DO $$ BEGIN CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', token 'x'); END $$",
                "DO $$ BEGIN CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', token '@'); END $$",
            ),
            (
                "DO 'BEGIN CREATE USER MAPPING FOR a SERVER s OPTIONS (user ''u'', \"token\" ''x''); END'",
                "DO 'BEGIN CREATE USER MAPPING FOR a SERVER s OPTIONS (user ''u'', \"token\" ''@''); END'",
            ),
        ],
    );
}

#[test]
fn connection_strings() {
    check(
        ON,
        &[
            (
                "CREATE SUBSCRIPTION s CONNECTION 'host=h password=x dbname=d' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION 'host=h password=@ dbname=d' PUBLICATION p",
            ),
            (
                "ALTER SUBSCRIPTION s CONNECTION 'password = x sslpassword=y'",
                "ALTER SUBSCRIPTION s CONNECTION 'password = @ sslpassword=@'",
            ),
            (
                "ALTER SUBSCRIPTION s CONNECTION 'password=''x y'' host=h'",
                "ALTER SUBSCRIPTION s CONNECTION 'password=''@'' host=h'",
            ),
            (
                "ALTER SUBSCRIPTION s CONNECTION 'password=''it\\''s y'' host=h'",
                "ALTER SUBSCRIPTION s CONNECTION 'password=''@'' host=h'",
            ),
            (
                "ALTER SUBSCRIPTION s CONNECTION 'host=h password=x\\ y user=u'",
                "ALTER SUBSCRIPTION s CONNECTION 'host=h password=@ user=u'",
            ),
            (
                "ALTER SUBSCRIPTION s CONNECTION E'host=h\\npassword=\\'x y\\'\\nuser=u'",
                "ALTER SUBSCRIPTION s CONNECTION E'host=h\\npassword=\\'@\\'\\nuser=u'",
            ),
            (
                "ALTER SUBSCRIPTION s CONNECTION $$host=h password='x y' user=u$$",
                "ALTER SUBSCRIPTION s CONNECTION $$host=h password='@' user=u$$",
            ),
            (
                "ALTER SUBSCRIPTION s CONNECTION 'host=h '\n'password=x'\n'y user=u'",
                "ALTER SUBSCRIPTION s CONNECTION 'host=h '\n'password=@ user=u'",
            ),
            (
                "ALTER SUBSCRIPTION s CONNECTION 'host=h password=not quoted user=u'",
                "ALTER SUBSCRIPTION s CONNECTION 'host=h password=@ user=u'",
            ),
            (
                "ALTER SUBSCRIPTION s CONNECTION 'password=''it''s user=u'",
                "ALTER SUBSCRIPTION s CONNECTION 'password=''@'",
            ),
            (
                "SELECT dblink_connect(\"host=h user=u password=x\")",
                "SELECT dblink_connect(\"host=h user=u password=@\")",
            ),
            (
                "SELECT dblink_connect('c', 'host=h user=u password=x')",
                "SELECT dblink_connect('c', 'host=h user=u password=@')",
            ),
            (
                "SELECT * FROM dblink('dbname=d password=x', 'SELECT 1') t(a int)",
                "SELECT * FROM dblink('dbname=d password=@', 'SELECT 1') t(a int)",
            ),
            (
                "SELECT dblink_connect('host=h password=' || 'x')",
                "SELECT dblink_connect('host=h password=' || '@')",
            ),
            (
                "DO $$ BEGIN PERFORM dblink_connect('host=h password=x port=1'); END $$",
                "DO $$ BEGIN PERFORM dblink_connect('host=h password=@ port=1'); END $$",
            ),
            (
                "DO $$ BEGIN EXECUTE 'SELECT dblink_connect(''host=h password=x'')'; END $$",
                "DO $$ BEGIN EXECUTE 'SELECT dblink_connect(''host=h password=@'')'; END $$",
            ),
            (
                "DO 'BEGIN PERFORM dblink_connect(''host=h password=''''x y'''' port=1''); END'",
                "DO 'BEGIN PERFORM dblink_connect(''host=h password=''''@'''' port=1''); END'",
            ),
            (
                "DO $p$\n# it's python\nc = connect(\"host=h password=x\")\n$p$ LANGUAGE plpython3u",
                "DO $p$\n# it's python\nc = connect(\"host=h password=@\")\n$p$ LANGUAGE plpython3u",
            ),
        ],
    );
}

#[test]
fn uris() {
    for (input, expected) in [
        (
            "SELECT dblink_connect('postgresql://u:x@h:5432/d')",
            "SELECT dblink_connect('postgresql://u:<REDACTED>@h:5432/d')",
        ),
        (
            "SELECT dblink_connect('postgres://u:x@h/d?sslmode=require')",
            "SELECT dblink_connect('postgres://u:<REDACTED>@h/d?sslmode=require')",
        ),
        (
            "ALTER SUBSCRIPTION s CONNECTION 'postgresql://h/d?user=u&password=x&connect_timeout=1'",
            "ALTER SUBSCRIPTION s CONNECTION 'postgresql://h/d?user=u&password=<REDACTED>&connect_timeout=1'",
        ),
        (
            "SELECT dblink_connect(\"postgres://u:x@h/d\")",
            "SELECT dblink_connect(\"postgres://u:<REDACTED>@h/d\")",
        ),
        (
            "SELECT 'postgresql://u:p@ss@h/d'",
            "SELECT 'postgresql://u:<REDACTED>@h/d'",
        ),
        (
            "SELECT 'postgresql://u:p/s@h/d'",
            "SELECT 'postgresql://u:<REDACTED>@h/d'",
        ),
        (
            "SELECT 'postgresql://u:it''s@h/d'",
            "SELECT 'postgresql://u:<REDACTED>@h/d'",
        ),
        (
            "SELECT 'postgresql://u:a b@h/d'",
            "SELECT 'postgresql://u:<REDACTED>@h/d'",
        ),
        (
            "SELECT 'see amqp://u:x@h/v please'",
            "SELECT 'see amqp://u:<REDACTED>@h/v please'",
        ),
        (
            "-- postgres://u:x@h/d\nSELECT 1",
            "-- postgres://u:<REDACTED>@h/d\nSELECT 1",
        ),
        (
            "SELECT $$redis://:x@h$$",
            "SELECT $$redis://:<REDACTED>@h$$",
        ),
        (
            "SELECT 'jdbc:postgresql://h/d?user=u&password=x'",
            "SELECT 'jdbc:postgresql://h/d?user=u&password=<REDACTED>'",
        ),
    ] {
        let found = redact(input, ON);
        assert_eq!(found, expected);
        assert_eq!(redact(&found, ON), found);
        assert!(may_hold_secret(input.as_bytes()), "{input}");
    }
    unchanged(
        ON,
        &[
            "SELECT 'https://h:8080/a/b@c'",
            "SELECT 'http://h/x:y@z', 'a:b@c'",
            "SELECT 'mailto:a@b', 'http://a@b/', 'postgresql://u@h/d', 'postgresql://h:5432/d'",
        ],
    );
}
