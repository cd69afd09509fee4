//! Asking the trail, in text that reads well in an assertion.

use postgres::SimpleQueryMessage;

use crate::cluster::{APP, Cluster, HOME};

impl Cluster {
    /// The rows of a query as `a | b | c`, NULL as `~`.
    #[track_caller]
    pub fn query(&self, database: &str, sql: &str) -> Vec<String> {
        let mut client = self.connect("postgres", database);
        let messages = client
            .simple_query(sql)
            .unwrap_or_else(|e| panic!("{sql}\n{e:?}\n{}", self.log()));
        messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let fields: Vec<_> =
                        (0..row.len()).map(|i| row.get(i).unwrap_or("~")).collect();
                    Some(fields.join(" | "))
                }
                _ => None,
            })
            .collect()
    }

    /// The one value that a query in the home returns.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        let rows = self.query(HOME, sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.into_iter().next().expect("one row")
    }

    /// Waits until all that was recorded is in the trail; the last seq.
    #[track_caller]
    pub fn flush(&self) -> i64 {
        let seq = self.value("SELECT audit.flush()");
        seq.parse()
            .unwrap_or_else(|_| panic!("audit.flush() returned {seq:?}"))
    }

    /// `columns` of what was recorded in the database `app` where `filter` holds, in the order of
    /// seq, sessions' beginnings and ends and the trail's own events left out.
    #[track_caller]
    pub fn trail(&self, columns: &str, filter: &str) -> Vec<String> {
        self.trail_of(
            columns,
            &format!(
                "database_name = '{APP}' AND class NOT IN ('SESSION', 'AUDIT') AND ({filter})"
            ),
        )
    }

    /// [`Cluster::trail`] over all databases and events.
    #[track_caller]
    pub fn trail_of(&self, columns: &str, filter: &str) -> Vec<String> {
        self.flush();
        self.query(
            HOME,
            &format!("SELECT {columns} FROM audit.log WHERE {filter} ORDER BY seq"),
        )
    }

    /// How many statements of the database `app` are on record where `filter` holds.
    #[track_caller]
    pub fn count(&self, filter: &str) -> usize {
        self.trail("seq", filter).len()
    }
}
