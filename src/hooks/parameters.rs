//! Values of bind parameters as text (`audit.parameters`).
//!
//! Turning a value into text runs its type's output function, which throws: it happens before the
//! statement has a frame, into a buffer that outlives a throw.

use audit_core::codec::put_parameter;
use audit_core::json::Object;
use audit_core::sql::redact::value_without_secrets;
use pgrx::pg_sys;

use super::frame::Frame;
use crate::pg::{guc, raw};

#[derive(Default)]
struct Collected {
    values: Vec<u8>,
    /// Number of the parameter and its full length, of those that were cut.
    cut: Vec<(usize, usize)>,
}

/// A value with more bytes, as the server keeps it, is not written as text: that may take more than it can.
const MOST: usize = 64 * 1024 * 1024;
/// So much behind what is kept of a value is looked at for secrets.
const NEAR: usize = 4096;
/// Buffers hold on to no more.
const KEPT: usize = 64 * 1024;

static mut COLLECTED: Option<Collected> = None;
/// Something was collected, perhaps nothing but an empty list.
static mut ANY: bool = false;

fn collected() -> &'static mut Collected {
    // SAFETY: one thread; no reference outlives a function of this file.
    unsafe { (*(&raw mut COLLECTED)).get_or_insert_default() }
}

/// Collects the values of a statement that is about to begin. Throws.
///
/// # Safety
/// `params` is NULL or a valid list; in a transaction that is not aborted.
#[inline]
pub unsafe fn collect(params: pg_sys::ParamListInfo) {
    if guc::parameters() {
        unsafe { collect_values(params) };
    } else {
        unsafe { ANY = false }; // What was collected for a statement that was then not recorded.
    }
}

unsafe fn collect_values(params: pg_sys::ParamListInfo) {
    unsafe { ANY = true };
    let into = collected();
    into.values.clear();
    into.cut.clear();
    unsafe {
        if params.is_null() {
            return;
        }
        for i in 0..(*params).numParams as usize {
            let mut room: pg_sys::ParamExternData = core::mem::zeroed();
            let param: *const pg_sys::ParamExternData = match (*params).paramFetch {
                // Speculatively: of a variable's field that can't be read yet there is no error, but no type.
                Some(fetch) => fetch(params, i as i32 + 1, true, &mut room),
                None => (*params).params.as_ptr().add(i),
            };
            // A variable of a function that the statement doesn't use.
            if param.is_null() || (*param).ptype == pg_sys::InvalidOid {
                continue;
            }
            if (*param).isnull {
                put_parameter(&mut collected().values, None);
                continue;
            }
            if !has_text((*param).ptype) {
                put_parameter(&mut collected().values, Some(b""));
                continue;
            }
            let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
            raw::getTypeOutputInfo((*param).ptype, &mut output, &mut varlena);
            let size = match varlena {
                true => raw::toast_raw_datum_size((*param).value),
                false => 0,
            };
            if size > MOST {
                collected().cut.push((i + 1, size));
                put_parameter(&mut collected().values, Some(b""));
                continue;
            }
            let text = raw::OidOutputFunctionCall(output, (*param).value);
            // From here on nothing throws.
            keep(i + 1, raw::bytes(text));
            raw::pfree(text.cast());
        }
    }
}

/// Whether the type's values can be written as text: those of most pseudo-types can't. Throws.
unsafe fn has_text(kind: pg_sys::Oid) -> bool {
    const PSEUDO: core::ffi::c_char = b'p' as core::ffi::c_char;
    kind == pg_sys::RECORDOID || unsafe { raw::get_typtype(kind) } != PSEUDO
}

fn keep(number: usize, text: &[u8]) {
    let into = collected();
    let most = guc::parameter_max_size();
    // A secret that begins in what is kept may end behind it.
    let near = &text[..text.len().min(most.saturating_add(NEAR))];
    let shown = value_without_secrets(near);
    let mut len = shown.len();
    if len > most {
        // SAFETY: reads `len` bytes of the text at most; doesn't throw.
        len = unsafe { raw::pg_mbcliplen(shown.as_ptr().cast(), len as i32, most as i32) } as usize;
    }
    if len < shown.len() || near.len() < text.len() {
        into.cut.push((number, text.len()));
    }
    put_parameter(&mut into.values, Some(&shown[..len]));
}

/// Gives the collected values to the statement that has begun. Never throws.
#[inline]
pub fn hand_over(frame: &mut Frame) {
    // SAFETY: one thread.
    if unsafe { core::mem::take(&mut *(&raw mut ANY)) } {
        hand_over_values(frame);
    }
}

fn hand_over_values(frame: &mut Frame) {
    let from = collected();
    frame.state.with_parameters = true;
    frame.parameters.clear();
    frame.parameters.extend_from_slice(&from.values);
    from.values.shrink_to(KEPT);
    if from.cut.is_empty() {
        return;
    }
    let mut sizes = Object::new();
    for (number, full) in &from.cut {
        sizes.number(&number.to_string(), full);
    }
    frame.truncated.raw("parameters", &sizes.finish());
    frame.make_room();
}
