//! Fates that a batch decides of events stored before: the rows of audit.fate. They are never
//! changed; what they say is part of the leaf of the event that decided.
//!
//! Everything here throws, in the transaction of the batch.

use super::batch::{Batch, Prepared};
use super::orphans;
use super::store::{int4, int8};
use super::text::Texts;
use crate::pg::spi::{Plan, execute, text_datum};
use audit_core::event::{Fate, Timestamp};
use audit_core::record::FateRow;
use pgrx::pg_sys::{self, Datum};

/// The prepared statements.
pub struct DecidedStore {
    texts: Texts,
    fate: Plan,
    prepare: Plan,
    end_prepared: Plan,
    prepared_by: Plan,
    id: Plan,
}

impl DecidedStore {
    /// In a transaction.
    pub fn new(texts: Texts) -> DecidedStore {
        use pg_sys::{INT2OID, INT4OID, INT8OID, TEXTOID, TIMESTAMPTZOID};
        DecidedStore {
            texts,
            fate: Plan::new(
                c"INSERT INTO audit.fate (recorded_at, session_started, pid, first_event, last_event, outcome, decided_by) VALUES ($1, $2, $3, $4, $5, $6, $7)",
                &[
                    TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT8OID, INT8OID, INT2OID, INT8OID,
                ],
            ),
            prepare: Plan::new(
                c"INSERT INTO audit.fate (recorded_at, session_started, pid, first_event, last_event, outcome, decided_by, gid) VALUES ($1, $2, $3, $4, $5, 3, $6, $7)",
                &[
                    TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT8OID, INT8OID, INT8OID, TEXTOID,
                ],
            ),
            // A gid may be used again: the one prepared last is meant, unless it has ended; then it is one
            // without events on record. (A subquery, not a join: one look into each index.)
            end_prepared: Plan::new(
                c"INSERT INTO audit.fate (recorded_at, session_started, pid, first_event, last_event, outcome, decided_by) SELECT $1, p.session_started, p.pid, p.first_event, p.last_event, $2, $3 FROM (SELECT * FROM audit.fate WHERE gid = $4 AND outcome = 3 ORDER BY decided_by DESC LIMIT 1) p WHERE (SELECT f.outcome FROM audit.fate f WHERE f.session_started = p.session_started AND f.pid = p.pid AND f.last_event = p.last_event AND f.first_event = p.first_event AND f.outcome <> 3 AND f.decided_by > p.decided_by LIMIT 1) IS NULL RETURNING session_started, pid, first_event, last_event",
                &[TIMESTAMPTZOID, INT2OID, INT8OID, TEXTOID],
            ),
            // The event of PREPARE TRANSACTION, or the FATE that told of it; its id.
            prepared_by: Plan::new(
                c"SELECT decided_by, recorded_at FROM audit.fate WHERE gid = $1 AND outcome = 3 ORDER BY decided_by DESC LIMIT 1",
                &[TEXTOID],
            ),
            id: Plan::for_each(
                c"SELECT audit.event_transaction_id(numbers)::text::bigint FROM audit.event WHERE seq = $1 AND recorded_at = $2",
                &[INT8OID, TIMESTAMPTZOID],
            ),
        }
    }

    /// Writes the decisions about events of earlier batches; returns them with the rows of the
    /// events that decided, in the order of these.
    pub fn write(
        &self,
        batch: &Batch,
        recorded_at: Timestamp,
        first_seq: u64,
    ) -> Vec<(u32, FateRow)> {
        let mut written = Vec::new();
        for outside in &batch.fates.outside {
            let row = FateRow {
                recorded_at,
                session_started: outside.session.started_at,
                pid: outside.session.pid as i32,
                first_event: outside.decision.first as i64,
                last_event: outside.decision.last as i64,
                outcome: outside.decision.fate as i16,
                decided_by: (first_seq + u64::from(outside.row)) as i64,
                gid: None,
            };
            self.fate.execute([
                int8(row.recorded_at),
                int8(row.session_started),
                int4(row.pid),
                int8(row.first_event),
                int8(row.last_event),
                Some(Datum::from(row.outcome)),
                int8(row.decided_by),
            ]);
            written.push((outside.row, row));
        }
        for prepared in &batch.prepared {
            let row = self.write_prepared(prepared, recorded_at, first_seq);
            written.extend(row.map(|row| (prepared.row, row)));
        }
        written.sort_by_key(|(row, _)| *row);
        written
    }

    fn write_prepared(
        &self,
        prepared: &Prepared,
        recorded_at: Timestamp,
        first_seq: u64,
    ) -> Option<FateRow> {
        let gid = self.texts.convert(&prepared.gid, prepared.encoding).text;
        let gid_datum = Some(text_datum(&gid));
        let fate = match prepared.fate {
            Fate::Open => self.ask(gid_datum, prepared.horizon?)?,
            fate => fate,
        };
        let mut row = FateRow {
            recorded_at,
            session_started: prepared.session.started_at,
            pid: prepared.session.pid as i32,
            first_event: prepared.events.0 as i64,
            last_event: prepared.events.1 as i64,
            outcome: fate as i16,
            decided_by: (first_seq + u64::from(prepared.row)) as i64,
            gid: None,
        };
        match fate {
            Fate::Prepared => {
                self.prepare.execute([
                    int8(recorded_at),
                    int8(row.session_started),
                    int4(row.pid),
                    int8(row.first_event),
                    int8(row.last_event),
                    int8(row.decided_by),
                    gid_datum,
                ]);
                row.gid = Some(gid.into_owned());
                Some(row)
            }
            fate => {
                let mut found = None;
                self.end_prepared.returning(
                    [
                        int8(recorded_at),
                        Some(Datum::from(fate as i16)),
                        int8(row.decided_by),
                        gid_datum,
                    ],
                    |returned| {
                        let column = |i| returned.number(i).unwrap_or(0);
                        found = Some(FateRow {
                            session_started: column(1),
                            pid: column(2) as i32,
                            first_event: column(3),
                            last_event: column(4),
                            ..row.clone()
                        });
                    },
                );
                found
            }
        }
    }

    /// What became of the transaction that was prepared last with this gid, `horizon` being the first id that was given
    /// out after the death of who was to end it; `None`: it still is, or the server has forgotten.
    fn ask(&self, gid: Option<Datum>, horizon: u64) -> Option<Fate> {
        // The period that is written to may have no statistics yet.
        execute("SET LOCAL enable_seqscan = off");
        let mut event = None;
        self.prepared_by
            .returning([gid], |row| event = row.number(1).zip(row.number(2)));
        let (seq, recorded_at) = event?;
        let mut id = None;
        self.id
            .returning([int8(seq), int8(recorded_at)], |row| id = row.number(1));
        match orphans::fate(id? as u64, horizon) {
            fate @ (Fate::Committed | Fate::RolledBack) => Some(fate),
            Fate::Open | Fate::Prepared => None,
        }
    }
}
