//! How the settings are defined: names, limits, and what is checked when one is set.

use super::*;
use audit_core::level::VALID_WORDS;
use audit_core::ring::MAX_CAPACITY;
use core::ptr::null;

/// Sets the DETAIL and HINT that the server reports for a refused value. The texts are kept in
/// statics, as the server only reads them until the next check hook runs.
fn explain(detail: &str, hint: &str) {
    static mut DETAIL: [u8; 1024] = [0; 1024];
    static mut HINT: [u8; 1024] = [0; 1024];
    fn keep(into: *mut [u8; 1024], text: &str) -> *mut c_char {
        // SAFETY: `into` is one of the two statics above, used by one thread.
        let into = unsafe { &mut *into };
        let len = text.floor_char_boundary(into.len() - 1);
        into[..len].copy_from_slice(&text.as_bytes()[..len]);
        into[len] = 0;
        into.as_mut_ptr().cast()
    }
    unsafe {
        pg_sys::GUC_check_errdetail_string = keep(&raw mut DETAIL, detail);
        pg_sys::GUC_check_errhint_string = keep(&raw mut HINT, hint);
    }
}

/// Check hook of `audit.level`: parses the list into `extra`. Doesn't throw.
unsafe extern "C-unwind" fn check_level(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let text = unsafe { crate::pg::raw::bytes(*value) };
    match Level::parse(&String::from_utf8_lossy(text)) {
        Ok(level) => unsafe {
            let bits = crate::pg::compat::guc_alloc(size_of::<u32>()).cast::<u32>();
            if bits.is_null() {
                return false;
            }
            bits.write(level.to_bits());
            *extra = bits.cast();
            true
        },
        Err(unknown) => {
            explain(
                &format!("Unknown word \"{}\" in the list.", unknown.word),
                &format!("Valid words are {VALID_WORDS}; a leading \"-\" takes a class away."),
            );
            false
        }
    }
}

unsafe extern "C-unwind" fn assign_level(_value: *const c_char, extra: *mut c_void) {
    assigned_any();
    if !extra.is_null() {
        asks::set_level(unsafe { extra.cast::<u32>().read() });
    }
}

/// Check hook of `audit.context`: exactly what jsonb accepts, and an object. Doesn't throw: an
/// ERROR of the parser is caught and becomes the DETAIL.
unsafe extern "C-unwind" fn check_context(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    const HINT: &str =
        "Set audit.context to a JSON object, for example '{\"user_id\": 42}', or to ''.";
    let text = unsafe { *value };
    if text.is_null() || unsafe { *text } == 0 {
        return true;
    }
    match crate::pg::jsonb::is_object(text) {
        Ok(true) => true,
        Ok(false) => {
            explain("The value is JSON, but not an object.", HINT);
            false
        }
        Err(message) => {
            explain(&format!("{message}."), HINT);
            false
        }
    }
}

/// Check hook of `audit.ring_size`. Doesn't throw.
unsafe extern "C-unwind" fn check_ring_size(
    value: *mut c_int,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let kilobytes = unsafe { *value } as u64;
    if !kilobytes.is_power_of_two() {
        let down = (kilobytes + 1).next_power_of_two() / 2;
        explain(
            &format!("{kilobytes} kB is not a power of two."),
            &format!("Use {down}kB or {}kB.", down * 2),
        );
        return false;
    }
    let memory = memory_kilobytes();
    if memory != 0 && kilobytes > memory {
        explain(
            &format!("{kilobytes} kB is more than this machine's memory of {memory} kB."),
            "The ring is mapped by every backend; 16MB hold about 50,000 events.",
        );
        return false;
    }
    if kilobytes > MAX_CAPACITY / 1024 {
        explain(
            &format!("{kilobytes} kB is more than the 4GB that a ring has at most."),
            "16MB hold about 50,000 events.",
        );
        return false;
    }
    true
}

/// Physical memory, 0 where unknown.
fn memory_kilobytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// A NUL-terminated array that `DefineCustomEnumVariable` keeps a pointer to.
pub struct EnumOptions<const N: usize>(pub [pg_sys::config_enum_entry; N]);
// SAFETY: only ever read.
unsafe impl<const N: usize> Sync for EnumOptions<N> {}

static ON_FULL_OPTIONS: EnumOptions<4> = EnumOptions([
    entry(c"wait", OnFull::Wait as c_int),
    entry(c"drop", OnFull::Drop as c_int),
    entry(c"refuse", OnFull::Refuse as c_int),
    END,
]);

/// What ends such an array.
pub const END: pg_sys::config_enum_entry = pg_sys::config_enum_entry {
    name: null(),
    val: 0,
    hidden: false,
};

pub const fn entry(name: &'static core::ffi::CStr, val: c_int) -> pg_sys::config_enum_entry {
    pg_sys::config_enum_entry {
        name: name.as_ptr(),
        val,
        hidden: false,
    }
}

struct Text {
    name: &'static core::ffi::CStr,
    short: &'static core::ffi::CStr,
    value: *mut *mut c_char,
    boot: &'static core::ffi::CStr,
    context: pg_sys::GucContext::Type,
    check: pg_sys::GucStringCheckHook,
    assign: pg_sys::GucStringAssignHook,
}

pub struct Int {
    pub name: &'static core::ffi::CStr,
    pub short: &'static core::ffi::CStr,
    pub value: *mut c_int,
    pub range: core::ops::RangeInclusive<c_int>,
    pub context: pg_sys::GucContext::Type,
    pub unit: u32,
    pub check: pg_sys::GucIntCheckHook,
}

unsafe fn define_text(t: Text) {
    unsafe {
        crate::pg::raw::DefineCustomStringVariable(
            t.name.as_ptr(),
            t.short.as_ptr(),
            null(),
            t.value,
            t.boot.as_ptr(),
            t.context,
            0,
            t.check,
            t.assign,
            None,
        );
    }
}

pub unsafe fn define_int(i: Int) {
    unsafe {
        crate::pg::raw::DefineCustomIntVariable(
            i.name.as_ptr(),
            i.short.as_ptr(),
            null(),
            i.value,
            *i.value,
            *i.range.start(),
            *i.range.end(),
            i.context,
            i.unit as c_int,
            i.check,
            Some(assigned_int),
            None,
        );
    }
}

unsafe fn define_bool(
    name: &'static core::ffi::CStr,
    short: &'static core::ffi::CStr,
    value: *mut bool,
) {
    unsafe {
        crate::pg::raw::DefineCustomBoolVariable(
            name.as_ptr(),
            short.as_ptr(),
            null(),
            value,
            *value,
            pg_sys::GucContext::PGC_SUSET,
            0,
            None,
            Some(assigned_bool),
            None,
        );
    }
}

/// Defines all settings that have an effect. Throws (FATAL at server start) for a bad value.
///
/// # Safety
/// Called once, from `_PG_init`.
pub unsafe fn define() {
    use pg_sys::GucContext::{PGC_POSTMASTER, PGC_SIGHUP, PGC_SUSET, PGC_USERSET};
    unsafe {
        define_text(Text {
            name: c"audit.level",
            short: c"What is recorded: none, all, read, write, function, role, ddl, misc, set, session, failed; a leading - takes a class away.",
            value: &raw mut LEVEL_TEXT,
            boot: c"all",
            context: PGC_SUSET,
            check: Some(check_level),
            assign: Some(assign_level),
        });
        define_text(Text {
            name: c"audit.role",
            short: c"Object auditing: records what uses a privilege granted to this role, whatever the level.",
            value: &raw mut ROLE,
            boot: c"",
            context: PGC_SUSET,
            check: None,
            assign: Some(assigned_role),
        });
        define_bool(
            c"audit.catalog",
            c"Records reads that touch only pg_catalog or information_schema.",
            &raw mut CATALOG,
        );
        define_bool(
            c"audit.nested",
            c"Records statements run inside functions, triggers and DO blocks.",
            &raw mut NESTED,
        );
        define_bool(
            c"audit.parameters",
            c"Keeps the values of bind parameters.",
            &raw mut PARAMETERS,
        );
        define_int(Int {
            name: c"audit.parameter_max_size",
            short: c"Longer parameter values are cut, and marked.",
            value: &raw mut PARAMETER_MAX_SIZE,
            range: 16..=1024 * 1024,
            context: PGC_SUSET,
            unit: pg_sys::GUC_UNIT_BYTE,
            check: None,
        });
        define_int(Int {
            name: c"audit.statement_max_size",
            short: c"Longer statement text is cut; its full length and SHA-256 are kept.",
            value: &raw mut STATEMENT_MAX_SIZE,
            range: 64..=512 * 1024,
            context: PGC_SUSET,
            unit: pg_sys::GUC_UNIT_BYTE,
            check: None,
        });
        define_text(Text {
            name: c"audit.context",
            short: c"Application context, a JSON object, kept with each event.",
            value: &raw mut CONTEXT,
            boot: c"",
            context: PGC_USERSET,
            check: Some(check_context),
            assign: Some(assigned_context),
        });
        define_text(Text {
            name: c"audit.branch",
            short: c"Label of the branch or environment, kept with each event.",
            value: &raw mut BRANCH,
            boot: c"",
            context: PGC_SIGHUP,
            check: None,
            assign: Some(assigned_branch),
        });
        crate::pg::raw::DefineCustomEnumVariable(
            c"audit.on_full".as_ptr(),
            c"What a statement does that starts while the ring is nearly full.".as_ptr(),
            null(),
            &raw mut ON_FULL,
            OnFull::Wait as c_int,
            ON_FULL_OPTIONS.0.as_ptr(),
            PGC_SUSET,
            0,
            None,
            Some(assigned_int),
            None,
        );
        define_int(Int {
            name: c"audit.full_timeout",
            short:
                c"Longest wait while the ring is nearly full; then records are dropped and counted.",
            value: &raw mut FULL_TIMEOUT,
            range: 0..=c_int::MAX,
            context: PGC_SIGHUP,
            unit: pg_sys::GUC_UNIT_MS,
            check: None,
        });
        crate::pg::durability::define();
        define_int(Int {
            name: c"audit.flush_interval",
            short: c"Longest time that a record waits in the ring.",
            value: &raw mut FLUSH_INTERVAL,
            range: 1..=60_000,
            context: PGC_SIGHUP,
            unit: pg_sys::GUC_UNIT_MS,
            check: None,
        });
        define_int(Int {
            name: c"audit.partition_interval",
            short: c"Time that one partition of the trail covers.",
            value: &raw mut PARTITION_INTERVAL,
            range: 60..=366 * 86_400,
            context: PGC_SIGHUP,
            unit: pg_sys::GUC_UNIT_S,
            check: None,
        });
        crate::pg::limits::define();
        define_text(Text {
            name: c"audit.database",
            short: c"The only database in which CREATE EXTENSION audit_ext may be run; empty: any.",
            value: &raw mut DATABASE,
            boot: c"",
            context: PGC_POSTMASTER,
            check: None,
            assign: Some(assigned_text),
        });
        define_int(Int {
            name: c"audit.ring_size",
            short: c"Size of the ring between backends and worker, a power of two.",
            value: &raw mut RING_SIZE,
            range: 1024..=1024 * 1024 * 1024,
            context: PGC_POSTMASTER,
            unit: pg_sys::GUC_UNIT_KB,
            check: Some(check_ring_size),
        });
        define_text(Text {
            name: c"audit.ring_directory",
            short: c"Directory of the ring's file, relative to the data directory unless absolute.",
            value: &raw mut RING_DIRECTORY,
            boot: c"pg_audit",
            context: PGC_POSTMASTER,
            check: None,
            assign: Some(assigned_text),
        });
        define_text(Text {
            name: c"audit.key_file",
            short: c"File of the key that signs checkpoints, relative to the data directory unless absolute; made when missing.",
            value: &raw mut KEY_FILE,
            boot: c"pg_audit/key",
            context: PGC_POSTMASTER,
            check: None,
            assign: Some(assigned_text),
        });
        define_int(Int {
            name: c"audit.checkpoint_interval",
            short: c"Longest time between two signed checkpoints while events are stored.",
            value: &raw mut CHECKPOINT_INTERVAL,
            range: 1..=7 * 86_400,
            context: PGC_SIGHUP,
            unit: pg_sys::GUC_UNIT_S,
            check: None,
        });
    }
}
