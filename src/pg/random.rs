//! Random bytes that nobody can guess.

use audit_core::record::{SALT_LEN, Salt};
use core::cell::RefCell;
use pgrx::pg_sys;

/// Salts fetched from the operating system at once: a call takes a microsecond.
const AT_ONCE: usize = 256;

/// Fills `bytes`. Throws where the operating system has none.
pub fn fill(bytes: &mut [u8]) {
    // SAFETY: fills exactly the given bytes.
    if !unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) } {
        pgrx::error!("audit_ext: the operating system gave no random bytes");
    }
}

/// A supply of salts, each given out once.
#[derive(Default)]
pub struct Salts(RefCell<Vec<Salt>>);

impl Salts {
    /// The next one. Throws as [`fill`] does.
    pub fn next(&self) -> Salt {
        let mut supply = self.0.borrow_mut();
        if supply.is_empty() {
            let mut bytes = [0; AT_ONCE * SALT_LEN];
            fill(&mut bytes);
            let (salts, _) = bytes.as_chunks::<SALT_LEN>();
            supply.extend_from_slice(salts);
        }
        supply.pop().unwrap_or_default()
    }
}
