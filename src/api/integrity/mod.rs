//! The trail as evidence: whether it is whole, what it commits to, and how to prove that.

mod erase;
mod expect;
mod proof;
mod verify;

use crate::pg::{announce, spi};
use audit_core::json::Object;
use pgrx::prelude::*;

/// A seq that was asked for; negative ones are none.
fn seq_argument(value: Option<i64>) -> Option<u64> {
    value.map(|seq| u64::try_from(seq).unwrap_or(0))
}

/// One row per problem found.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the macro wants the columns spelled out
fn verify(
    from_seq: Option<i64>,
    to_seq: Option<i64>,
) -> TableIterator<
    'static,
    (
        name!(seq, Option<i64>),
        name!(problem, &'static str),
        name!(detail, String),
    ),
> {
    let problems =
        spi::connected_to_all(|| verify::verify(seq_argument(from_seq), seq_argument(to_seq)));
    if let Some(first) = problems.first() {
        // SAFETY: a function runs in a transaction.
        unsafe { announce::event("VERIFY", &|details| tell(details, first, &problems), false) };
    }
    TableIterator::new(
        problems
            .into_iter()
            .map(|p| (p.seq.map(|seq| seq as i64), p.problem, p.detail)),
    )
}

/// What the VERIFY event of a trail with problems says of them.
fn tell(details: &mut Object, first: &verify::Problem, all: &[verify::Problem]) {
    details.number("problems", all.len());
    details.text("first", first.problem.as_bytes());
    if let Some(seq) = first.seq {
        details.number("seq", seq);
    }
    details.text("detail", first.detail.as_bytes());
}

/// The signed head of the trail.
#[pg_extern(sql = false)]
fn checkpoint() -> String {
    spi::connected(proof::checkpoint)
}

/// JSON.
#[pg_extern(sql = false)]
fn inclusion_proof(seq: i64, size: i64) -> String {
    let json = spi::connected(|| proof::inclusion(seq, size));
    String::from_utf8_lossy(&json).into_owned()
}

/// JSON.
#[pg_extern(sql = false)]
fn consistency_proof(size1: i64, size2: i64) -> String {
    let json = spi::connected(|| proof::consistency(size1, size2));
    String::from_utf8_lossy(&json).into_owned()
}

/// Destroys values of an event; returns how many events lost a value.
#[pg_extern(sql = false)]
fn erase(seq: Option<i64>, fields: Option<Vec<Option<String>>>, reason: Option<&str>) -> i64 {
    let fields = fields.unwrap_or_default();
    erase::erase(seq.unwrap_or(0), &fields, reason.unwrap_or_default())
}

/// Names of erased fields; for the views.
#[pg_extern(sql = false)]
fn event_erased(
    event: Option<&[u8]>,
    statement: Option<&[u8]>,
    session: Option<&[u8]>,
) -> Vec<String> {
    erase::erased(event, statement, session)
}
