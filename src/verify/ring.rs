//! `audit-verify ring FILE`: prints the records of a ring file, one line each.

use audit_core::codec::{self, Corrupt, Section};
use audit_core::event::{Session, Shape, sqlstate_text};
use audit_core::repeat::decode_repeat;
use audit_core::ring::{Found, Leftover};
use audit_core::slot::Orphan;

/// Prints a ring.
pub fn ring(bytes: &[u8]) -> Result<(), String> {
    let ring = Leftover::open(bytes).map_err(|e| e.to_string())?;
    let id: String = ring.id().iter().map(|b| format!("{b:02x}")).collect();
    let (capacity, drained) = (ring.capacity(), ring.drained());
    println!("ring {id} of {capacity} bytes, drained up to {drained}");
    for found in ring.recover(0) {
        match found {
            Found::Record {
                start,
                pid,
                payload,
                ..
            } => println!("{start}\tpid {pid}\t{}", describe(&ring, payload)),
            Found::Gap { start, next } => println!("{start}\tnothing up to {next}"),
        }
    }
    for orphan in ring.orphans() {
        println!("slot\tpid {}\t{}", orphan.pid, in_flight(&orphan));
    }
    Ok(())
}

/// One line that says what a session was doing.
fn in_flight(orphan: &Orphan) -> String {
    let session = codec::decode_session(&orphan.session).unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
    let open: Vec<_> = orphan
        .open
        .iter()
        .map(|o| {
            let n = &o.numbers;
            format!(
                "{}.{} depth {} {} text {}",
                n.statement_id,
                n.substatement_id,
                n.depth,
                n.outcome.name(),
                text(&o.text)
            )
        })
        .collect();
    format!(
        "user {} db {} statements {} last event {} pushing {} undecided from {} xid {} open [{}]",
        text(session.user_name.unwrap_or(b"-")),
        text(session.database_name.unwrap_or(b"-")),
        orphan.statements,
        orphan.last_event,
        orphan.pushing.unwrap_or(0),
        orphan.undecided_from.unwrap_or(0),
        orphan.xid.unwrap_or(0),
        open.join("; ")
    )
}

/// One line that says what a payload holds.
fn describe(ring: &Leftover, payload: &[u8]) -> String {
    let event = match decode_repeat(payload) {
        None => codec::decode(payload),
        Some(repeat) => repeat.and_then(|repeat| {
            let original = ring.payload_at(repeat.of).ok_or(Corrupt::Original)?;
            Ok(codec::decode(original)?.repeated(repeat.numbers))
        }),
    };
    let event = match event {
        Ok(event) => event,
        Err(error) => return format!("not readable: {error}"),
    };
    let session = event
        .section(Section::Session)
        .map_or(Ok(Session::default()), codec::decode_session)
        .unwrap_or_default();
    let shape = event
        .section(Section::Shape)
        .map_or(Ok(Shape::default()), codec::decode_shape)
        .unwrap_or_default();
    let text = |bytes: Option<&[u8]>| {
        bytes.map_or("-".into(), |b| {
            String::from_utf8_lossy(b).escape_debug().to_string()
        })
    };
    let n = &event.numbers;
    let relations: Vec<_> = shape
        .relations
        .iter()
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    let decisions: Vec<_> = event
        .decisions()
        .flatten()
        .map(|d| format!("{}-{} {}", d.first, d.last, d.fate.name().unwrap_or("open")))
        .collect();
    format!(
        "event {} statement {}.{} depth {} {} {} {} {} {} fate {} xid {} rows {} {} µs user {} as {} db {} object {} {} relations {{{}}} error {} details {} decides [{}] text {}",
        n.event_no,
        n.statement_id,
        n.substatement_id,
        n.depth,
        shape.classes.strongest().name(),
        String::from_utf8_lossy(shape.command),
        n.outcome.name(),
        if n.sqlstate == 0 {
            "00000".into()
        } else {
            String::from_utf8_lossy(&sqlstate_text(n.sqlstate)).into_owned()
        },
        "",
        n.fate.name().unwrap_or("open"),
        n.transaction_id,
        n.rows,
        n.duration,
        text(session.user_name),
        text(session.role_name),
        text(session.database_name),
        text(shape.object_type),
        text(shape.object_name),
        relations.join(", "),
        text(event.section(Section::Error)),
        text(event.section(Section::Details)),
        decisions.join(", "),
        text(event.section(Section::Statement)),
    )
}
