//! Whether anything is under way, in few looks. Between two transactions nothing is, and most of these begin
//! no more than one lone query (`engine::lone`): then a bit says so, and the lists need not be looked at, nor
//! the end of a transaction that had nothing else. (The bit is in `pg::asks`, with what else a statement's
//! begin looks at, and where what is of a transaction in `crate::pg` can set it.)

use super::*;

impl Engine {
    /// Whether [`Engine::enter`] has nothing to conclude.
    #[inline]
    pub fn undisturbed(&self) -> bool {
        self.running.len() | self.dead.len() == 0
    }

    /// Whether nothing is under way: no statement that runs, waits or has died.
    #[inline]
    pub fn idle(&self) -> bool {
        !self.is_stirred() || (self.undisturbed() && self.held.is_none())
    }

    /// From now until a transaction's end says otherwise, more may be under way than a lone query. Until it
    /// is called, and by all that a frame is taken for, what follows needs no look at the lists: nothing
    /// runs, waits, is open or has died, and all that is known of a transaction is that it runs. Nor has its
    /// end anything to do but for a lone query: it moves no home (`pg::home`), and the slot has no id of it.
    #[inline]
    pub fn stir(&mut self) {
        asks::stir();
    }

    /// Whether more may be under way than a lone query.
    #[inline]
    pub fn is_stirred(&self) -> bool {
        debug_assert!(asks::is_stirred() || self.is_calm());
        asks::is_stirred()
    }

    /// What holds as long as the engine isn't stirred. (The rest of it has ended with each transaction.)
    #[inline]
    fn is_calm(&self) -> bool {
        let at_rest = self.is_at_rest() & !self.fates.has_pending() & !self.committing;
        at_rest && self.plan.is_none() && self.for_lone.is_some() && self.serves
    }

    /// The session has begun, and is recorded: from now on the engine may be calm.
    pub fn serve(&mut self, serves: bool) {
        self.serves = serves;
        self.stir();
    }

    /// A transaction has ended so, and what was to be done about it is done.
    #[inline]
    pub fn settle(&mut self, fate: Fate) {
        self.explicit = self.chains.take() == Some(fate);
        self.fates.forget_unheard();
        if self.is_calm() {
            self.any_wraps = false;
            asks::calm_down();
        }
    }

    /// BEGIN … COMMIT has begun. To be told also while there is no trail: what follows may be recorded.
    #[inline]
    pub fn begin_explicit(&mut self) {
        self.stir();
        self.explicit = true;
    }

    /// Where the transaction ends so, the next is such a block, too: AND CHAIN.
    pub fn chain(&mut self, fate: Fate) {
        self.stir();
        self.chains = Some(fate);
    }

    /// Whether no statement of this session, nor anything that is known of its transaction, is still to end.
    #[inline]
    pub fn is_at_rest(&self) -> bool {
        let under_way = self.running.len() | self.dead.len() | self.open.len() | self.checks.len();
        let held = self.held.is_some() | self.explicit;
        under_way | held as usize == 0 && self.fates.is_at_rest()
    }

    /// Whether no query has begun and not yet ended.
    #[inline]
    pub fn has_no_query(&self) -> bool {
        !self.is_stirred() || self.open.is_empty()
    }

    /// Whether a hook that looks for the statement of its query would find none, and has none to
    /// bury.
    #[inline]
    pub fn knows_no_query(&self) -> bool {
        !self.is_stirred() || self.running.len() | self.dead.len() | self.open.len() == 0
    }
}
