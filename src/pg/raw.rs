//! The server's functions as they are: called without pgrx's guard.
//!
//! pgrx wraps each imported function so that an ERROR becomes a Rust panic, which a hook would then
//! have to turn back into an ERROR and would lose fields of it (research/pgrx.md, section 0). Hooks
//! therefore are plain frames that an ERROR may cross, and use these imports. Functions are grouped
//! by whether they can throw.

use core::ffi::{c_char, c_int, c_void};
use pgrx::pg_sys;

// Never throw, as those below of which it is said.
pub use super::near::{
    GetCurrentStatementStartTimestamp, GetCurrentTimestamp, GetSessionUserId,
    GetTopFullTransactionIdIfAny, GetUserId,
};

/// What holds a name, its NUL included.
pub const NAMEDATALEN: usize = pg_sys::NAMEDATALEN as usize;

/// From 17 on it says whether it was signalled.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
pub type CancelSleep = ();
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
pub type CancelSleep = bool;

unsafe extern "C-unwind" {
    // --- throw: the statement itself runs in them -------------------------------------------
    pub fn standard_ExecutorStart(query_desc: *mut pg_sys::QueryDesc, eflags: c_int);
    #[cfg(not(feature = "pg18"))]
    pub fn standard_ExecutorRun(
        query_desc: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        execute_once: bool,
    );
    #[cfg(feature = "pg18")]
    pub fn standard_ExecutorRun(
        query_desc: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    );
    pub fn standard_planner(
        query: *mut pg_sys::Query,
        source: *const c_char,
        cursor_options: c_int,
        params: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    pub fn standard_ExecutorFinish(query_desc: *mut pg_sys::QueryDesc);
    pub fn standard_ExecutorEnd(query_desc: *mut pg_sys::QueryDesc);
    pub fn standard_ProcessUtility(
        pstmt: *mut pg_sys::PlannedStmt,
        query_string: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        query_env: *mut pg_sys::QueryEnvironment,
        dest: *mut pg_sys::DestReceiver,
        qc: *mut pg_sys::QueryCompletion,
    );

    // --- throw, at server start alone: of pgrx's imports the first would have each child of the postmaster
    // run a handler at its fork ------------------------------------------------------------------
    pub fn DefineCustomStringVariable(
        name: *const c_char,
        short: *const c_char,
        long: *const c_char,
        value: *mut *mut c_char,
        boot: *const c_char,
        context: pg_sys::GucContext::Type,
        flags: c_int,
        check: pg_sys::GucStringCheckHook,
        assign: pg_sys::GucStringAssignHook,
        show: pg_sys::GucShowHook,
    );
    pub fn DefineCustomIntVariable(
        name: *const c_char,
        short: *const c_char,
        long: *const c_char,
        value: *mut c_int,
        boot: c_int,
        least: c_int,
        most: c_int,
        context: pg_sys::GucContext::Type,
        flags: c_int,
        check: pg_sys::GucIntCheckHook,
        assign: pg_sys::GucIntAssignHook,
        show: pg_sys::GucShowHook,
    );
    pub fn DefineCustomBoolVariable(
        name: *const c_char,
        short: *const c_char,
        long: *const c_char,
        value: *mut bool,
        boot: bool,
        context: pg_sys::GucContext::Type,
        flags: c_int,
        check: pg_sys::GucBoolCheckHook,
        assign: pg_sys::GucBoolAssignHook,
        show: pg_sys::GucShowHook,
    );
    pub fn DefineCustomEnumVariable(
        name: *const c_char,
        short: *const c_char,
        long: *const c_char,
        value: *mut c_int,
        boot: c_int,
        options: *const pg_sys::config_enum_entry,
        context: pg_sys::GucContext::Type,
        flags: c_int,
        check: pg_sys::GucEnumCheckHook,
        assign: pg_sys::GucEnumAssignHook,
        show: pg_sys::GucShowHook,
    );
    pub fn CacheRegisterSyscacheCallback(
        cache: c_int,
        function: pg_sys::SyscacheCallbackFunction,
        arg: pg_sys::Datum,
    );
    pub fn RegisterXactCallback(callback: pg_sys::XactCallback, arg: *mut c_void);
    pub fn RegisterSubXactCallback(callback: pg_sys::SubXactCallback, arg: *mut c_void);
    pub fn RegisterBackgroundWorker(worker: *mut pg_sys::BackgroundWorker);

    // --- throw: catalog look-ups, allocation -------------------------------------------------
    pub fn get_func_rettype(function: pg_sys::Oid) -> pg_sys::Oid;
    pub fn get_rel_name(relid: pg_sys::Oid) -> *mut c_char;
    pub fn get_rel_namespace(relid: pg_sys::Oid) -> pg_sys::Oid;
    pub fn get_typ_typrelid(type_: pg_sys::Oid) -> pg_sys::Oid;
    pub fn get_rel_relkind(relid: pg_sys::Oid) -> c_char;
    pub fn get_rel_relispartition(relid: pg_sys::Oid) -> bool;
    pub fn get_namespace_name(nspid: pg_sys::Oid) -> *mut c_char;
    pub fn get_namespace_oid(name: *const c_char, missing_ok: bool) -> pg_sys::Oid;
    pub fn get_relname_relid(name: *const c_char, nspid: pg_sys::Oid) -> pg_sys::Oid;
    pub fn RelnameGetRelid(name: *const c_char) -> pg_sys::Oid;
    pub fn fetch_search_path_array(path: *mut pg_sys::Oid, len: c_int) -> c_int;
    pub fn get_array_type(element: pg_sys::Oid) -> pg_sys::Oid;
    pub fn get_func_namespace(function: pg_sys::Oid) -> pg_sys::Oid;
    pub fn format_type_be_qualified(type_: pg_sys::Oid) -> *mut c_char;
    pub fn format_type_extended(type_: pg_sys::Oid, modifier: i32, flags: u16) -> *mut c_char;
    pub fn op_input_types(operator: pg_sys::Oid, left: *mut pg_sys::Oid, right: *mut pg_sys::Oid);
    pub fn table_open(relid: pg_sys::Oid, lock: c_int) -> pg_sys::Relation;
    pub fn table_close(relation: pg_sys::Relation, lock: c_int);
    pub fn get_catalog_object_by_oid(
        catalog: pg_sys::Relation,
        oid_column: pg_sys::AttrNumber,
        object: pg_sys::Oid,
    ) -> pg_sys::HeapTuple;
    pub fn TypeNameToString(name: *const pg_sys::TypeName) -> *mut c_char;
    pub fn FuncnameGetCandidates(
        names: *mut pg_sys::List,
        arguments: c_int,
        argument_names: *mut pg_sys::List,
        expand_variadic: bool,
        expand_defaults: bool,
        include_out_arguments: bool,
        missing_ok: bool,
    ) -> pg_sys::FuncCandidateList;
    pub fn buildoidvector(oids: *const pg_sys::Oid, count: c_int) -> *mut pg_sys::oidvector;
    pub fn GetSysCacheOid(
        cache: c_int,
        oid_column: pg_sys::AttrNumber,
        key1: pg_sys::Datum,
        key2: pg_sys::Datum,
        key3: pg_sys::Datum,
        key4: pg_sys::Datum,
    ) -> pg_sys::Oid;
    pub fn SearchSysCacheExists(
        cache: c_int,
        key1: pg_sys::Datum,
        key2: pg_sys::Datum,
        key3: pg_sys::Datum,
        key4: pg_sys::Datum,
    ) -> bool;
    pub fn IndexGetRelation(index: pg_sys::Oid, missing_ok: bool) -> pg_sys::Oid;
    pub fn getObjectIdentity(
        address: *const pg_sys::ObjectAddress,
        missing_ok: bool,
    ) -> *mut c_char;
    pub fn getObjectTypeDescription(
        address: *const pg_sys::ObjectAddress,
        missing_ok: bool,
    ) -> *mut c_char;
    pub fn pgstat_fetch_stat_numbackends() -> c_int;
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    pub fn pgstat_fetch_stat_local_beentry(number: c_int) -> *mut pg_sys::LocalPgBackendStatus;
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    pub fn pgstat_get_local_beentry_by_index(number: c_int) -> *mut pg_sys::LocalPgBackendStatus;
    pub fn get_database_name(dbid: pg_sys::Oid) -> *mut c_char;
    pub fn get_extension_oid(name: *const c_char, missing_ok: bool) -> pg_sys::Oid;
    pub fn CacheRegisterRelcacheCallback(
        function: pg_sys::RelcacheCallbackFunction,
        arg: pg_sys::Datum,
    );
    pub fn systable_beginscan(
        relation: pg_sys::Relation,
        index: pg_sys::Oid,
        index_ok: bool,
        snapshot: pg_sys::Snapshot,
        keys: c_int,
        key: pg_sys::ScanKey,
    ) -> pg_sys::SysScanDesc;
    pub fn systable_getnext(scan: pg_sys::SysScanDesc) -> pg_sys::HeapTuple;
    pub fn systable_endscan(scan: pg_sys::SysScanDesc);
    pub fn ScanKeyInit(
        entry: pg_sys::ScanKey,
        attribute: pg_sys::AttrNumber,
        strategy: pg_sys::StrategyNumber,
        procedure: pg_sys::RegProcedure,
        argument: pg_sys::Datum,
    );
    pub fn nocachegetattr(
        tuple: pg_sys::HeapTuple,
        attribute: c_int,
        desc: pg_sys::TupleDesc,
    ) -> pg_sys::Datum;
    pub fn get_object_oid_index(class: pg_sys::Oid) -> pg_sys::Oid;
    pub fn get_object_attnum_oid(class: pg_sys::Oid) -> pg_sys::AttrNumber;
    pub fn get_object_attnum_namespace(class: pg_sys::Oid) -> pg_sys::AttrNumber;
    pub fn getObjectDescription(
        object: *const pg_sys::ObjectAddress,
        missing_ok: bool,
    ) -> *mut c_char;
    pub fn get_object_address(
        kind: pg_sys::ObjectType::Type,
        object: *mut pg_sys::Node,
        relation: *mut pg_sys::Relation,
        lockmode: pg_sys::LOCKMODE,
        missing_ok: bool,
    ) -> pg_sys::ObjectAddress;
    pub fn relation_close(relation: pg_sys::Relation, lockmode: pg_sys::LOCKMODE);
    pub fn LookupFuncWithArgs(
        kind: pg_sys::ObjectType::Type,
        function: *mut pg_sys::ObjectWithArgs,
        missing_ok: bool,
    ) -> pg_sys::Oid;
    pub fn get_rolespec_oid(role: *const pg_sys::RoleSpec, missing_ok: bool) -> pg_sys::Oid;
    pub fn is_member_of_role_nosuper(member: pg_sys::Oid, role: pg_sys::Oid) -> bool;
    pub fn is_admin_of_role(member: pg_sys::Oid, role: pg_sys::Oid) -> bool;
    pub fn superuser_arg(role: pg_sys::Oid) -> bool;
    pub fn defGetBoolean(option: *mut pg_sys::DefElem) -> bool;
    pub fn GetUserNameFromId(roleid: pg_sys::Oid, noerr: bool) -> *mut c_char;
    pub fn getExtensionOfObject(class: pg_sys::Oid, object: pg_sys::Oid) -> pg_sys::Oid;
    pub fn SetConfigOption(
        name: *const c_char,
        value: *const c_char,
        context: pg_sys::GucContext::Type,
        source: pg_sys::GucSource::Type,
    );
    pub fn palloc(size: usize) -> *mut c_void;
    pub fn heap_form_tuple(
        desc: pg_sys::TupleDesc,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    ) -> pg_sys::HeapTuple;
    pub fn ExecStoreHeapTuple(
        tuple: pg_sys::HeapTuple,
        slot: *mut pg_sys::TupleTableSlot,
        free: bool,
    ) -> *mut pg_sys::TupleTableSlot;
    pub fn heap_multi_insert(
        relation: pg_sys::Relation,
        slots: *mut *mut pg_sys::TupleTableSlot,
        count: c_int,
        command: pg_sys::CommandId,
        options: c_int,
        bulk: pg_sys::BulkInsertState,
    );
    pub fn get_subscription_name(subscription: pg_sys::Oid, missing_ok: bool) -> *mut c_char;
    pub fn get_func_prokind(function: pg_sys::Oid) -> c_char;
    pub fn format_procedure_qualified(function: pg_sys::Oid) -> *mut c_char;
    pub fn fetch_search_path(include_implicit: bool) -> *mut pg_sys::List;
    pub fn getTypeOutputInfo(type_: pg_sys::Oid, output: *mut pg_sys::Oid, varlena: *mut bool);
    pub fn get_typtype(kind: pg_sys::Oid) -> c_char;
    pub fn toast_raw_datum_size(value: pg_sys::Datum) -> usize;
    pub fn OidOutputFunctionCall(function: pg_sys::Oid, value: pg_sys::Datum) -> *mut c_char;
    pub fn get_role_oid(name: *const c_char, missing_ok: bool) -> pg_sys::Oid;
    pub fn has_privs_of_role(member: pg_sys::Oid, role: pg_sys::Oid) -> bool;
    pub fn SearchSysCache1(cache: c_int, key: pg_sys::Datum) -> pg_sys::HeapTuple;
    pub fn SearchSysCache2(
        cache: c_int,
        key1: pg_sys::Datum,
        key2: pg_sys::Datum,
    ) -> pg_sys::HeapTuple;
    pub fn SysCacheGetAttr(
        cache: c_int,
        tuple: pg_sys::HeapTuple,
        attribute: pg_sys::AttrNumber,
        is_null: *mut bool,
    ) -> pg_sys::Datum;
    pub fn pg_detoast_datum(datum: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
    pub fn FetchPreparedStatement(
        name: *const c_char,
        throw_error: bool,
    ) -> *mut pg_sys::PreparedStatement;
    pub fn get_attnum(relid: pg_sys::Oid, name: *const c_char) -> pg_sys::AttrNumber;
    pub fn GetConfigOptionFlags(name: *const c_char, missing_ok: bool) -> c_int;
    pub fn GetConfigOptionByName(
        name: *const c_char,
        full_name: *mut *const c_char,
        missing_ok: bool,
    ) -> *mut c_char;
    pub fn quote_identifier(ident: *const c_char) -> *const c_char;
    pub fn quote_qualified_identifier(
        qualifier: *const c_char,
        ident: *const c_char,
    ) -> *mut c_char;
    pub fn pfree(pointer: *mut c_void);
    pub fn CreateCommandTag(parsetree: *mut pg_sys::Node) -> pg_sys::CommandTag::Type;
    pub fn CopyErrorData() -> *mut pg_sys::ErrorData;
    pub fn AllocSetContextCreateInternal(
        parent: pg_sys::MemoryContext,
        name: *const c_char,
        min_context_size: usize,
        init_block_size: usize,
        max_block_size: usize,
    ) -> pg_sys::MemoryContext;
    pub fn MemoryContextAlloc(context: pg_sys::MemoryContext, size: usize) -> *mut c_void;
    pub fn ShmemInitStruct(name: *const c_char, size: usize, found: *mut bool) -> *mut c_void;
    pub fn RequestAddinShmemSpace(size: usize);
    pub fn ProcessInterrupts();
    pub fn ConditionVariablePrepareToSleep(cv: *mut pg_sys::ConditionVariable);
    /// Times in milliseconds; `true`: the time was over.
    pub fn ConditionVariableTimedSleep(
        cv: *mut pg_sys::ConditionVariable,
        timeout: core::ffi::c_long,
        wait_event: u32,
    ) -> bool;
    pub fn pg_usleep(microseconds: core::ffi::c_long);
    #[cfg(not(feature = "pg14"))]
    #[cfg(not(feature = "pg15"))]
    pub fn GetSystemUser() -> *const c_char;

    // --- never throw --------------------------------------------------------------------------
    pub fn RecoveryInProgress() -> bool;
    pub fn pg_strong_random(buffer: *mut c_void, len: usize) -> bool;
    pub fn IsSharedRelation(relid: pg_sys::Oid) -> bool;
    pub fn is_objectclass_supported(class: pg_sys::Oid) -> bool;
    pub fn TransactionIdIsCurrentTransactionId(xid: pg_sys::TransactionId) -> bool;
    pub fn pg_fdatasync(fd: c_int) -> c_int;
    /// libc's. (rustix makes the system call itself, where no test can stand in for the disk.)
    pub fn msync(address: *mut c_void, len: usize, flags: c_int) -> c_int;
    pub fn getpagesize() -> c_int;
    pub fn SetLatch(latch: *mut pg_sys::Latch);
    pub fn ConditionVariableInit(cv: *mut pg_sys::ConditionVariable);
    pub fn ConditionVariableCancelSleep() -> CancelSleep;
    pub fn ConditionVariableBroadcast(cv: *mut pg_sys::ConditionVariable);
    pub fn ConditionVariableSignal(cv: *mut pg_sys::ConditionVariable);
    pub fn GetCurrentTransactionStartTimestamp() -> pg_sys::TimestampTz;
    pub fn ActiveSnapshotSet() -> bool;
    pub fn GetAuthenticatedUserId() -> pg_sys::Oid;
    pub fn ReadNextFullTransactionId() -> pg_sys::FullTransactionId;
    pub fn InNoForceRLSOperation() -> bool;
    pub fn IsTransactionState() -> bool;
    pub fn IsAbortedTransactionBlockState() -> bool;
    pub fn IsSubTransaction() -> bool;
    pub fn IsTransactionBlock() -> bool;
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    pub fn pg_database_ownercheck(database: pg_sys::Oid, role: pg_sys::Oid) -> bool;
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    pub fn object_ownercheck(class: pg_sys::Oid, object: pg_sys::Oid, role: pg_sys::Oid) -> bool;
    pub fn GetCommandTagName(tag: pg_sys::CommandTag::Type) -> *const c_char;
    pub fn pg_mbcliplen(text: *const c_char, len: c_int, limit: c_int) -> c_int;
    pub fn ReleaseSysCache(tuple: pg_sys::HeapTuple);
    pub fn bms_next_member(set: *const pg_sys::Bitmapset, previous: c_int) -> c_int;
    pub fn GetTempNamespaceState(temporary: *mut pg_sys::Oid, toast: *mut pg_sys::Oid);
    pub fn hba_authname(auth_method: c_int) -> *const c_char;
    pub fn command_tag_display_rowcount(tag: pg_sys::CommandTag::Type) -> bool;
    pub fn GetDatabaseEncoding() -> c_int;
    pub fn pg_database_encoding_max_length() -> c_int;
    pub fn GetBackendTypeDesc(backend_type: pg_sys::BackendType::Type) -> *const c_char;
    pub fn GetConfigOption(
        name: *const c_char,
        missing_ok: bool,
        restrict_privileged: bool,
    ) -> *const c_char;
    /// For a name that is known.
    pub fn GetConfigOptionResetString(name: *const c_char) -> *const c_char;
    /// The SQLSTATE of the error being reported; only inside an error context callback.
    pub fn geterrcode() -> c_int;
    pub fn MemoryContextReset(context: pg_sys::MemoryContext);
    pub fn MemoryContextRegisterResetCallback(
        context: pg_sys::MemoryContext,
        callback: *mut pg_sys::MemoryContextCallback,
    );
    pub fn on_proc_exit(function: pg_sys::pg_on_exit_callback, arg: pg_sys::Datum);
    pub fn on_shmem_exit(function: pg_sys::pg_on_exit_callback, arg: pg_sys::Datum);
}

/// A C string's bytes; empty for NULL. Never throws.
///
/// # Safety
/// `s` is NULL or NUL-terminated and outlives the result's use.
pub unsafe fn bytes<'a>(s: *const c_char) -> &'a [u8] {
    if s.is_null() {
        return &[];
    }
    unsafe { core::ffi::CStr::from_ptr(s) }.to_bytes()
}

/// Whether a C string has these bytes; NULL has none. (For a few bytes, without libc's functions.) Never throws.
///
/// # Safety
/// `s` is NULL or NUL-terminated.
#[inline]
pub unsafe fn are(s: *const c_char, bytes: &[u8]) -> bool {
    if s.is_null() {
        return bytes.is_empty();
    }
    // SAFETY: all bytes before are those of `bytes`, none of which is NUL, or the loop has ended.
    let at = |i: usize| unsafe { *s.add(i) as u8 };
    bytes
        .iter()
        .enumerate()
        .all(|(i, byte)| *byte != 0 && at(i) == *byte)
        && at(bytes.len()) == 0
}

/// An OID column of a catalog row, which is never NULL. Never throws.
///
/// # Safety
/// `tuple` is a row of the catalog that `desc` describes.
pub unsafe fn oid_column(
    tuple: pg_sys::HeapTuple,
    column: c_int,
    desc: pg_sys::TupleDesc,
) -> pg_sys::Oid {
    pg_sys::Oid::from_u32(unsafe { nocachegetattr(tuple, column, desc) }.value() as u32)
}

/// A key "column = oid" of a catalog scan. Throws (look-up of the operator).
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn oid_key(key: &mut pg_sys::ScanKeyData, column: i16, oid: pg_sys::Oid) {
    unsafe {
        ScanKeyInit(
            key,
            column,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::Oid::from_u32(pg_sys::F_OIDEQ),
            pg_sys::Datum::from(oid),
        );
    }
}
