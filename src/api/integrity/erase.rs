//! audit.erase(): destroys values of an event, on record.

use crate::pg::report::refuse;
use crate::pg::scrub::scrub;
use crate::pg::spi::{connected, current};
use crate::pg::trail::erase::{FIELDS, Target, bit};
use crate::pg::{announce, unlock};
use audit_core::calendar::rfc3339;
use audit_core::json::{Object, string};
use audit_core::record::{Field, Kept, Salts};
use core::ffi::c_int;
use pgrx::{PgSqlErrorCode, pg_sys};

const STATE: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
const VALUE: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;

/// Erases, and returns how many events lost a value. Throws.
pub fn erase(seq: i64, names: &[Option<String>], reason: &str) -> i64 {
    require_permission();
    if reason.trim().is_empty() {
        refuse(
            VALUE,
            "audit.erase() needs a reason",
            "Say who asked for it, and why: the reason stays in the trail.",
        );
    }
    let fields = set_of(names);
    let last = crate::api::flush::flush();
    let target = connected(|| Target::find(seq)).unwrap_or_else(|| {
        let message = format!("there is no event {seq}; the trail ends at {last}");
        refuse(VALUE, message, "Take seq from audit.log.")
    });
    if none_is_there(&target, fields) && connected(|| is_in_files(&target)) {
        // An erasure that could not be finished, as somebody used the page.
        start(seq, 0);
        connected(|| confirm(&target, fields));
        return 0;
    }
    check(&target, fields);
    if let Some(hold) = connected(|| held_by(&target)) {
        refuse(
            STATE,
            format!("event {seq} is under legal hold {hold}"),
            "Nothing was erased. audit.release(), once it is committed, ends a hold; audit.holds lists them.",
        );
    }
    let events = connected(|| affected(&target, fields));
    tell(&target, fields, reason);
    // On record, and on disk, before anything is gone.
    crate::api::flush::flush();
    start(seq, fields);
    connected(|| confirm(&target, fields));
    events
}

fn none_is_there(target: &Target, fields: u8) -> bool {
    FIELDS
        .iter()
        .all(|(_, field)| fields & bit(*field) == 0 || !target.has(*field))
}

/// Has the values erased, and what was replaced in the files; without fields only that.
fn start(seq: i64, fields: u8) {
    if !crate::worker::erase(seq, fields) {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            "no process could be started to erase",
            "Try again, or raise max_worker_processes.",
        );
    }
}

/// Whether a replaced row is still in the files.
fn is_in_files(target: &Target) -> bool {
    target.to_wipe().into_iter().any(|(table, wipe)| unsafe {
        pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as c_int);
        // SAFETY: a table of ours or its TOAST table; only looked at.
        scrub(table, wipe, true) > 0
    })
}

/// Superusers who have unlocked the trail: on record, with a checkpoint of what it was.
fn require_permission() {
    if !unsafe { pg_sys::superuser() } {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "only superusers can erase values of the audit trail",
            "Ask one, who calls audit.unlock('reason') first.",
        );
    }
    if !unlock::is_open() {
        refuse(
            STATE,
            "the audit trail is locked",
            "Call audit.unlock('reason') first, and audit.lock() afterwards.",
        );
    }
}

fn set_of(names: &[Option<String>]) -> u8 {
    let mut fields = 0;
    for name in names {
        let name = name.as_deref().unwrap_or("NULL");
        match FIELDS.iter().find(|(known, _)| *known == name) {
            Some((_, field)) => fields |= bit(*field),
            None => refuse(
                VALUE,
                format!("\"{name}\" is not a field that can be erased"),
                "Fields are statement, error, parameters, details, context.",
            ),
        }
    }
    if fields == 0 {
        refuse(
            VALUE,
            "no field to erase was named",
            "Fields are statement, error, parameters, details, context.",
        );
    }
    fields
}

fn check(target: &Target, fields: u8) {
    let seq = target.seq;
    for (name, field) in FIELDS {
        if fields & bit(field) == 0 {
            continue;
        }
        if field == Field::Details && target.class == "AUDIT" {
            refuse(
                STATE,
                format!("event {seq} is of class AUDIT: its details cannot be erased"),
                "They are what the trail says of itself.",
            );
        }
        if !target.has(field) {
            refuse(
                STATE,
                format!("event {seq} has no {name}"),
                "Nothing was erased. audit.log shows in details.erased what was erased before.",
            );
        }
    }
}

/// A hold that keeps the period of the event, as `worker::retention` has it; also one that this transaction has
/// released, which may yet be rolled back. Until it ends nobody makes one.
fn held_by(target: &Target) -> Option<i64> {
    let (mut found, mut lock, mut partition) = (None, pg_sys::InvalidOid, String::new());
    let event = target.tables[0].to_u32();
    current(
        &format!("SELECT 'audit.hold'::regclass::oid::bigint, {event}::oid::regclass::text"),
        |row| {
            lock = pg_sys::Oid::from(row.number(1).unwrap_or(0) as u32);
            partition = row.text(2).unwrap_or_default();
        },
    );
    // SAFETY: a table of ours. No statement, which would be on record.
    unsafe { pg_sys::LockRelationOid(lock, pg_sys::ShareLock as c_int) };
    let at = rfc3339(target.recorded_at);
    current(
        &format!(
            "SELECT min(h.id) FROM audit.hold h, audit.period p \
             WHERE (h.released_at IS NULL OR age(h.xmin) <= age(pg_current_xact_id_if_assigned()::xid)) \
             AND p.starts_at <= '{at}' AND p.ends_at > '{at}' \
             AND (h.held_from < p.ends_at AND h.held_to >= p.starts_at \
                  OR EXISTS (SELECT FROM {partition} e \
                             WHERE e.started_at >= h.held_from AND e.started_at <= h.held_to))"
        ),
        |row| found = row.number(1),
    );
    found
}

/// How many events lose a value.
fn affected(target: &Target, fields: u8) -> i64 {
    let mut shared = Vec::new();
    if target.takes_kept_text(fields) {
        shared.push(format!("statement = {}", target.statement_ref));
    }
    if target.takes_kept_context(fields) {
        shared.push(format!("session = {}", target.session_ref));
    }
    if shared.is_empty() {
        return 1;
    }
    let mut events = 1;
    current(
        &format!(
            "SELECT count(*) FROM audit.event WHERE tableoid = {} AND ({})",
            target.tables[0].to_u32(),
            shared.join(" OR ")
        ),
        |row| events = row.number(1).unwrap_or(1),
    );
    events
}

/// Puts ERASE on record.
fn tell(target: &Target, fields: u8, reason: &str) {
    let mut list = b"[".to_vec();
    for (name, field) in FIELDS {
        if fields & bit(field) != 0 {
            if list.len() > 1 {
                list.push(b',');
            }
            string(&mut list, name.as_bytes());
        }
    }
    list.push(b']');
    let details = |details: &mut Object| {
        details
            .number("seq", target.seq)
            .raw("fields", &list)
            .text("reason", reason.as_bytes());
        if target.takes_kept_text(fields) {
            details.number("statement_ref", target.statement_ref);
        }
        if target.takes_kept_context(fields) {
            details.number("session_ref", target.session_ref);
        }
    };
    // SAFETY: a function runs in a transaction.
    unsafe { announce::event("ERASE", &details, false) };
}

/// Makes sure that it is done, in the rows and in the files.
fn confirm(target: &Target, fields: u8) {
    let gone = Target::find(target.seq).is_some_and(|now| none_is_there(&now, fields));
    let left = is_in_files(target);
    if !gone || left {
        refuse(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!(
                "event {} could not be erased{}",
                target.seq,
                if gone { " from the files yet" } else { "" }
            ),
            "The server log says why. Call audit.erase() again, with the number of the event: a query for it in the same statement keeps its page in use.",
        );
    }
}

/// Names of the fields that are gone from an event, given the columns `salt` of event, statement and
/// session.
pub fn erased(
    event: Option<&[u8]>,
    statement: Option<&[u8]>,
    session: Option<&[u8]>,
) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(Salts::Punctured(kept)) = event.and_then(Salts::decode) {
        let gone = kept.iter().filter(|(_, k)| matches!(k, Kept::Digest(_)));
        names.extend(gone.map(|(field, _)| field.name().to_string()));
    }
    for (salt, field) in [(statement, Field::Text), (session, Field::Context)] {
        if salt.is_some_and(|salt| salt.len() == size_of::<audit_core::sha::Hash>()) {
            names.push(field.name().to_string());
        }
    }
    names
}
