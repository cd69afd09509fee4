//! Where this trail is written: what tells it from the trails of other clusters, of a standby that
//! was promoted, of a branch.

use pgrx::pg_sys;

use crate::pg::{compat, session};
use audit_core::note::key_name;

/// What a START event says of the server, and FORK and UPGRADE compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub system_identifier: u64,
    pub timeline: u32,
    pub branch: String,
    /// Of the server.
    pub major: u32,
}

impl Origin {
    /// Of this server, which is not in recovery. Doesn't throw.
    pub fn here() -> Origin {
        Origin {
            system_identifier: unsafe { pg_sys::GetSystemIdentifier() },
            timeline: compat::timeline(),
            branch: String::from_utf8_lossy(session::branch()).into_owned(),
            major: pg_sys::PG_VERSION_NUM / 10_000,
        }
    }

    /// The first line of its checkpoints, which is the name of its key, too. Two trails that could
    /// differ never share it.
    pub fn line(&self) -> String {
        let mut line = format!("audit_ext/{}/{}", self.system_identifier, self.timeline);
        if !self.branch.is_empty() {
            line.push('/');
            line.push_str(&self.branch);
        }
        key_name(&line)
    }
}
