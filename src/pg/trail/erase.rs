//! Destroying values: what belongs to an event, and how its rows look without it.
//!
//! Everything throws; inside an SPI connection.

use super::canon::{Canon, Kind, content};
use crate::pg::scrub::Wipe;
use crate::pg::spi::{Plan, current, text_datum};
use audit_core::calendar::rfc3339;
use audit_core::record::{Field, Salts};
use audit_core::sha::Hash;
use pgrx::pg_sys::{self, Datum};

/// Fields that can be erased, by the name of their column in audit.log. The SHA-256 of a text that
/// was cut goes with the text.
pub const FIELDS: [(&str, Field); 5] = [
    ("statement", Field::Text),
    ("error", Field::Error),
    ("parameters", Field::Parameters),
    ("details", Field::Details),
    ("context", Field::Context),
];

/// The bit of a field in a set.
pub fn bit(field: Field) -> u8 {
    1 << (field as u8 - 1)
}

/// Columns of audit.event that hold fields, in the order of [`Field::OF_EVENT`].
const COLUMNS: [&str; 5] = ["text", "error", "statement_sha256", "parameters", "details"];

/// An event and its rows, as far as erasing is concerned.
#[derive(Clone, Debug, Default)]
pub struct Target {
    pub seq: i64,
    pub recorded_at: i64,
    pub session_ref: i64,
    pub statement_ref: i64,
    pub class: String,
    /// Values that are there in the event itself.
    pub inline: u8,
    /// Whether the text and the context that are kept once are there.
    pub kept_text: bool,
    pub kept_context: bool,
    /// Partitions of event, statement, session.
    pub tables: [pg_sys::Oid; 3],
}

impl Target {
    /// Looks an event up, as it is now; `None`: there is none.
    pub fn find(seq: i64) -> Option<Target> {
        let mut found = None;
        current(
            &format!(
                "SELECT e.recorded_at, e.session, e.statement, t.class, \
                        (e.text IS NOT NULL)::int + 2 * (e.error IS NOT NULL)::int \
                        + 4 * (e.statement_sha256 IS NOT NULL)::int \
                        + 8 * (e.parameters IS NOT NULL)::int + 16 * (e.details IS NOT NULL)::int, \
                        (t.text IS NOT NULL)::int, (s.context IS NOT NULL)::int, \
                        e.tableoid::bigint, t.tableoid::bigint, s.tableoid::bigint \
                 FROM audit.event e \
                 JOIN audit.statement t ON t.ref = e.statement \
                 JOIN audit.session s ON s.ref = e.session WHERE e.seq = {seq}"
            ),
            |row| {
                let number = |i| row.number(i).unwrap_or(0);
                found = Some(Target {
                    seq,
                    recorded_at: number(1),
                    session_ref: number(2),
                    statement_ref: number(3),
                    class: row.text(4).unwrap_or_default(),
                    inline: number(5) as u8,
                    kept_text: number(6) as u8 != 0,
                    kept_context: number(7) as u8 != 0,
                    tables: [8, 9, 10].map(|i| pg_sys::Oid::from(number(i) as u32)),
                });
            },
        );
        found
    }

    /// Whether a value of a field is there.
    pub fn has(&self, field: Field) -> bool {
        match field {
            Field::Text => self.inline & bit(Field::Text) != 0 || self.kept_text,
            Field::Context => self.kept_context,
            field => self.inline & bit(field) != 0,
        }
    }

    /// Fields of the event itself that go with these.
    pub fn inline_of(&self, fields: u8) -> u8 {
        let text = fields & bit(Field::Text) != 0;
        let with = if text { bit(Field::StatementSha256) } else { 0 };
        (fields | with) & self.inline
    }

    /// Whether the row of audit.statement loses its text.
    pub fn takes_kept_text(&self, fields: u8) -> bool {
        self.kept_text && fields & bit(Field::Text) != 0
    }

    /// Whether the row of audit.session loses its context.
    pub fn takes_kept_context(&self, fields: u8) -> bool {
        self.kept_context && fields & bit(Field::Context) != 0
    }

    /// Tables whose old row versions are to be wiped, with their TOAST tables.
    pub fn to_wipe(&self) -> Vec<(pg_sys::Oid, Wipe)> {
        // Behind `numbers`, `command`, `session_id`.
        let wipes = [Wipe::Behind(6), Wipe::Behind(4), Wipe::Behind(2)];
        let mut tables = Vec::new();
        for (table, wipe) in self.tables.into_iter().zip(wipes) {
            tables.push((table, wipe));
            current(
                &format!(
                    "SELECT reltoastrelid::bigint FROM pg_class WHERE oid = {} AND reltoastrelid <> 0",
                    table.to_u32()
                ),
                |row| {
                    let toast = row.number(1).unwrap_or(0) as u32;
                    tables.push((pg_sys::Oid::from(toast), Wipe::Chunk));
                },
            );
        }
        tables
    }

    /// Replaces values by their digests.
    pub fn erase(&self, fields: u8) {
        let canon = Canon::new(unsafe { pg_sys::CurTransactionContext });
        let inline = self.inline_of(fields);
        if inline != 0 {
            self.erase_inline(&canon, inline);
        }
        if self.takes_kept_text(fields) {
            let row = ("statement", "text", self.statement_ref);
            erase_kept_once(&canon, row, Field::Text, Kind::Bytes);
        }
        if self.takes_kept_context(fields) {
            let row = ("session", "context", self.session_ref);
            erase_kept_once(&canon, row, Field::Context, Kind::Jsonb);
        }
    }

    fn erase_inline(&self, canon: &Canon, inline: u8) {
        let mut salts = None;
        current(
            &format!(
                "SELECT text, error, statement_sha256, parameters, details, salt \
                 FROM audit.event WHERE seq = {}",
                self.seq
            ),
            |row| {
                let columns: [Option<Datum>; 6] = row.datums();
                let [text, error, sha256, parameters, details, salt] = columns;
                let old = salt.and_then(|d| content(d, Salts::decode));
                let values = [text, error, sha256, parameters, details];
                let digests = canon.fields(values, old.as_ref()).unwrap_or_else(|_| {
                    pgrx::error!("the salt of event {} is missing or damaged", self.seq)
                });
                let with = |i: usize, digest: Option<Hash>| Some((Field::OF_EVENT[i], digest?));
                let present: Vec<_> = (0..5).filter_map(|i| with(i, digests[i])).collect();
                let gone: Vec<_> = Field::OF_EVENT
                    .into_iter()
                    .filter(|field| inline & bit(*field) != 0)
                    .collect();
                salts = old.map(|old| old.puncture(&present, &gone).encode());
            },
        );
        let Some(salts) = salts else {
            pgrx::error!("the salt of event {} is missing", self.seq);
        };
        let columns: Vec<_> = (0..5)
            .filter(|i| inline & (1 << i) != 0)
            .map(|i| format!(", {} = NULL", COLUMNS[i]))
            .collect();
        let sql = format!(
            "UPDATE audit.event SET salt = $1{} WHERE seq = {} AND recorded_at = '{}'",
            columns.concat(),
            self.seq,
            rfc3339(self.recorded_at)
        );
        update(&sql, &salts);
    }
}

fn erase_kept_once(
    canon: &Canon,
    (table, column, reference): (&str, &str, i64),
    field: Field,
    kind: Kind,
) {
    let mut digest = None;
    current(
        &format!("SELECT {column}, salt FROM audit.{table} WHERE ref = {reference}"),
        |row| {
            let found = canon.kept_once(field, kind, row.datum(1), row.datum(2));
            digest = found.ok().flatten();
        },
    );
    let Some(digest) = digest else {
        pgrx::error!("the salt of row {reference} of audit.{table} is missing or damaged");
    };
    update(
        &format!("UPDATE audit.{table} SET salt = $1, {column} = NULL WHERE ref = {reference}"),
        &digest,
    );
}

fn update(sql: &str, salt: &[u8]) {
    let sql = std::ffi::CString::new(sql).unwrap_or_default();
    Plan::new(&sql, &[pg_sys::BYTEAOID]).execute([Some(text_datum(salt))]);
}
