//! The class of a statement by its command tag (spec/capture.md, rule 13: pgaudit's classes with
//! their holes mended). What a tag doesn't tell is added by the caller: COPY's direction, a
//! data-modifying CTE, the query inside EXECUTE.

use crate::event::{Class, Classes};

/// The classes of a command tag, as PostgreSQL's `cmdtaglist.h` spells it. A tag that isn't known is
/// MISC.
pub fn classes_of_command(tag: &str) -> Classes {
    match tag {
        // pgaudit files CALL under MISC; whoever asks for functions wants it too.
        "CALL" => Classes::of(Class::Function).with(Class::Misc),
        _ => Classes::of(class_of(tag)),
    }
}

fn class_of(tag: &str) -> Class {
    match tag {
        "SELECT"
        | "SELECT FOR KEY SHARE"
        | "SELECT FOR NO KEY UPDATE"
        | "SELECT FOR SHARE"
        | "SELECT FOR UPDATE"
        | "DECLARE CURSOR" => Class::Read,
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "TRUNCATE TABLE" | "COPY FROM" | "APPLY" => {
            Class::Write
        }
        "DO" | "EXECUTE FUNCTION" => Class::Function,
        "SET" | "RESET" => Class::Set,
        "CONNECT" | "DISCONNECT" | "AUTHENTICATE" => Class::Session,
        "GRANT"
        | "GRANT ROLE"
        | "REVOKE"
        | "REVOKE ROLE"
        | "CREATE ROLE"
        | "ALTER ROLE"
        | "DROP ROLE"
        | "CREATE USER MAPPING"
        | "ALTER USER MAPPING"
        | "DROP USER MAPPING"
        | "ALTER DEFAULT PRIVILEGES" => Class::Role,
        "COMMENT"
        | "SECURITY LABEL"
        | "CLUSTER"
        | "REFRESH MATERIALIZED VIEW"
        | "IMPORT FOREIGN SCHEMA"
        | "SELECT INTO"
        | "REASSIGN OWNED" => Class::Ddl,
        _ if tag.starts_with("CREATE ")
            || tag.starts_with("ALTER ")
            || tag.starts_with("DROP ") =>
        {
            Class::Ddl
        }
        _ => Class::Misc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_by_tag() {
        for (class, tags) in [
            (Class::Read, "SELECT|SELECT FOR UPDATE|DECLARE CURSOR"),
            (Class::Write, "INSERT|UPDATE|DELETE|MERGE|TRUNCATE TABLE"),
            (Class::Function, "DO"),
            (Class::Set, "SET|RESET"),
            (
                Class::Role,
                "GRANT|REVOKE|GRANT ROLE|REVOKE ROLE|CREATE ROLE|ALTER ROLE|DROP ROLE|ALTER DEFAULT PRIVILEGES|CREATE USER MAPPING",
            ),
            (
                Class::Ddl,
                "CREATE TABLE|CREATE TABLE AS|SELECT INTO|ALTER TABLE|DROP TABLE|CREATE INDEX|ALTER SYSTEM|CREATE DATABASE|COMMENT|SECURITY LABEL|CLUSTER|REFRESH MATERIALIZED VIEW|CREATE EXTENSION|DROP FUNCTION|REASSIGN OWNED|DROP OWNED|CREATE SUBSCRIPTION",
            ),
            (
                Class::Misc,
                "BEGIN|START TRANSACTION|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|PREPARE TRANSACTION|COMMIT PREPARED|ROLLBACK PREPARED|PREPARE|EXECUTE|DEALLOCATE|FETCH|MOVE|CLOSE CURSOR|EXPLAIN|VACUUM|ANALYZE|REINDEX|LOCK TABLE|LISTEN|NOTIFY|UNLISTEN|CHECKPOINT|LOAD|SHOW|COPY|DISCARD ALL|SET CONSTRAINTS|UNKNOWN|???",
            ),
        ] {
            for tag in tags.split('|') {
                assert_eq!(classes_of_command(tag), Classes::of(class), "{tag}");
            }
        }
        assert_eq!(classes_of_command("CALL").strongest(), Class::Function);
    }
}
