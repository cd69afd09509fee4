//! Nested statements that the level leaves out have no frame. While one runs, all that is kept is that
//! it does: what it calls has its depth, and its place among the numbers of the top-level statement.

use super::*;

/// A hook of such a statement that has called the server and not come back. (All zero: one that is further out than
/// any other.)
#[derive(Clone, Copy)]
struct Call {
    /// Complement of the address, as of a frame: larger is further in.
    address: usize,
    /// The same of its catcher.
    catcher: usize,
}

impl Call {
    const OUTERMOST: Call = Call {
        address: 0,
        catcher: 0,
    };

    /// A call that is made now.
    #[inline(always)]
    fn at(address: usize) -> Self {
        Call {
            address: !address,
            catcher: !catcher(),
        }
    }

    /// Whether it can have led to this one, and so hasn't come back.
    #[inline(always)]
    fn has(&self, inner: &Call) -> bool {
        self.address < inner.address && self.catcher <= inner.catcher
    }
}

/// Calls that are kept at once: more than fit on any stack but a very large one. Further ones count as none.
const MOST: usize = 4096;

/// The outermost first, after one that is always there. Memory that nobody has written to takes none.
static mut CALLS: [Call; MOST] = [Call::OUTERMOST; MOST];

/// Calls of nested statements without a frame; of use only while one runs that has one.
pub struct Calls {
    /// The innermost, in [`CALLS`].
    top: *mut Call,
}

/// How many calls there were, for [`Engine::passed`].
#[derive(Clone, Copy)]
pub struct Mark(*mut Call);

impl Calls {
    pub(super) const NONE: Calls = Calls {
        top: &raw mut CALLS as *mut Call,
    };

    #[inline]
    pub fn clear(&mut self) {
        *self = Self::NONE;
    }

    pub(super) fn len(&self) -> usize {
        (self.top as usize - Self::NONE.top as usize) / size_of::<Call>()
    }

    #[inline(always)]
    fn has_room(&self) -> bool {
        self.top < Self::NONE.top.wrapping_add(MOST - 1)
    }

    /// SAFETY of all uses of `top`: it lies within [`CALLS`], which one thread uses.
    #[inline(always)]
    fn innermost(&self) -> &Call {
        unsafe { &*self.top }
    }

    /// Whether this one is inside of all that are kept.
    #[inline(always)]
    fn have(&self, inner: &Call) -> bool {
        self.innermost().has(inner)
    }

    /// There is room.
    #[inline(always)]
    fn push(&mut self, call: Call) {
        unsafe {
            self.top = self.top.add(1);
            self.top.write(call);
        }
    }
}

impl Engine {
    /// Whether a query that begins, or runs on without a frame, can be one that passes: inside a
    /// statement whose queries are nested in it, and not its own.
    #[inline]
    pub fn may_pass(&self) -> bool {
        self.is_stirred() && !self.running.is_empty() && !(self.any_wraps && self.is_wrapped())
    }

    /// As [`Engine::may_pass`], as far as a look tells, where no query is open: from now on one look at
    /// [`asks::passes`] tells it, until what runs, or is open, is another.
    #[inline]
    pub fn may_surely_pass(&self) -> bool {
        debug_assert!(self.has_no_query());
        let passes = self.is_stirred() && !self.running.is_empty() && !self.any_wraps;
        asks::let_pass(passes);
        passes
    }

    #[cold]
    #[inline(never)]
    fn is_wrapped(&self) -> bool {
        self.running.last().is_some_and(|id| {
            let frame = &self.pool[*id];
            frame.wraps != Wraps::Nothing || frame.fetches
        })
    }

    /// The queries of this statement, which begins, may be its own.
    pub fn wraps(&mut self, id: Id, wraps: Wraps, fetches: bool) {
        let frame = &mut self.pool[id];
        frame.wraps = wraps;
        frame.fetches = fetches;
        self.any_wraps |= wraps != Wraps::Nothing || fetches;
        asks::let_pass(false);
    }

    /// One that passes begins. (Where its top-level statement keeps its number is three steps away, and not
    /// in the cache.)
    #[inline]
    pub fn count_passing(&mut self) {
        self.unnumbered += 1;
    }

    /// Those that have passed are among the numbers of the top-level statement. Before that pauses, or
    /// another gets one.
    #[inline(never)]
    pub(super) fn number_passed(&mut self) {
        let passed = core::mem::take(&mut self.unnumbered);
        if passed != 0
            && let Some(top) = self.top_level()
        {
            top.last_sub += passed;
        }
    }

    /// Whether [`Engine::pass`] is enough, for a hook at this address of the stack: there is room, and nothing is to
    /// be forgotten.
    #[inline(always)]
    pub fn can_pass(&self, address: usize) -> bool {
        self.passing.has_room() & self.passing.have(&Call::at(address))
    }

    /// The hook of such a statement, at this address of the stack, calls the server, where [`Engine::can_pass`]. The
    /// result is for [`Engine::passed`], once that has come back.
    #[inline(always)]
    pub fn pass(&mut self, address: usize) -> Mark {
        let before = Mark(self.passing.top);
        debug_assert!(self.passing.has_room());
        self.passing.push(Call::at(address));
        before
    }

    /// As [`Engine::pass`], whatever has to be forgotten first, and whether there is room or not.
    #[cold]
    #[inline(never)]
    pub fn pass_anew(&mut self, address: usize) -> Mark {
        self.forget_passed(address);
        if self.passing.has_room() {
            return self.pass(address);
        }
        Mark(self.passing.top)
    }

    /// The server has come back: to what was called before, whatever has been called since.
    #[inline(always)]
    pub fn passed(&mut self, before: Mark) {
        self.passing.top = self.passing.top.min(before.0);
    }

    /// Forgets calls that an ERROR has jumped over, seen from a hook at this address.
    #[inline]
    pub(super) fn forget_passed(&mut self, address: usize) {
        let call = Call::at(address);
        // (The outermost has them all.)
        while !self.passing.have(&call) {
            cold_path();
            self.passing.top = self.passing.top.wrapping_sub(1);
        }
    }

    /// Whether the innermost statement has no frame. To be asked in [`Engine::before_error`]'s wake.
    pub fn passes(&self) -> bool {
        if self.passing.len() == 0 {
            return false;
        }
        let address = !self.passing.innermost().address;
        self.running
            .last()
            .is_some_and(|id| self.pool[*id].address > address)
    }
}
