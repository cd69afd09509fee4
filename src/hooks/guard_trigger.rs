//! The trigger function of the trail's tables: logical replication (apply and table synchronisation)
//! writes without calling a hook of the executor. The triggers are ENABLE ALWAYS, so that
//! session_replication_role doesn't pass them. The worker's rows of events go by no trigger.

use pgrx::pg_sys;

use super::guard;
use crate::pg::shared::shared;
use crate::pg::{guarded, raw, report, unlock};

/// What `CREATE FUNCTION … LANGUAGE c` looks for beside the function (fmgr.h).
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_audit_guard_trigger() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// Lets the row pass for whoever may write the trail, and refuses it for everybody else. Throws.
///
/// # Safety
/// Called by the server as a trigger; a plain frame.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn audit_guard_trigger(
    call: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    unsafe {
        let context = (*call).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            report::not_a_trigger();
            return pg_sys::Datum::null();
        }
        let trigger = context.cast::<pg_sys::TriggerData>();
        let event = (*trigger).tg_event;
        let operation = event & pg_sys::TRIGGER_EVENT_OPMASK;
        let relid = (*(*trigger).tg_relation).rd_id;
        if shared().is_none() {
            // Not preloaded: nobody records, so nobody writes.
            report::guarded(
                c"change".as_ptr(),
                raw::get_rel_name(relid),
                report::Way::Preload,
            );
        }
        if !unlock::is_exempt() && guard::active() && guarded::has_relation(relid) {
            let command = match operation {
                pg_sys::TRIGGER_EVENT_INSERT => c"INSERT",
                pg_sys::TRIGGER_EVENT_DELETE => c"DELETE",
                pg_sys::TRIGGER_EVENT_UPDATE => c"UPDATE",
                _ => c"TRUNCATE",
            };
            guard::refuse(command, pg_sys::RelationRelationId, relid);
        }
        if event & pg_sys::TRIGGER_EVENT_ROW == 0 {
            pg_sys::Datum::null()
        } else if operation == pg_sys::TRIGGER_EVENT_UPDATE {
            pg_sys::Datum::from((*trigger).tg_newtuple)
        } else {
            pg_sys::Datum::from((*trigger).tg_trigtuple)
        }
    }
}
