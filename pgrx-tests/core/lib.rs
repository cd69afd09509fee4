//! Tests of the pure part that need more than the crate itself; see tests/.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use audit_core::ring::{AttachError, Consumer, HEADER_LEN, Ring};

/// A ring in this process's own memory.
pub struct OwnedRing {
    ring: Option<Ring>,
    base: *mut u8,
    layout: Layout,
}

impl OwnedRing {
    /// An empty ring.
    pub fn new(capacity: usize, id: [u8; 16]) -> OwnedRing {
        let mut owned = OwnedRing::of_zeroes(HEADER_LEN + capacity);
        // SAFETY: zeroed memory that lives as long as the ring.
        let ring = unsafe { Ring::create(owned.base, owned.layout.size(), id, 0) };
        owned.ring = Some(ring.expect("the capacity is right"));
        owned
    }

    /// A ring of a file's bytes, if they are one.
    pub fn attach(file: &[u8]) -> Result<OwnedRing, AttachError> {
        let mut owned = OwnedRing::of_zeroes(file.len());
        owned.bytes_mut()[..file.len()].copy_from_slice(file);
        // SAFETY: memory that lives as long as the ring.
        owned.ring = Some(unsafe { Ring::attach(owned.base, file.len()) }?);
        Ok(owned)
    }

    fn of_zeroes(len: usize) -> OwnedRing {
        let layout = Layout::from_size_align(len.max(1), HEADER_LEN).expect("a sane length");
        OwnedRing {
            ring: None,
            // SAFETY: the layout is not empty.
            base: unsafe { alloc_zeroed(layout) },
            layout,
        }
    }

    pub fn ring(&self) -> &Ring {
        self.ring.as_ref().expect("set by every constructor")
    }

    pub fn consumer(&self) -> Consumer<'_> {
        // SAFETY: the type is neither Send nor Sync, so one thread has it.
        unsafe { self.ring().consumer() }
    }

    /// All bytes, as a file would hold them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this length; one thread, and rings write only when called.
        unsafe { std::slice::from_raw_parts(self.base, self.layout.size()) }
    }

    /// All bytes, to be damaged.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.layout.size()) }
    }
}

impl Drop for OwnedRing {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the ring itself frees nothing.
        unsafe { dealloc(self.base, self.layout) }
    }
}
