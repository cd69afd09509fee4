//! SQL from the worker: transactions whose errors come back as values, utility statements, and
//! plans that are prepared once.
//!
//! Calls go through pgrx's guard, which turns an ERROR into a Rust panic; [`transaction`] is where
//! it ends. So values with destructors may live across everything in here.

use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicU32, Ordering};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use super::raw;

/// An ERROR that ended a transaction.
#[derive(Clone, Debug)]
pub struct Failure {
    pub code: PgSqlErrorCode,
    pub message: String,
}

impl Failure {
    /// An error of the system.
    pub fn of_io(error: &std::io::Error) -> Failure {
        Failure {
            code: PgSqlErrorCode::ERRCODE_IO_ERROR,
            message: error.to_string(),
        }
    }

    /// Whether the statement's data was at fault, rather than the server's state: class 22 (data
    /// exception), 54 (a limit exceeded), 21 and 23, and whatever our own code got wrong.
    pub fn is_about_content(&self) -> bool {
        let class = sqlstate_class(self.code);
        matches!(&class, b"22" | b"54" | b"21" | b"23" | b"XX")
    }
}

/// The first two characters of a SQLSTATE.
fn sqlstate_class(code: PgSqlErrorCode) -> [u8; 2] {
    let text = audit_core::event::sqlstate_text(code as i32 as u32);
    [text[0], text[1]]
}

impl From<CaughtError> for Failure {
    fn from(error: CaughtError) -> Self {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic {
            ereport: report, ..
        }) = error;
        Failure {
            code: report.sql_error_code(),
            // Not the DETAIL: it may quote what users wrote, which has no place in the server log.
            message: report.message().to_string(),
        }
    }
}

/// Runs `f` and turns an ERROR into a value. Outside of a transaction, or for what leaves no trace.
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Failure> {
    // The builder wants FnOnce + UnwindSafe for both ways out, so the value is moved out by an
    // Option.
    let mut result = None;
    let caught = PgTryBuilder::new(AssertUnwindSafe(|| {
        result = Some(f());
        None
    }))
    .catch_others(|error| Some(Failure::from(error)))
    .execute();
    match (caught, result) {
        (None, Some(value)) => Ok(value),
        (Some(failure), _) => Err(failure),
        (None, None) => unreachable!(),
    }
}

/// Runs `f` in a transaction of the worker's with a snapshot, inside an SPI connection, and commits.
/// An ERROR aborts it and is returned. FATAL ends the process, as everywhere.
pub fn transaction<R>(f: impl FnOnce() -> R) -> Result<R, Failure> {
    transaction_that_ends(true, f)
}

/// [`transaction`], but what worked is taken back.
pub fn rehearsal<R>(f: impl FnOnce() -> R) -> Result<R, Failure> {
    transaction_that_ends(false, f)
}

fn transaction_that_ends<R>(commits: bool, f: impl FnOnce() -> R) -> Result<R, Failure> {
    let outcome = catch(|| unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        lock_extension();
        pg_sys::SPI_connect();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let value = f();
        pg_sys::SPI_finish();
        pg_sys::PopActiveSnapshot();
        if commits {
            pg_sys::CommitTransactionCommand();
        }
        value
    });
    if outcome.is_err() || !commits {
        // Doesn't throw: an ERROR while aborting is a PANIC in the end.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    outcome
}

/// The extension whose trail this process works on; InvalidOid: whichever there is.
static ATTACHED: AtomicU32 = AtomicU32::new(0);

/// From now on [`transaction`] fails once this extension was dropped, also where another was made
/// since: what the process knows of the trail is not true of the next one. Throws; inside
/// [`transaction`].
pub fn attach() {
    ATTACHED.store(this_extension(true).to_u32(), Ordering::Relaxed);
}

/// Whether the extension is there, and the one that this process is attached to, if it is to any.
/// Throws; in a transaction.
pub fn is_attached() -> bool {
    let extension = this_extension(false);
    extension != pg_sys::InvalidOid && may_be(extension)
}

/// Whether this extension is the one that this process is attached to, if it is to any.
fn may_be(extension: pg_sys::Oid) -> bool {
    let attached = ATTACHED.load(Ordering::Relaxed);
    attached == 0 || attached == extension.to_u32()
}

/// Throws where there is none and `must_exist`; InvalidOid otherwise.
fn this_extension(must_exist: bool) -> pg_sys::Oid {
    unsafe { pg_sys::get_extension_oid(c"audit_ext".as_ptr(), !must_exist) }
}

/// First of all locks, as DROP EXTENSION does it: that takes our tables one by one, and whoever held
/// one of them and came for another would make a deadlock with it. Throws, also where the extension
/// is gone, or not the one that this process is attached to.
fn lock_extension() {
    let extension = this_extension(true);
    let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    unsafe { pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, mode) };
    // Who had to wait for the lock may have waited for a DROP, and for a CREATE after it.
    if this_extension(true) != extension || !may_be(extension) {
        pgrx::ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the extension audit_ext was dropped and made again"
        );
    }
}

/// Runs a statement without parameters. Throws; inside [`transaction`].
pub fn execute(sql: &str) {
    execute_bytes(sql.as_bytes());
}

/// [`execute`], of text in the encoding of the database.
pub fn execute_bytes(sql: &[u8]) {
    let text = CString::new(sql).unwrap_or_default();
    let result = unsafe { pg_sys::SPI_execute(text.as_ptr(), false, 0) };
    check(result, &String::from_utf8_lossy(sql));
}

/// SPI reports misuse by negative numbers, everything else by throwing.
fn check(result: c_int, sql: &str) {
    if result < 0 {
        pgrx::error!("audit_ext: SPI error {result} in: {sql}");
    }
}

/// Runs a query without parameters and gives `f` each row. Throws; inside [`transaction`].
pub fn query(sql: &str, f: impl FnMut(&Row)) {
    run(sql, true, f);
}

/// [`query`], but sees what others have committed meanwhile, and what this transaction has done.
pub fn current(sql: &str, f: impl FnMut(&Row)) {
    run(sql, false, f);
}

fn run(sql: &str, read_only: bool, mut f: impl FnMut(&Row)) {
    let text = CString::new(sql).unwrap_or_default();
    unsafe {
        check(pg_sys::SPI_execute(text.as_ptr(), read_only, 0), sql);
        let table = pg_sys::SPI_tuptable;
        if table.is_null() {
            return;
        }
        for i in 0..pg_sys::SPI_processed as usize {
            f(&Row {
                tuple: *(*table).vals.add(i),
                desc: (*table).tupdesc,
            });
        }
        pg_sys::SPI_freetuptable(table);
    }
}

/// Runs `f` inside an SPI connection of a SQL function. Throws what `f` throws.
pub fn connected<R>(f: impl FnOnce() -> R) -> R {
    unsafe {
        pg_sys::SPI_connect();
        let value = f();
        pg_sys::SPI_finish();
        value
    }
}

/// As [`connected`], for what reads all of the trail: no period is dropped any more until the transaction ends, as
/// that begins with a lock of audit.event (worker/retention.rs), and what is there by now is what `f` sees. With the
/// statement's own snapshot, one dropped just before would be gone, and no row would say so.
pub fn connected_to_all<R>(f: impl FnOnce() -> R) -> R {
    unsafe {
        let schema = raw::get_namespace_oid(c"audit".as_ptr(), false);
        let event = raw::get_relname_relid(c"event".as_ptr(), schema);
        pg_sys::LockRelationOid(event, pg_sys::AccessShareLock as c_int);
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let value = connected(f);
        pg_sys::PopActiveSnapshot();
        value
    }
}

/// A query whose rows are fetched a few at a time. Its end, or the transaction's, closes it.
pub struct Cursor {
    portal: pg_sys::Portal,
    table: *mut pg_sys::SPITupleTable,
    rows: usize,
    next: usize,
}

impl Cursor {
    /// Throws; inside an SPI connection.
    pub fn open(sql: &str) -> Cursor {
        let text = CString::new(sql).unwrap_or_default();
        let portal = unsafe {
            pg_sys::SPI_cursor_open_with_args(
                core::ptr::null(),
                text.as_ptr(),
                0,
                core::ptr::null_mut(),
                core::ptr::null_mut(),
                core::ptr::null(),
                true,
                0,
            )
        };
        Cursor {
            portal,
            table: core::ptr::null_mut(),
            rows: 0,
            next: 0,
        }
    }

    /// The next row, which is valid until the next call. Throws; can be cancelled.
    pub fn next(&mut self) -> Option<Row> {
        const AT_ONCE: core::ffi::c_long = 1000;
        if self.portal.is_null() {
            return None;
        }
        if self.next == self.rows {
            pgrx::check_for_interrupts!();
            unsafe {
                if !self.table.is_null() {
                    pg_sys::SPI_freetuptable(self.table);
                }
                pg_sys::SPI_cursor_fetch(self.portal, true, AT_ONCE);
                self.table = pg_sys::SPI_tuptable;
                self.rows = pg_sys::SPI_processed as usize;
                self.next = 0;
            }
            if self.rows == 0 || self.table.is_null() {
                self.rows = 0;
                unsafe {
                    pg_sys::SPI_freetuptable(self.table);
                    pg_sys::SPI_cursor_close(self.portal);
                }
                self.portal = core::ptr::null_mut();
                self.table = core::ptr::null_mut();
                return None;
            }
        }
        self.next += 1;
        // SAFETY: `next` was below `rows`, the number of tuples in the table.
        unsafe {
            Some(Row {
                tuple: *(*self.table).vals.add(self.next - 1),
                desc: (*self.table).tupdesc,
            })
        }
    }
}

/// A row of a result; columns are numbered from 1.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

impl Row {
    /// A column as it is; `None` for NULL. Valid until the next row.
    pub fn datum(&self, column: c_int) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        let datum = unsafe { pg_sys::SPI_getbinval(self.tuple, self.desc, column, &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// A column of a type that is passed by value; `None` for NULL.
    pub fn number(&self, column: c_int) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    /// All columns at once. As many as there are, at most N.
    pub fn datums<const N: usize>(&self) -> [Option<pg_sys::Datum>; N] {
        let mut values = [pg_sys::Datum::null(); N];
        let mut nulls = [true; N];
        unsafe {
            assert!((*self.desc).natts as usize <= N);
            pg_sys::heap_deform_tuple(
                self.tuple,
                self.desc,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
        core::array::from_fn(|i| (!nulls[i]).then_some(values[i]))
    }

    /// A column as text; `None` for NULL.
    pub fn text(&self, column: c_int) -> Option<String> {
        let bytes = self.bytes(column)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A column as text in the encoding of the database; `None` for NULL.
    pub fn bytes(&self, column: c_int) -> Option<Vec<u8>> {
        unsafe {
            let text = pg_sys::SPI_getvalue(self.tuple, self.desc, column);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes().to_vec())
        }
    }
}

/// A statement prepared for the life of the process.
pub struct Plan(pg_sys::SPIPlanPtr);

impl Plan {
    /// Throws; inside [`transaction`].
    pub fn new(sql: &CStr, types: &[pg_sys::Oid]) -> Plan {
        Self::with_options(sql, types, 0)
    }

    /// As [`Plan::new`], but planned anew for the arguments of each run: locks only the partitions that these leave.
    pub fn for_each(sql: &CStr, types: &[pg_sys::Oid]) -> Plan {
        Self::with_options(sql, types, pg_sys::CURSOR_OPT_CUSTOM_PLAN)
    }

    fn with_options(sql: &CStr, types: &[pg_sys::Oid], options: u32) -> Plan {
        unsafe {
            let mut types = types.to_vec();
            let plan = pg_sys::SPI_prepare_cursor(
                sql.as_ptr(),
                types.len() as c_int,
                types.as_mut_ptr(),
                options as c_int,
            );
            if plan.is_null() {
                check(pg_sys::SPI_result, &sql.to_string_lossy());
            }
            pg_sys::SPI_keepplan(plan);
            Plan(plan)
        }
    }

    /// Runs it for its effect. Throws; inside [`transaction`].
    pub fn execute<const N: usize>(&self, arguments: [Option<pg_sys::Datum>; N]) {
        self.returning(arguments, |_| {});
    }

    /// Runs it and gives `f` each row that it returns. Throws; inside [`transaction`].
    pub fn returning<const N: usize>(
        &self,
        arguments: [Option<pg_sys::Datum>; N],
        mut f: impl FnMut(&Row),
    ) {
        let mut values = arguments.map(|a| a.unwrap_or(pg_sys::Datum::null()));
        let nulls = arguments.map(|a| if a.is_some() { b' ' } else { b'n' } as c_char);
        let result = unsafe {
            pg_sys::SPI_execute_plan(self.0, values.as_mut_ptr(), nulls.as_ptr(), false, 0)
        };
        check(result, "a prepared statement");
        unsafe {
            let table = pg_sys::SPI_tuptable;
            if !table.is_null() {
                for i in 0..pg_sys::SPI_processed as usize {
                    f(&Row {
                        tuple: *(*table).vals.add(i),
                        desc: (*table).tupdesc,
                    });
                }
                pg_sys::SPI_freetuptable(table);
            }
        }
    }
}

/// A text value in the server's memory, from bytes in the database's encoding. Throws (memory).
pub fn text_datum(bytes: &[u8]) -> pg_sys::Datum {
    unsafe {
        pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(
            bytes.as_ptr().cast(),
            bytes.len() as c_int,
        ))
    }
}

/// An array of texts; `None` is a NULL element. Throws (memory).
pub fn text_array_datum(elements: &[Option<pg_sys::Datum>]) -> pg_sys::Datum {
    unsafe {
        if elements.is_empty() {
            return pg_sys::Datum::from(pg_sys::construct_empty_array(pg_sys::TEXTOID));
        }
        let mut values: Vec<_> = elements
            .iter()
            .map(|e| e.unwrap_or(pg_sys::Datum::null()))
            .collect();
        let mut nulls: Vec<_> = elements.iter().map(Option::is_none).collect();
        let (mut dims, mut lower) = ([elements.len() as c_int], [1]);
        pg_sys::Datum::from(pg_sys::construct_md_array(
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            dims.as_mut_ptr(),
            lower.as_mut_ptr(),
            pg_sys::TEXTOID,
            -1,
            false,
            b'i' as c_char,
        ))
    }
}

/// A value read by a type's input function that looks at nothing but its text; `None` where the
/// function refuses it. Doesn't throw.
pub fn parse_datum(
    input: unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
    text: &[u8],
) -> Option<pg_sys::Datum> {
    let text = CString::new(text).ok()?;
    catch(|| unsafe {
        pgrx::direct_function_call::<pg_sys::Datum>(
            input,
            &[Some(pg_sys::Datum::from(text.as_ptr()))],
        )
    })
    .ok()
    .flatten()
}

/// Runs `f` in a transaction without SPI and snapshot: for a process without a database.
pub fn bare_transaction<R>(f: impl FnOnce() -> R) -> Result<R, Failure> {
    let outcome = catch(|| unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        let value = f();
        pg_sys::CommitTransactionCommand();
        value
    });
    if outcome.is_err() {
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    outcome
}
