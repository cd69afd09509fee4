//! From a batch to the tables, within one transaction that the caller has begun.
//!
//! Everything here throws; nothing of a batch is stored unless all of it is.

use super::batch::{Batch, CONTENT_FIELDS, NewSession, NewStatement, Row};
use super::decided::DecidedStore;
use super::dictionary::Dictionary;
use super::period::Period;
use super::text::Texts;
use crate::pg::heap::{Bulk, CHUNK, Leading, Writer};
use crate::pg::random;
use crate::pg::spi::{Plan, parse_datum, text_array_datum, text_datum};
use crate::pg::trail::canon::Canon;
use audit_core::calendar::SECONDS_BEFORE_2000;
use audit_core::codec::{decode_parameters, decode_session, decode_shape};
use audit_core::event::Timestamp;
use audit_core::json::Object;
use audit_core::record::{BadSalt, BatchRow, FateRow, Record, Salts, fates_digest};
use audit_core::sha::{Hash, Messages};
use audit_core::tree::Frontier;
use pgrx::pg_sys::{self, Datum};
use std::cell::RefCell;

/// The BRIN of audit.event has seq, recorded_at, started_at; session and statement are 8 bytes, too, and
/// numbers follow.
pub const LEADING: Leading = Leading { keys: 3, fixed: 5 };

/// Where in which ring a batch ends.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub ring_id: [u8; 16],
    pub position: u64,
    /// Drops of the ring that the trail tells of.
    pub dropped: u64,
}

/// Where a batch goes.
pub struct Destination<'w> {
    pub period: &'w Period,
    pub dictionary: &'w mut Dictionary,
    /// The batch's leaves are added.
    pub tree: &'w mut Frontier,
    pub recorded_at: Timestamp,
    /// What the batch ends at.
    pub progress: Progress,
}

/// Bytes of each leaf hash that audit.batch keeps.
const CHECK: usize = 4;

/// The prepared statements.
pub struct Store {
    texts: Texts,
    bulk: RefCell<Bulk>,
    canon: Canon,
    salts: random::Salts,
    session: Plan,
    statement: Plan,
    decided: DecidedStore,
    batch: Plan,
    origin: Plan,
}

impl Store {
    /// In a transaction.
    pub fn new(texts: Texts) -> Store {
        use pg_sys::{
            BYTEAOID, INETOID, INT4OID, INT8OID, JSONBOID, TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID,
        };
        Store {
            texts,
            bulk: RefCell::new(Bulk::new()),
            canon: Canon::new(unsafe { pg_sys::TopMemoryContext }),
            salts: random::Salts::default(),
            session: Plan::new(
                c"INSERT INTO audit.session (ref, session_id, started_at, pid, user_name, role_name, auth_identity, session_user_name, database_name, branch, client_addr, client_port, application_name, backend_type, context, unstorable, salt) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
                &[
                    INT8OID, TEXTOID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
                    TEXTOID, TEXTOID, INETOID, INT4OID, TEXTOID, TEXTOID, JSONBOID, JSONBOID,
                    BYTEAOID,
                ],
            ),
            statement: Plan::new(
                c"INSERT INTO audit.statement (ref, class, classes, command, object_type, object_name, relations, query_id, text, unstorable, salt) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                &[
                    INT8OID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID,
                    INT8OID, TEXTOID, JSONBOID, BYTEAOID,
                ],
            ),
            decided: DecidedStore::new(texts),
            batch: Plan::new(
                c"INSERT INTO audit.batch (recorded_at, ring_id, position, first_seq, last_seq, dropped, frontier, checks) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    TIMESTAMPTZOID, BYTEAOID, INT8OID, INT8OID, INT8OID, INT8OID, BYTEAOID,
                    BYTEAOID,
                ],
            ),
            origin: Plan::for_each(
                c"INSERT INTO audit.origin (seq, recorded_at, command, details) SELECT e.seq, e.recorded_at, t.command, e.details FROM audit.event e, audit.statement t WHERE e.seq = $1 AND e.recorded_at = $2 AND t.ref = $3",
                &[INT8OID, TIMESTAMPTZOID, INT8OID],
            ),
        }
    }

    /// Stores a finished batch, which is not empty. Its first event follows the tree's last leaf.
    pub fn write(&self, batch: &Batch, to: Destination) {
        let first_seq = to.tree.size() + 1;
        let last_seq = first_seq + batch.rows.len() as u64 - 1;
        for session in &batch.sessions {
            if let Some(digest) = self.write_session(batch, session) {
                to.dictionary.learn_session(session.reference, digest);
            }
        }
        for statement in &batch.statements {
            if let Some(digest) = self.write_statement(batch, statement) {
                to.dictionary.learn_statement(statement.reference, digest);
            }
        }
        let decided = self.decided.write(batch, to.recorded_at, first_seq);
        let row = BatchRow {
            recorded_at: to.recorded_at,
            ring_id: &to.progress.ring_id,
            position: to.progress.position as i64,
            first_seq: first_seq as i64,
            last_seq: last_seq as i64,
            dropped: to.progress.dropped as i64,
        };
        let leaves = Leaves {
            decided,
            recorded_at: to.recorded_at,
            first_seq: first_seq as i64,
            last: (batch.rows.len() - 1, row.digest()),
        };
        let checks = self.write_events(batch, &leaves, to.dictionary, to.period, to.tree);
        for row in &batch.landmarks {
            self.origin.execute([
                int8((first_seq + u64::from(*row)) as i64),
                int8(to.recorded_at),
                int8(batch.rows[*row as usize].statement),
            ]);
        }
        let frontier = to.tree.since(first_seq - 1).concat();
        self.batch.execute([
            int8(row.recorded_at),
            Some(text_datum(row.ring_id)), // bytea has the same form
            int8(row.position),
            int8(row.first_seq),
            int8(row.last_seq),
            int8(row.dropped),
            Some(text_datum(&frontier)),
            Some(text_datum(&checks)),
        ]);
    }

    /// Writes the events and adds their leaves to the tree; returns the beginnings of the leaves.
    fn write_events(
        &self,
        batch: &Batch,
        leaves: &Leaves,
        dictionary: &Dictionary,
        period: &Period,
        tree: &mut Frontier,
    ) -> Vec<u8> {
        let mut checks = Vec::with_capacity(batch.rows.len() * CHECK);
        let mut bulk = self.bulk.borrow_mut();
        // SAFETY: the partition and its BRIN were made by period.rs with these leading columns.
        unsafe {
            let mut writer = Writer::open(period.event_table, LEADING, batch.rows.len(), &mut bulk);
            let (mut messages, mut hashes) = (Messages::default(), Vec::new());
            for (chunk, rows) in batch.rows.chunks(CHUNK).enumerate() {
                writer.insert(rows.len(), |i, values, nulls| {
                    let number = chunk * CHUNK + i;
                    self.event(batch, number, leaves, dictionary, values, nulls)
                        .add_to(&mut messages);
                });
                messages.hash(&mut hashes);
                for leaf in &hashes {
                    checks.extend_from_slice(&leaf[..CHECK]);
                }
                tree.extend(&hashes);
            }
            writer.close();
        }
        checks
    }

    /// The columns of audit.event, in their order; returns what the leaf is the hash of. In memory that
    /// lives until the row is inserted.
    fn event<'b>(
        &self,
        batch: &'b Batch,
        number: usize,
        leaves: &Leaves,
        dictionary: &Dictionary,
        values: &mut [Datum],
        nulls: &mut [bool],
    ) -> Record<'b> {
        let (arena, row) = (&batch.arena, &batch.rows[number]);
        let seq = leaves.first_seq + number as i64;
        let fields = [
            arena.datum(row.text),
            arena.datum(row.error),
            arena.datum(row.sha256),
            self.parameters(arena.get(row.parameters), row.encoding),
            self.details(arena.get(row.details), row),
        ];
        let salt = fields
            .iter()
            .any(Option::is_some)
            .then(|| self.salts.next());
        let [text, error, sha256, parameters, details] = fields;
        let columns = [
            int8(seq),
            int8(leaves.recorded_at),
            int8(row.numbers.started_at),
            int8(row.session),
            int8(row.statement),
            arena.datum(row.packed),
            salt.as_ref().map(|salt| text_datum(salt)),
            text,
            error,
            parameters,
            details,
            sha256,
        ];
        for (i, column) in columns.into_iter().enumerate() {
            nulls[i] = column.is_none();
            values[i] = column.unwrap_or(Datum::null());
        }
        let known = |digest: Option<&Hash>| match digest {
            Some(digest) => *digest,
            None => pgrx::error!("audit_ext: a dictionary row of event {seq} has no digest"),
        };
        Record {
            seq,
            recorded_at: leaves.recorded_at,
            started_at: row.numbers.started_at,
            session: known(dictionary.session_digest(row.session)),
            statement: known(dictionary.statement_digest(row.statement)),
            fields: hashed(self.canon.fields(fields, salt.map(Salts::Whole).as_ref())),
            fates: leaves.fates(number),
            batch: (number == leaves.last.0).then_some(leaves.last.1),
            numbers: arena.content(row.packed),
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

    /// Returns the row's digest.
    fn write_session(&self, batch: &Batch, new: &NewSession) -> Option<Hash> {
        // Decoded when it was added.
        let s = decode_session(batch.arena.get(new.section)?).ok()?;
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
        let salt = context.map(|_| text_datum(&self.salts.next()));
        let row = [
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
            salt,
        ];
        self.session.execute(row);
        Some(hashed(self.canon.session(&row)))
    }

    /// Returns the row's digest.
    fn write_statement(&self, batch: &Batch, new: &NewStatement) -> Option<Hash> {
        // Decoded when it was added.
        let shape = decode_shape(batch.arena.get(new.shape)?).ok()?;
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
        let salt = statement.map(|_| text_datum(&self.salts.next()));
        let row = [
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
            salt,
        ];
        self.statement.execute(row);
        Some(hashed(self.canon.statement(&row)))
    }
}

/// What the leaves of a batch have in common.
struct Leaves {
    recorded_at: Timestamp,
    first_seq: i64,
    /// What the events at these rows decided, by row.
    decided: Vec<(u32, FateRow)>,
    /// The last row, and the digest of the batch's own row.
    last: (usize, Hash),
}

impl Leaves {
    /// Digest of the fates that the event at a row decided.
    fn fates(&self, row: usize) -> Option<Hash> {
        if self.decided.is_empty() {
            return None;
        }
        let begin = self
            .decided
            .partition_point(|(other, _)| (*other as usize) < row);
        let own: Vec<_> = self.decided[begin..]
            .iter()
            .take_while(|(other, _)| *other as usize == row)
            .map(|(_, fate)| fate.clone())
            .collect();
        fates_digest(&own)
    }
}

/// Digests of what was just given its salt.
fn hashed<T>(digests: Result<T, BadSalt>) -> T {
    match digests {
        Ok(digests) => digests,
        Err(BadSalt) => pgrx::error!("audit_ext: a value has no salt"),
    }
}

pub(super) fn int8(value: i64) -> Option<Datum> {
    Some(Datum::from(value))
}

pub(super) fn int4(value: i32) -> Option<Datum> {
    Some(Datum::from(value))
}

/// `%c` of log_line_prefix: start in seconds since 1970 and process id, in hexadecimal.
fn session_id(started_at: Timestamp, pid: u32) -> String {
    let seconds = started_at.div_euclid(1_000_000) + SECONDS_BEFORE_2000;
    format!("{seconds:x}.{pid:x}")
}
