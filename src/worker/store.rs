//! From a batch to the tables, within one transaction that the caller has begun.
//!
//! Everything here throws; nothing of a batch is stored unless all of it is.

use super::batch::{Batch, CONTENT_FIELDS, NewSession, NewStatement, Prepared, Row};
use super::period::Period;
use super::text::Texts;
use crate::pg::heap::{CHUNK, Writer};
use crate::pg::spi::{Plan, parse_datum, text_array_datum, text_datum};
use audit_core::codec::{decode_parameters, decode_session, decode_shape};
use audit_core::event::{Fate, Timestamp};
use audit_core::json::Object;
use pgrx::pg_sys::{self, Datum};

/// Columns of audit.event that its BRIN has, in the same order: seq, recorded_at, started_at.
const BRIN_KEYS: usize = 3;

/// Where in which ring a batch ends.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub ring_id: [u8; 16],
    pub position: u64,
    /// Drops of the ring that the trail tells of.
    pub dropped: u64,
}

/// The prepared statements.
pub struct Store {
    texts: Texts,
    session: Plan,
    statement: Plan,
    fate: Plan,
    prepare: Plan,
    end_prepared: Plan,
    batch: Plan,
}

impl Store {
    /// In a transaction.
    pub fn new(texts: Texts) -> Store {
        use pg_sys::{
            BYTEAOID, INETOID, INT2OID, INT4OID, INT8OID, JSONBOID, TEXTARRAYOID, TEXTOID,
            TIMESTAMPTZOID,
        };
        Store {
            texts,
            session: Plan::new(
                c"INSERT INTO audit.session (ref, session_id, started_at, pid, user_name, role_name, auth_identity, session_user_name, database_name, branch, client_addr, client_port, application_name, backend_type, context, unstorable) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
                &[
                    INT8OID, TEXTOID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
                    TEXTOID, TEXTOID, INETOID, INT4OID, TEXTOID, TEXTOID, JSONBOID, JSONBOID,
                ],
            ),
            statement: Plan::new(
                c"INSERT INTO audit.statement (ref, class, classes, command, object_type, object_name, relations, query_id, text, unstorable) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    INT8OID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID,
                    INT8OID, TEXTOID, JSONBOID,
                ],
            ),
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
            // A gid may be used again: the one prepared last is meant.
            end_prepared: Plan::new(
                c"INSERT INTO audit.fate (recorded_at, session_started, pid, first_event, last_event, outcome, decided_by) SELECT $1, session_started, pid, first_event, last_event, $2, $3 FROM audit.fate WHERE gid = $4 AND outcome = 3 ORDER BY decided_by DESC LIMIT 1",
                &[TIMESTAMPTZOID, INT2OID, INT8OID, TEXTOID],
            ),
            batch: Plan::new(
                c"INSERT INTO audit.batch (recorded_at, ring_id, position, first_seq, last_seq, dropped) VALUES ($1, $2, $3, $4, $5, $6)",
                &[
                    TIMESTAMPTZOID, BYTEAOID, INT8OID, INT8OID, INT8OID, INT8OID,
                ],
            ),
        }
    }

    /// Stores a finished batch whose first event gets `first_seq`.
    pub fn write(
        &self,
        batch: &Batch,
        period: &Period,
        recorded_at: Timestamp,
        first_seq: u64,
        progress: &Progress,
    ) {
        for session in &batch.sessions {
            self.write_session(batch, session);
        }
        for statement in &batch.statements {
            self.write_statement(batch, statement);
        }
        self.write_events(batch, period, recorded_at, first_seq);
        for outside in &batch.fates.outside {
            self.fate.execute([
                int8(recorded_at),
                int8(outside.session.started_at),
                int4(outside.session.pid as i32),
                int8(outside.decision.first as i64),
                int8(outside.decision.last as i64),
                Some(Datum::from(outside.decision.fate as i16)),
                int8((first_seq + u64::from(outside.row)) as i64),
            ]);
        }
        for prepared in &batch.prepared {
            self.write_prepared(prepared, recorded_at, first_seq);
        }
        self.batch.execute([
            int8(recorded_at),
            Some(text_datum(&progress.ring_id)), // bytea has the same form
            int8(progress.position as i64),
            int8(first_seq as i64),
            int8((first_seq + batch.rows.len() as u64) as i64 - 1),
            int8(progress.dropped as i64),
        ]);
    }

    fn write_prepared(&self, prepared: &Prepared, recorded_at: Timestamp, first_seq: u64) {
        let gid = self.texts.convert(&prepared.gid, prepared.encoding);
        let gid = Some(text_datum(&gid.text));
        let decided_by = int8((first_seq + u64::from(prepared.row)) as i64);
        match prepared.fate {
            Fate::Prepared => self.prepare.execute([
                int8(recorded_at),
                int8(prepared.session.started_at),
                int4(prepared.session.pid as i32),
                int8(prepared.events.0 as i64),
                int8(prepared.events.1 as i64),
                decided_by,
                gid,
            ]),
            fate => self.end_prepared.execute([
                int8(recorded_at),
                Some(Datum::from(fate as i16)),
                decided_by,
                gid,
            ]),
        }
    }

    fn write_events(&self, batch: &Batch, period: &Period, recorded_at: Timestamp, first_seq: u64) {
        if batch.rows.is_empty() {
            return;
        }
        // SAFETY: the partition and its BRIN were made by period.rs with these leading columns.
        unsafe {
            let mut writer = Writer::open(
                period.event_table,
                period.event_brin,
                BRIN_KEYS,
                batch.rows.len(),
            );
            let mut seq = first_seq as i64;
            for chunk in batch.rows.chunks(CHUNK) {
                writer.insert(chunk.len(), |i, values, nulls| {
                    let head = [seq + i as i64, recorded_at];
                    self.event(batch, &chunk[i], head, values, nulls);
                });
                seq += chunk.len() as i64;
            }
            writer.close();
        }
    }

    /// The columns of audit.event, in their order.
    fn event(
        &self,
        batch: &Batch,
        row: &Row,
        [seq, recorded_at]: [i64; 2],
        values: &mut [Datum],
        nulls: &mut [bool],
    ) {
        let arena = &batch.arena;
        let columns = [
            int8(seq),
            int8(recorded_at),
            int8(row.numbers.started_at),
            int8(row.session),
            int8(row.statement),
            arena.datum(row.packed),
            arena.datum(row.text),
            arena.datum(row.error),
            arena.datum(row.sha256),
            self.parameters(arena.get(row.parameters), row.encoding),
            self.details(arena.get(row.details), row),
        ];
        for (i, column) in columns.into_iter().enumerate() {
            nulls[i] = column.is_none();
            values[i] = column.unwrap_or(Datum::null());
        }
    }

    fn parameters(&self, raw: Option<&[u8]>, encoding: u8) -> Option<Datum> {
        let values = decode_parameters(raw?).ok()?;
        let texts: Vec<_> = values
            .into_iter()
            .map(|value| value.map(|v| text_datum(&self.texts.convert(v, encoding).text)))
            .collect();
        Some(text_array_datum(&texts))
    }

    fn details(&self, raw: Option<&[u8]>, row: &Row) -> Option<Datum> {
        if raw.is_none() && row.unstorable == 0 {
            return None;
        }
        let mut notes = Object::new();
        for (bit, name) in CONTENT_FIELDS {
            if row.unstorable & bit != 0 {
                notes.text(name, b"escaped or left out");
            }
        }
        let details = raw.and_then(|raw| self.jsonb("details", raw, row.encoding, &mut notes));
        if notes.is_empty() {
            return details;
        }
        let mut outer = Object::new();
        outer.raw("unstorable", &notes.finish());
        let outer = self.own_jsonb(outer);
        match (details, outer) {
            // SAFETY: two jsonb values.
            (Some(details), Some(outer)) => unsafe {
                pgrx::direct_function_call_as_datum(
                    pg_sys::jsonb_concat,
                    &[Some(details), Some(outer)],
                )
            },
            (details, outer) => details.or(outer),
        }
    }

    /// JSON from outside as jsonb. What jsonb refuses becomes a note under `name`.
    fn jsonb(&self, name: &str, raw: &[u8], encoding: u8, notes: &mut Object) -> Option<Datum> {
        let parsed = parse_datum(pg_sys::jsonb_in, &self.texts.convert(raw, encoding).text);
        if parsed.is_none() {
            notes.text(name, raw);
        }
        parsed
    }

    /// JSON that we wrote ourselves, in UTF-8.
    fn own_jsonb(&self, object: Object) -> Option<Datum> {
        parse_datum(
            pg_sys::jsonb_in,
            &self.texts.convert_utf8(&object.finish()).text,
        )
    }

    fn notes(&self, notes: Object) -> Option<Datum> {
        if notes.is_empty() {
            return None;
        }
        self.own_jsonb(notes)
    }

    /// A text as it can be stored; a note where it had to be escaped.
    fn text(
        &self,
        name: &str,
        text: Option<&[u8]>,
        encoding: u8,
        notes: &mut Object,
    ) -> Option<Datum> {
        let storable = self.texts.convert(text?, encoding);
        if storable.escaped {
            notes.text(name, b"escaped");
        }
        Some(text_datum(&storable.text))
    }

    fn write_session(&self, batch: &Batch, new: &NewSession) {
        let Some(Ok(s)) = batch.arena.get(new.section).map(decode_session) else {
            return; // decoded when it was added
        };
        let mut notes = Object::new();
        let mut text = |name, value| self.text(name, value, s.encoding, &mut notes);
        let names = [
            text("user_name", s.user_name),
            text("role_name", s.role_name),
            text("auth_identity", s.auth_identity),
            text("session_user", s.session_user),
            text("database_name", s.database_name),
            text("branch", s.branch),
            text("application_name", s.application_name),
            text("backend_type", s.backend_type),
        ];
        let client_addr = s.client_addr.and_then(|address| {
            let parsed = parse_datum(pg_sys::inet_in, address);
            if parsed.is_none() {
                notes.text("client_addr", address);
            }
            parsed
        });
        let context = s
            .context
            .and_then(|raw| self.jsonb("context", raw, s.encoding, &mut notes));
        self.session.execute([
            int8(new.reference),
            Some(text_datum(session_id(s.started_at, s.pid).as_bytes())),
            int8(s.started_at),
            int4(s.pid as i32),
            names[0],
            names[1],
            names[2],
            names[3],
            names[4],
            names[5],
            client_addr,
            s.client_port.and_then(|port| int4(i32::from(port))),
            names[6],
            names[7],
            context,
            self.notes(notes),
        ]);
    }

    fn write_statement(&self, batch: &Batch, new: &NewStatement) {
        let Some(Ok(shape)) = batch.arena.get(new.shape).map(decode_shape) else {
            return; // decoded when it was added
        };
        let mut notes = Object::new();
        let mut text = |name, value| self.text(name, value, new.encoding, &mut notes);
        let command = text("command", Some(shape.command));
        let object_type = text("object_type", shape.object_type);
        let object_name = text("object_name", shape.object_name);
        let relations: Vec<_> = shape
            .relations
            .iter()
            .map(|name| text("relations", Some(name)))
            .collect();
        let statement = text("statement", batch.arena.get(new.text));
        let classes: Vec<_> = shape
            .classes
            .iter()
            .map(|class| Some(text_datum(class.name().as_bytes())))
            .collect();
        self.statement.execute([
            int8(new.reference),
            Some(text_datum(shape.classes.strongest().name().as_bytes())),
            Some(text_array_datum(&classes)),
            command,
            object_type,
            object_name,
            (!relations.is_empty()).then(|| text_array_datum(&relations)),
            Some(shape.query_id).filter(|id| *id != 0).and_then(int8),
            statement,
            self.notes(notes),
        ]);
    }
}

fn int8(value: i64) -> Option<Datum> {
    Some(Datum::from(value))
}

fn int4(value: i32) -> Option<Datum> {
    Some(Datum::from(value))
}

/// `%c` of log_line_prefix: start in seconds since 1970 and process id, in hexadecimal.
fn session_id(started_at: Timestamp, pid: u32) -> String {
    const UNIX_EPOCH_TO_2000: i64 = 946_684_800;
    let seconds = started_at.div_euclid(1_000_000) + UNIX_EPOCH_TO_2000;
    format!("{seconds:x}.{pid:x}")
}
