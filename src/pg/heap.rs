//! Many rows into one partition at a time: heap_multi_insert, with its BRIN kept right.
//!
//! The partition has one index, a BRIN with minmax operator classes only; while REINDEX CONCURRENTLY makes
//! it anew two of the same form, and both are told. Such an index keeps, per range of pages, the
//! smallest and largest value of each column, and no tuple identifiers. So it needs to hear of the
//! smallest and largest values of each *range* instead of each row: brininsert() uses of the
//! identifier nothing but the page's number (access/brin/brin.c, 15 to 18). It does so only where the
//! range is summarised, so a range is summarised as soon as it begins, when there are few rows in it
//! to be read.
//!
//! Until 15 the pages go through the same few buffers from batch to batch ([`Bulk`]): the trail does
//! not take the server's cache from its users.
//!
//! Everything throws unless it says otherwise.

use core::ffi::c_int;
use core::mem::offset_of;
use core::ops::Range;
use pgrx::pg_sys;

use super::raw;

/// Rows given to heap_multi_insert at once: some pages, that fit into a core's own cache.
pub const CHUNK: usize = 256;

const BRIN_DEFAULT_PAGES_PER_RANGE: u32 = 128;

/// Attributes of a BRIN that this module can serve.
const MAX_KEYS: usize = 4;

/// Which attributes of a relation the [`Writer`] may rely on.
#[derive(Clone, Copy)]
pub struct Leading {
    /// So many first ones are those of the index, in its order, and compared as i64.
    pub keys: usize,
    /// So many first ones have 8 bytes, passed by value; the next one is a bytea that may be kept short.
    pub fixed: usize,
}

/// A partition being written to within one transaction.
pub struct Writer<'b> {
    relation: pg_sys::Relation,
    indexes: Vec<(pg_sys::Relation, *mut pg_sys::IndexInfo)>,
    bulk: &'b mut Bulk,
    state: pg_sys::BulkInsertState,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    columns: usize,
    /// The first so many columns, by their number: the form of a row that has no others.
    forms: Vec<pg_sys::TupleDesc>,
    /// Of a chunk, row by row.
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    /// For everything that a chunk allocates; a child of the transaction's memory.
    memory: pg_sys::MemoryContext,
    leading: Leading,
    pages_per_range: u32,
    /// What the indexes have not been told of yet.
    untold: Option<Extremes>,
}

/// What heap_multi_insert keeps from call to call: a few buffers that it uses again and again.
pub struct Bulk {
    memory: pg_sys::MemoryContext,
    /// NULL while a [`Writer`] has it, or had it when its transaction failed: the pin in it is gone then.
    state: pg_sys::BulkInsertState,
}

impl Bulk {
    /// Nothing yet; the memory lives as long as the process.
    pub fn new() -> Bulk {
        // SAFETY: throws where there is no memory.
        let memory = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"audit_ext buffers".as_ptr(),
                0,
                8 * 1024,
                64 * 1024,
            )
        };
        Bulk {
            memory,
            state: core::ptr::null_mut(),
        }
    }

    /// At the end of a batch, in its transaction.
    unsafe fn give_back(&mut self, state: pg_sys::BulkInsertState) {
        unsafe {
            // From 16 on it also remembers how much the table was extended by, and extends it by more
            // each time: over many batches it would leave pages empty.
            if cfg!(any(feature = "pg14", feature = "pg15")) {
                pg_sys::ReleaseBulkInsertStatePin(state);
                self.state = state;
            } else {
                pg_sys::FreeBulkInsertState(state);
            }
        }
    }

    unsafe fn take(&mut self) -> pg_sys::BulkInsertState {
        let state = core::mem::replace(&mut self.state, core::ptr::null_mut());
        if !state.is_null() {
            return state;
        }
        unsafe {
            pg_sys::MemoryContextReset(self.memory);
            let old = pg_sys::MemoryContextSwitchTo(self.memory);
            let state = pg_sys::GetBulkInsertState();
            pg_sys::MemoryContextSwitchTo(old);
            state
        }
    }
}

impl<'b> Writer<'b> {
    /// Opens a partition and its BRINs for at most `rows` rows.
    ///
    /// # Safety
    /// In a transaction; the relation's first attributes are as [`Leading`] says.
    pub unsafe fn open(
        table: pg_sys::Oid,
        leading: Leading,
        rows: usize,
        bulk: &'b mut Bulk,
    ) -> Writer<'b> {
        assert!(leading.keys <= MAX_KEYS && leading.keys <= leading.fixed);
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as c_int);
            let indexes: Vec<_> = brins(relation, leading.keys)
                .into_iter()
                .map(|brin| {
                    let index = pg_sys::index_open(brin, pg_sys::RowExclusiveLock as c_int);
                    (index, pg_sys::BuildIndexInfo(index))
                })
                .collect();
            let memory = pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurTransactionContext,
                c"audit_ext rows".as_ptr(),
                0,
                64 * 1024,
                8 * 1024 * 1024,
            );
            // The same for all.
            let pages_per_range = indexes
                .first()
                .map_or(BRIN_DEFAULT_PAGES_PER_RANGE, |(index, _)| {
                    pages_per_range(*index)
                });
            // A copy is not reference counted: the slots need no bookkeeping by resource owner.
            let desc = pg_sys::CreateTupleDescCopy((*relation).rd_att);
            let slots = (0..rows.min(CHUNK))
                .map(|_| pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsHeapTuple))
                .collect();
            let columns = (*desc).natts as usize;
            let cells = rows.min(CHUNK) * columns;
            Writer {
                relation,
                indexes,
                state: bulk.take(),
                bulk,
                slots,
                columns,
                forms: (0..=columns).map(|n| first_columns(desc, n)).collect(),
                values: vec![pg_sys::Datum::null(); cells],
                nulls: vec![false; cells],
                memory,
                leading,
                pages_per_range,
                untold: None,
            }
        }
    }

    /// Inserts `rows` rows, at most [`CHUNK`] and what was announced to `open`. `fill` gets the
    /// number of a row, and its values and null flags to set; it runs in memory that lives until
    /// the rows are inserted.
    ///
    /// # Safety
    /// `fill` sets every attribute to a value of its type.
    pub unsafe fn insert(
        &mut self,
        rows: usize,
        mut fill: impl FnMut(usize, &mut [pg_sys::Datum], &mut [bool]),
    ) {
        let (columns, cells) = (self.columns, rows * self.columns);
        unsafe {
            let old = pg_sys::MemoryContextSwitchTo(self.memory);
            let values = self.values[..cells].chunks_exact_mut(columns);
            let nulls = self.nulls[..cells].chunks_exact_mut(columns);
            for (i, (values, nulls)) in values.zip(nulls).enumerate() {
                fill(i, values, nulls);
            }
            let command = pg_sys::GetCurrentCommandId(true);
            // One guard for all rows; nothing in it has a Drop that an ERROR would pass over.
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                for i in 0..rows {
                    let tuple = self.form(i * columns..(i + 1) * columns);
                    // "true": the slot owns the tuple, so it is not copied once more.
                    raw::ExecStoreHeapTuple(tuple, self.slots[i], true);
                }
                raw::heap_multi_insert(
                    self.relation,
                    self.slots.as_mut_ptr(),
                    rows as c_int,
                    command,
                    // Always at the end: rows of a batch stay together, in the order of seq.
                    pg_sys::HEAP_INSERT_SKIP_FSM as c_int,
                    self.state,
                );
            });
            self.note_extremes(rows);
            for slot in &self.slots[..rows] {
                disown(*slot);
            }
            pg_sys::MemoryContextSwitchTo(old);
            pg_sys::MemoryContextReset(self.memory);
        }
    }

    /// A tuple of these cells. Throws as a plain call of the server does: nothing here has a Drop.
    #[inline]
    unsafe fn form(&mut self, cells: Range<usize>) -> pg_sys::HeapTuple {
        let (values, nulls) = (&mut self.values[cells.clone()], &mut self.nulls[cells]);
        // A row that ends before its table's last column has NULL there: what is NULL at the end is left
        // out, and often the bitmap of NULLs with it (8 bytes).
        let used = nulls
            .iter()
            .rposition(|null| !null)
            .map_or(0, |last| last + 1);
        let fixed = self.leading.fixed;
        // SAFETY: the attributes are as `open` was told, and none of these is NULL.
        unsafe {
            if used == fixed + 1
                && !nulls[..used].contains(&true)
                && let Some(tuple) = plain_row(&values[..fixed], values[fixed])
            {
                return tuple;
            }
            raw::heap_form_tuple(self.forms[used], values.as_mut_ptr(), nulls.as_mut_ptr())
        }
    }

    /// Notes the extremes of each range of pages that the rows went to, and tells the indexes of those
    /// that are complete.
    unsafe fn note_extremes(&mut self, rows: usize) {
        for i in 0..rows {
            let keys = &self.values[i * self.columns..][..self.leading.keys];
            // SAFETY: heap_multi_insert left each row's place in its slot.
            let tid = unsafe { (*self.slots[i]).tts_tid };
            let range = block_of(&tid) / self.pages_per_range;
            match &mut self.untold {
                Some(extremes) if extremes.range == range => {
                    extremes.widen(keys);
                }
                other => {
                    let next = Extremes::new(range, tid, keys);
                    if let Some(complete) = other.replace(next) {
                        unsafe { self.tell_indexes(complete) };
                    }
                    // While there are few rows in it to be read.
                    let page = range * self.pages_per_range;
                    for (index, _) in &self.indexes {
                        unsafe { summarise((*self.relation).rd_id, (**index).rd_id, page) };
                    }
                }
            }
        }
    }

    unsafe fn tell_indexes(&self, mut extremes: Extremes) {
        let mut nulls = [false; MAX_KEYS];
        let both = [extremes.min, extremes.max];
        for (index, info) in &self.indexes {
            for mut values in both {
                unsafe {
                    pg_sys::index_insert(
                        *index,
                        values.as_mut_ptr(),
                        nulls.as_mut_ptr(),
                        &mut extremes.tid,
                        self.relation,
                        pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                        false,
                        *info,
                    );
                }
            }
        }
    }

    /// Ends the writing; locks stay until the transaction's end.
    ///
    /// # Safety
    /// In the transaction of `open`.
    pub unsafe fn close(mut self) {
        unsafe {
            if let Some(last) = self.untold.take() {
                self.tell_indexes(last);
            }
            self.bulk.give_back(self.state);
            for (index, _info) in &self.indexes {
                #[cfg(any(feature = "pg17", feature = "pg18"))]
                pg_sys::index_insert_cleanup(*index, *_info);
                pg_sys::index_close(*index, pg_sys::NoLock as c_int);
            }
            pg_sys::table_close(self.relation, pg_sys::NoLock as c_int);
            pg_sys::MemoryContextDelete(self.memory);
        }
    }
}

/// The form of a row that has only the first `count` columns. Throws.
unsafe fn first_columns(all: pg_sys::TupleDesc, count: usize) -> pg_sys::TupleDesc {
    unsafe {
        let form = pg_sys::CreateTemplateTupleDesc(count as c_int);
        for number in 1..=count as pg_sys::AttrNumber {
            pg_sys::TupleDescCopyEntry(form, number, all, number);
        }
        form
    }
}

/// What heap_form_tuple() makes of 8-byte values and a short bytea behind them, none of them NULL: most
/// rows are that. A third of its time. (The layout: access/htup_details.h, 14 to 18.) `None`: the bytea is
/// not short. Throws.
#[inline]
unsafe fn plain_row(fixed: &[pg_sys::Datum], last: pg_sys::Datum) -> Option<pg_sys::HeapTuple> {
    const WORD: usize = size_of::<u64>();
    /// Where the values begin: what is before them, padded to the alignment of the first.
    const HOFF: usize = offset_of!(pg_sys::HeapTupleHeaderData, t_bits).next_multiple_of(WORD);
    /// The header is behind what the server knows of a tuple in memory.
    const HEADER: usize = size_of::<pg_sys::HeapTupleData>().next_multiple_of(WORD);
    // SAFETY: a bytea that is not compressed nor in the TOAST table; so much memory was got; palloc aligns to 8.
    unsafe {
        let last: *const pg_sys::varlena = last.cast_mut_ptr();
        if !pgrx::varlena::varatt_is_1b(last) {
            return None;
        }
        let (values, size) = (fixed.len() * WORD, pgrx::varlena::varsize_1b(last));
        let len = HOFF + values + size;
        let memory = raw::palloc(HEADER + len).cast::<u8>();
        memory.write_bytes(0, HEADER + HOFF);
        let header = memory.add(HEADER).cast::<pg_sys::HeapTupleHeaderData>();
        (*header).t_infomask2 = fixed.len() as u16 + 1;
        (*header).t_infomask = pg_sys::HEAP_HASVARWIDTH as u16;
        (*header).t_hoff = HOFF as u8;
        let to = memory.add(HEADER + HOFF);
        to.copy_from_nonoverlapping(fixed.as_ptr().cast(), values);
        to.add(values).copy_from_nonoverlapping(last.cast(), size);
        let tuple: pg_sys::HeapTuple = memory.cast();
        (*tuple).t_len = len as u32;
        (*tuple).t_self.ip_blkid.bi_hi = u16::MAX; // It is nowhere yet.
        (*tuple).t_self.ip_blkid.bi_lo = u16::MAX;
        (*tuple).t_data = header;
        Some(tuple)
    }
}

/// Smallest and largest values of what was inserted into one range of pages.
struct Extremes {
    range: u32,
    /// Of one of the rows.
    tid: pg_sys::ItemPointerData,
    min: [pg_sys::Datum; MAX_KEYS],
    max: [pg_sys::Datum; MAX_KEYS],
}

impl Extremes {
    fn new(range: u32, tid: pg_sys::ItemPointerData, keys: &[pg_sys::Datum]) -> Extremes {
        let mut all = [pg_sys::Datum::null(); MAX_KEYS];
        all[..keys.len()].copy_from_slice(keys);
        Extremes {
            range,
            tid,
            min: all,
            max: all,
        }
    }

    fn widen(&mut self, values: &[pg_sys::Datum]) {
        for (i, value) in values.iter().enumerate() {
            if (value.value() as i64) < self.min[i].value() as i64 {
                self.min[i] = *value;
            }
            if value.value() as i64 > self.max[i].value() as i64 {
                self.max[i] = *value;
            }
        }
    }
}

/// The BRINs of a partition on its first `keys` attributes that are told of rows, as the server would: also one
/// that REINDEX CONCURRENTLY has built and not put in the other's place yet. Throws.
pub unsafe fn brins(table: pg_sys::Relation, keys: usize) -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    unsafe {
        let indexes = pg_sys::RelationGetIndexList(table);
        for oid in pgrx::PgList::<pg_sys::Oid>::from_pg(indexes).iter_oid() {
            let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as c_int);
            let info = pg_sys::BuildIndexInfo(index);
            let numbers = &(*info).ii_IndexAttrNumbers;
            if (*(*index).rd_rel).relam == pg_sys::BRIN_AM_OID
                && (*info).ii_ReadyForInserts
                && (*info).ii_NumIndexAttrs as usize == keys
                && (1..)
                    .zip(&numbers[..keys])
                    .all(|(own, number)| own == *number)
            {
                found.push(oid);
            }
            pg_sys::index_close(index, pg_sys::AccessShareLock as c_int);
        }
    }
    found
}

/// BrinGetPagesPerRange (access/brin.h, 14 to 18): struct BrinOptions begins with its length, then this.
unsafe fn pages_per_range(index: pg_sys::Relation) -> u32 {
    // SAFETY: NULL, or the options of a BRIN.
    unsafe {
        let options = (*index).rd_options.cast::<u32>();
        if options.is_null() {
            BRIN_DEFAULT_PAGES_PER_RANGE
        } else {
            (*options.add(1)).max(1)
        }
    }
}

/// Summarises the range of pages that begins with `page`, however far it is filled, unless it is or
/// somebody else is at the table (ANALYZE, say): then it stays without, for VACUUM or the next who
/// asks. The locks are held no longer than that takes. `false` if it stayed without. Throws.
pub unsafe fn summarise(table: pg_sys::Oid, brin: pg_sys::Oid, page: u32) -> bool {
    let lock = pg_sys::ShareUpdateExclusiveLock as c_int;
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(table, lock) {
            return false;
        }
        let free = pg_sys::ConditionalLockRelationOid(brin, lock);
        if free {
            pgrx::direct_function_call_as_datum(
                pg_sys::brin_summarize_range,
                &[
                    Some(pg_sys::Datum::from(brin)),
                    Some(pg_sys::Datum::from(i64::from(page))),
                ],
            );
            pg_sys::UnlockRelationOid(brin, lock);
        }
        pg_sys::UnlockRelationOid(table, lock);
        free
    }
}

fn block_of(tid: &pg_sys::ItemPointerData) -> u32 {
    u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo)
}

/// Makes a slot forget its tuple without freeing it: the whole chunk's memory is reset at once.
unsafe fn disown(slot: *mut pg_sys::TupleTableSlot) {
    unsafe {
        (*slot).tts_nvalid = 0;
        (*slot).tts_flags &= !(pg_sys::TTS_FLAG_SHOULDFREE as u16);
    }
}
