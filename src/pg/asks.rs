//! What has a statement taken down, in one word, so that one test tells that nothing does: the classes of
//! `audit.level`, what asks for more than these, and whether something is under way. Nothing here throws.

use audit_core::event::Classes;
use audit_core::level::Level;

use super::near::NEAR;
use super::raw;

/// There is one, in [`NEAR`].
pub struct Asks {
    /// [`Level::to_bits`], and of the bits that it leaves: who else asks.
    word: u32,
    /// The user that queries run as, where the name is known (`pg::session`); else 0. Beside the word, as it is looked
    /// at with it.
    known_user: u32,
}

impl Asks {
    pub(super) const FOR_NOTHING: Asks = Asks {
        word: Level::NONE.to_bits() | STIRRED,
        known_user: 0,
    };
}

/// More may be under way than a lone query (`hooks::engine::calm`).
const STIRRED: u32 = 1 << 19;
/// Each commit has to have what was pushed before it on disk (`pg::durability`).
const SYNCS: u32 = 1 << 20;

/// Nested queries that are left out pass: `hooks::engine::passing`.
const PASSES: u32 = 1 << 21;

/// Somebody besides `audit.level` who asks.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Asker {
    /// `audit.role` is set.
    Role = 1 << 16,
    /// `audit.unlock()` has opened the trail for this session: see `pg::unlock`.
    Unlocked = 1 << 17,
    /// A setting was assigned: see `guc::take_assigned`.
    Assigned = 1 << 18,
}

const OTHERS: u32 = Asker::Role as u32 | Asker::Unlocked as u32 | Asker::Assigned as u32;
const _: () = assert!(Level::MOST_BITS & (OTHERS | STIRRED | SYNCS | PASSES) == 0);

#[inline]
fn word() -> u32 {
    // SAFETY of all uses: a backend is one thread.
    unsafe { NEAR.asks.word }
}

/// `audit.level`
#[inline]
pub fn level() -> Level {
    Level::from_bits(word())
}

/// `audit.level` is now what [`Level::to_bits`] said.
pub fn set_level(bits: u32) {
    unsafe { NEAR.asks.word = (NEAR.asks.word & !Level::MOST_BITS) | bits };
}

#[inline]
pub fn has(asker: Asker) -> bool {
    word() & asker as u32 != 0
}

pub fn set(asker: Asker, asks: bool) {
    let bit = asker as u32;
    unsafe {
        NEAR.asks.word = if asks {
            NEAR.asks.word | bit
        } else {
            NEAR.asks.word & !bit
        }
    };
}

/// Whether nobody asks for a statement of these classes, however it ends.
#[inline]
pub fn for_none_of(classes: Classes) -> bool {
    word() & (Level::bits_for(classes) | OTHERS) == 0
}

/// Whether nobody but `audit.level` asks for anything.
#[inline]
pub fn for_level_only() -> bool {
    word() & OTHERS == 0
}

/// Whether nobody asks for any statement, but perhaps for a look at the settings.
#[inline]
pub fn for_nothing() -> bool {
    word() & !(Asker::Assigned as u32 | STIRRED | SYNCS | PASSES) == Level::NONE.to_bits()
}

/// [`for_none_of`], and all that may be under way is a lone query.
#[inline]
pub fn for_none_of_in_calm(classes: Classes) -> bool {
    word() & (Level::bits_for(classes) | OTHERS | STIRRED) == 0
}

/// [`for_none_of`], and what is nested passes.
#[inline]
pub fn for_none_of_passing(classes: Classes) -> bool {
    word() & (Level::bits_for(classes) | OTHERS | PASSES) == PASSES
}

/// Whether what is nested and left out passes, so that there is no query of ours.
#[inline]
pub fn passes() -> bool {
    word() & PASSES != 0
}

/// What is nested and left out passes from now on, or needs a look again. For the engine only.
#[inline]
pub fn let_pass(passes: bool) {
    unsafe {
        NEAR.asks.word = if passes {
            NEAR.asks.word | PASSES
        } else {
            NEAR.asks.word & !PASSES
        }
    };
}

/// Whether more may be under way than a lone query.
#[inline]
pub fn is_stirred() -> bool {
    word() & STIRRED != 0
}

/// Whether the end of a transaction is of no interest, as far as there is no lone query.
#[inline]
pub fn for_no_end() -> bool {
    word() & (STIRRED | SYNCS) == 0
}

/// `audit.durability` is now `commit`, or isn't.
pub fn set_syncs(syncs: bool) {
    unsafe {
        NEAR.asks.word = if syncs {
            NEAR.asks.word | SYNCS
        } else {
            NEAR.asks.word & !SYNCS
        }
    };
}

/// Until a transaction's end says otherwise, more may be under way: to be called before it is.
#[inline]
pub fn stir() {
    unsafe { NEAR.asks.word |= STIRRED };
}

/// A transaction's end says that nothing is under way any more. For the engine only.
#[inline]
pub fn calm_down() {
    unsafe { NEAR.asks.word &= !STIRRED };
}

/// Whether the name of the user that queries run as is known. (And of the session's: it changes together with this
/// one, and is looked up with it.) Never throws.
#[inline]
pub fn user_is_known() -> bool {
    unsafe { NEAR.asks.known_user == raw::GetUserId().to_u32() }
}

/// The name of this user is known from now on; 0: it may have changed.
pub fn set_known_user(user: u32) {
    unsafe { NEAR.asks.known_user = user };
}
