//! The ring's directory is one server's: another that is given it, as where a copy of a server keeps an absolute
//! path, would put the first one's ring aside, and drain it.
//!
//! The lock is the process's (fcntl), and not the open file's (flock), which children would inherit and
//! keep after the postmaster's death: it ends with the postmaster, however that ends. Who is left of its children then
//! keeps it from nobody; that no server starts beside them in the same data directory is the server's own care.

use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The file, inside the directory. It stays.
const LOCK: &str = "lock";
/// What an earlier server may take for its end, behind the end of its work: it unmaps its memory first.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the directory for as long as this process, the postmaster, lives; done once. `false`: another server has it.
/// Where there are no locks, or no file can be made, the directory is taken without: better than to record nothing.
pub fn take(directory: &Path) -> bool {
    // Never closed: to close any descriptor of the file would end the lock.
    static TAKEN: OnceLock<OwnedFd> = OnceLock::new();
    if TAKEN.get().is_some() {
        return true;
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = fs::open(
        directory.join(LOCK),
        flags | OFlags::NONBLOCK,
        Mode::RUSR | Mode::WUSR,
    );
    let end = Instant::now() + PATIENCE;
    let error = match opened {
        Err(error) => error,
        Ok(file) => loop {
            match fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let _ = TAKEN.set(file);
                    return true;
                }
                Err(Errno::AGAIN | Errno::ACCESS) if Instant::now() >= end => return false,
                Err(Errno::AGAIN | Errno::ACCESS) => std::thread::sleep(PAUSE),
                Err(error) => break error,
            }
        },
    };
    pgrx::warning!(
        "audit_ext cannot lock its ring's directory \"{}\", so nothing keeps another server from using it: {error}",
        directory.display()
    );
    true
}
