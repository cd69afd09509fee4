//! What is recorded for what, as tables that a person can read: `scenarios/*.txt`.
//!
//! `scenarios/README.md` says how to read, extend and run them.

mod parse;
mod run;

use std::collections::BTreeSet;

use parse::{Scenario, parse};

const SESSION: &str = include_str!("scenarios/pgaudit_session.txt");
const STATEMENTS: &str = include_str!("scenarios/pgaudit_statements.txt");
const ROWS: &str = include_str!("scenarios/pgaudit_rows.txt");
const OBJECT: &str = include_str!("scenarios/pgaudit_object.txt");
const CAPTURE: &str = include_str!("scenarios/capture.txt");
const OBJECTS: &str = include_str!("scenarios/capture_objects.txt");
const NAMES: &str = include_str!("scenarios/capture_names.txt");
const DETAILS: &str = include_str!("scenarios/capture_details.txt");
const NESTED: &str = include_str!("scenarios/capture_nested.txt");
const IDENTITY: &str = include_str!("scenarios/compliance_identity.txt");
const ACCESS: &str = include_str!("scenarios/compliance_access.txt");
const PRIVILEGES: &str = include_str!("scenarios/compliance_privileges.txt");

#[test]
fn pgaudit_session() {
    run::all("pgaudit_session.txt", &parse(SESSION));
}

#[test]
fn pgaudit_statements() {
    run::all("pgaudit_statements.txt", &parse(STATEMENTS));
}

#[test]
fn pgaudit_rows() {
    run::all("pgaudit_rows.txt", &parse(ROWS));
}

#[test]
fn pgaudit_object() {
    run::all("pgaudit_object.txt", &parse(OBJECT));
}

#[test]
fn compliance_identity() {
    run::all("compliance_identity.txt", &parse(IDENTITY));
}

#[test]
fn compliance_access() {
    run::all("compliance_access.txt", &parse(ACCESS));
}

#[test]
fn capture() {
    run::all("capture.txt", &parse(CAPTURE));
}

#[test]
fn capture_objects() {
    run::all("capture_objects.txt", &parse(OBJECTS));
}

#[test]
fn capture_names() {
    run::all("capture_names.txt", &parse(NAMES));
}

#[test]
fn capture_details() {
    run::all("capture_details.txt", &parse(DETAILS));
}

#[test]
fn capture_nested() {
    run::all("capture_nested.txt", &parse(NESTED));
}

#[test]
fn compliance_privileges() {
    run::all("compliance_privileges.txt", &parse(PRIVILEGES));
}

/// Section 4 of research/pgaudit.md has 62 scenarios, section 3 of research/enterprise.md 29 rows
/// that concern capture: none may get lost.
#[test]
fn every_number_has_its_scenario() {
    let numbers = |texts: &[&str]| -> BTreeSet<u32> {
        let scenarios = texts.iter().flat_map(|text| parse(text));
        scenarios
            .map(|scenario: Scenario| scenario.number)
            .collect()
    };
    assert_eq!(
        numbers(&[SESSION, STATEMENTS, ROWS]),
        (1..=62).collect(),
        "pgaudit"
    );
    assert_eq!(
        numbers(&[IDENTITY, PRIVILEGES, ACCESS]),
        (1..=29).collect(),
        "compliance"
    );
}
