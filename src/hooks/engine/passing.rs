//! Nested statements that the level leaves out have no frame. While one runs, all that is kept is that
//! it does: what it calls has its depth, and its place among the numbers of the top-level statement.

use super::*;

/// A hook of such a statement that has called the server and not come back.
#[derive(Clone, Copy)]
pub struct Call {
    /// As of a frame.
    address: usize,
    catcher: usize,
}

impl Call {
    /// A call that is made now.
    #[inline]
    fn at(address: usize) -> Self {
        Call {
            address,
            catcher: catcher(),
        }
    }

    /// Whether it can have led to this one, and so hasn't come back.
    #[inline]
    fn has(&self, inner: &Call) -> bool {
        self.address > inner.address && self.catcher >= inner.catcher
    }
}

impl Engine {
    /// Whether a query that begins, or runs on without a frame, can be one that passes: inside a
    /// statement whose queries are nested in it, and not its own.
    #[inline]
    pub fn may_pass(&self) -> bool {
        self.is_stirred() && !self.running.is_empty() && !(self.any_wraps && self.is_wrapped())
    }

    /// As [`Engine::may_pass`], as far as a look tells.
    #[inline]
    pub fn may_surely_pass(&self) -> bool {
        self.is_stirred() && !self.running.is_empty() && !self.any_wraps
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
        let outer = self.passing.last();
        self.passing.len() != self.passing.capacity()
            && outer.is_none_or(|outer| outer.has(&Call::at(address)))
    }

    /// The hook of such a statement, at this address of the stack, calls the server. The result is for
    /// [`Engine::passed`], once that has come back.
    ///
    /// # Safety
    /// [`Engine::can_pass`]. (`push` would have the code to grow in here.)
    #[inline(always)]
    pub unsafe fn pass(&mut self, address: usize) -> usize {
        let calls = self.passing.len();
        unsafe {
            self.passing
                .as_mut_ptr()
                .add(calls)
                .write(Call::at(address));
            self.passing.set_len(calls + 1);
        }
        calls
    }

    /// As [`Engine::pass`], whatever has to be forgotten first. Never panics: a call that there is no memory for
    /// counts as none.
    #[cold]
    #[inline(never)]
    pub fn pass_anew(&mut self, address: usize) -> usize {
        self.forget_passed(address);
        let calls = self.passing.len();
        if self.passing.try_reserve(16).is_ok() {
            self.passing.push(Call::at(address));
        }
        calls
    }

    /// The server has come back: to what was called before, whatever has been called since.
    #[inline]
    pub fn passed(&mut self, calls: usize) {
        self.passing.truncate(calls);
    }

    /// Forgets calls that an ERROR has jumped over, seen from a hook at this address.
    #[inline]
    pub(super) fn forget_passed(&mut self, address: usize) {
        let call = Call::at(address);
        while self.passing.last().is_some_and(|outer| !outer.has(&call)) {
            cold_path();
            self.passing.pop();
        }
    }

    /// Whether the innermost statement has no frame. To be asked in [`Engine::before_error`]'s wake.
    pub fn passes(&self) -> bool {
        let Some(call) = self.passing.last() else {
            return false;
        };
        self.running
            .last()
            .is_some_and(|id| self.pool[*id].address > call.address)
    }
}
