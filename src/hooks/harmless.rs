//! Whether a statement's text holds nothing to redact, remembered: an application sends the same few
//! texts again and again, and to compare one costs less than to search it for secrets.

use audit_core::sql::redact;

/// Number of texts remembered: each has its place by its address and length.
const PLACES: usize = 64;

/// Longer texts are searched each time.
const MOST: usize = 1024;

static mut KNOWN: [Vec<u8>; PLACES] = [const { Vec::new() }; PLACES];

/// Whether `text` can be kept as it is. Depends on nothing but its bytes.
#[inline]
pub fn is_harmless(text: &[u8]) -> bool {
    let address = text.as_ptr() as usize;
    let place = (address >> 3 ^ address >> 9 ^ text.len()) % PLACES;
    // SAFETY: one thread; the reference does not outlive this function, which calls nothing of ours.
    let known = unsafe { &mut (*(&raw mut KNOWN))[place] };
    if !text.is_empty() && *known == text {
        return true;
    }
    let harmless = !redact::may_hold_secret(text);
    if harmless && text.len() <= MOST {
        known.clear();
        known.extend_from_slice(text);
    }
    harmless
}
