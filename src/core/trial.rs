//! How an event is tried to be stored whose content seems to make that fail.
//!
//! The last resort, an event without its content, is for a failure that is the content's. Whatever else
//! fails, a table that is out of shape, an index that was just replaced, may be gone a moment later:
//! then the event without its content could be stored, and so could the whole one. So it is rehearsed, and only where
//! that works, and the whole event fails once more behind it, something is left out.

/// The next try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trial {
    /// As it is.
    #[default]
    Whole,
    /// Without its content, and taken back.
    Rehearsal,
    /// As it is, since it could be stored without its content.
    Again,
    /// Without its content, for good.
    Bare,
}

impl Trial {
    /// Whether content is left out.
    pub fn is_bare(self) -> bool {
        matches!(self, Trial::Rehearsal | Trial::Bare)
    }

    /// What comes after a failure that seems to be due to content. `None`: it isn't.
    pub fn failed(self) -> Option<Trial> {
        match self {
            Trial::Whole => Some(Trial::Rehearsal),
            Trial::Again => Some(Trial::Bare),
            Trial::Rehearsal | Trial::Bare => None,
        }
    }

    /// What comes after a try that worked.
    pub fn worked(self) -> Trial {
        match self {
            Trial::Rehearsal => Trial::Again,
            Trial::Whole | Trial::Again | Trial::Bare => Trial::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries until something is stored, or it is time to wait; `works`: what each try comes to, by whether it is
    /// without content. Whether something was left out.
    fn left_out(works: &[fn(bool) -> bool]) -> Option<bool> {
        let mut trial = Trial::default();
        for works in works {
            if !works(trial.is_bare()) {
                trial = trial.failed()?;
            } else if trial == Trial::Rehearsal {
                trial = trial.worked();
            } else {
                assert_eq!(trial.worked(), Trial::Whole);
                return Some(trial.is_bare());
            }
        }
        panic!("more tries than {}", works.len());
    }

    #[test]
    fn only_content_that_fails_is_left_out() {
        let never: fn(bool) -> bool = |_| false;
        let always: fn(bool) -> bool = |_| true;
        let bare: fn(bool) -> bool = |bare| bare;
        assert_eq!(left_out(&[always]), Some(false));
        assert_eq!(left_out(&[bare; 4]), Some(true));
        // What fails either way is not the content's fault.
        assert_eq!(left_out(&[never; 2]), None);
        // What fails is mended after each try.
        assert_eq!(left_out(&[never, always, always]), Some(false));
        assert_eq!(left_out(&[never, bare, always]), Some(false));
        assert_eq!(left_out(&[bare, bare, always]), Some(false));
    }
}
