//! `audit.level`: which statements are recorded (grammar: spec/interface.md, "Settings").
//!
//! A comma-separated list, read from left to right: `none` and `all` replace what came before, a
//! class adds itself, a leading `-` takes a class away, `failed` adds every statement that fails.
//! An empty list is `none`. Case and white space don't matter. Class AUDIT is always recorded.

use crate::event::{Class, Classes};

/// The words that the grammar knows, for the HINT of an error.
pub const VALID_WORDS: &str =
    "none, all, read, write, function, role, ddl, misc, set, session, failed";

/// The bit of [`Level::to_bits`] that stands for `failed`.
const FAILED: u32 = 1 << 31;

const ALL: u16 = (1 << 9) - 1;

/// A parsed level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    classes: Classes,
    failed: bool,
}

/// A word that the grammar doesn't know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    pub word: String,
}

impl Default for Level {
    fn default() -> Self {
        Level::NONE
    }
}

impl Level {
    /// Records nothing but class AUDIT.
    pub const NONE: Level = Level {
        classes: Classes::of(Class::Audit),
        failed: false,
    };

    /// Records everything.
    pub const ALL: Level = Level {
        classes: Classes(ALL | Class::Audit as u16),
        failed: false,
    };

    /// Reads a list.
    pub fn parse(list: &str) -> Result<Level, UnknownWord> {
        let mut level = Level::NONE;
        if list.trim().is_empty() {
            return Ok(level);
        }
        for word in list.split(',') {
            level.apply(word.trim())?;
        }
        Ok(level)
    }

    fn apply(&mut self, word: &str) -> Result<(), UnknownWord> {
        let unknown = || UnknownWord { word: word.into() };
        let (minus, name) = match word.strip_prefix('-') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, word),
        };
        let bits = match name.to_ascii_lowercase().as_str() {
            "failed" => {
                self.failed = !minus;
                return Ok(());
            }
            // The two that stand for the whole list have no negative.
            "none" if !minus => {
                *self = Level::NONE;
                return Ok(());
            }
            "all" if !minus => ALL,
            "read" => Class::Read as u16,
            "write" => Class::Write as u16,
            "function" => Class::Function as u16,
            "role" => Class::Role as u16,
            "ddl" => Class::Ddl as u16,
            "misc" => Class::Misc as u16,
            "set" => Class::Set as u16,
            "session" => Class::Session as u16,
            _ => return Err(unknown()),
        };
        if minus {
            self.classes.0 &= !bits;
        } else {
            self.classes.0 |= bits;
        }
        Ok(())
    }

    /// Whether an event of these classes is recorded, given whether it failed.
    pub const fn records(self, classes: Classes, failed: bool) -> bool {
        self.classes.intersects(classes) || (failed && self.failed)
    }

    /// Whether nothing but class AUDIT is recorded.
    pub const fn is_none(self) -> bool {
        !self.failed && self.classes.0 == Class::Audit as u16
    }

    /// Whether an event of these classes may be recorded, however it ends.
    pub const fn could_record(self, classes: Classes) -> bool {
        self.failed || self.classes.intersects(classes)
    }

    /// Packs the level into one word.
    pub const fn to_bits(self) -> u32 {
        self.classes.0 as u32 | if self.failed { FAILED } else { 0 }
    }

    /// All that [`Level::to_bits`] can set.
    pub const MOST_BITS: u32 = FAILED | 0xffff;

    /// The bits of which [`Level::to_bits`] has one if the level could record these classes.
    pub const fn bits_for(classes: Classes) -> u32 {
        FAILED | classes.0 as u32
    }

    /// Unpacks [`Level::to_bits`]; further bits don't matter.
    pub const fn from_bits(bits: u32) -> Level {
        Level {
            classes: Classes(bits as u16 | Class::Audit as u16),
            failed: bits & FAILED != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(list: &str) -> String {
        let level = Level::parse(list).unwrap();
        assert_eq!(Level::from_bits(level.to_bits()), level);
        let mut names: Vec<&str> = Class::BY_STRENGTH
            .into_iter()
            .filter(|c| *c != Class::Audit && level.records(Classes::of(*c), false))
            .map(Class::name)
            .collect();
        if level.records(Classes::NONE, true) {
            names.push("failed");
        }
        names.join(" ")
    }

    #[test]
    fn lists() {
        for (list, expected) in [
            ("", ""),
            ("  ", ""),
            ("none", ""),
            ("all", "SESSION ROLE DDL WRITE FUNCTION READ SET MISC"),
            ("ALL, -Misc", "SESSION ROLE DDL WRITE FUNCTION READ SET"),
            ("read,write", "WRITE READ"),
            ("failed", "failed"),
            ("ddl, role, failed", "ROLE DDL failed"),
            ("all, none, read", "READ"),
            (
                "-read, all",
                "SESSION ROLE DDL WRITE FUNCTION READ SET MISC",
            ),
            (
                "all,-set,-misc,-session,-function,-ddl,-role,-read",
                "WRITE",
            ),
            ("failed, -failed", ""),
            ("read, - read", ""),
            ("\tWrite \n", "WRITE"),
        ] {
            assert_eq!(recorded(list), expected, "{list:?}");
        }
    }

    #[test]
    fn bits_tell_what_could_be_recorded() {
        for list in ["none", "all", "read", "write, failed", "all, -read"] {
            let level = Level::parse(list).unwrap();
            let further = !Level::MOST_BITS;
            assert_eq!(Level::from_bits(level.to_bits() | further), level, "{list}");
            for class in Class::BY_STRENGTH {
                let classes = Classes::of(class);
                assert_eq!(
                    level.to_bits() & Level::bits_for(classes) != 0,
                    level.could_record(classes),
                    "{list}: {}",
                    class.name()
                );
            }
        }
    }

    #[test]
    fn unknown_words() {
        for (list, word) in [
            ("reads", "reads"),
            ("read,,write", ""),
            ("read,", ""),
            ("-all", "-all"),
            ("-none", "-none"),
            ("audit", "audit"),
            ("-audit", "-audit"),
            ("read write", "read write"),
        ] {
            assert_eq!(
                Level::parse(list),
                Err(UnknownWord { word: word.into() }),
                "{list:?}"
            );
        }
    }

    #[test]
    fn audit_is_always_recorded() {
        for list in ["none", "", "all", "failed"] {
            let level = Level::parse(list).unwrap();
            assert!(level.records(Classes::of(Class::Audit), false));
        }
    }
}
