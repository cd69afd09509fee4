//! Rings that earlier server runs left behind: drained in order before the ring in use, then
//! removed.

use super::run::Worker;
use super::source::Left;
use super::{orphans, settle};
use crate::pg::ring_file;
use audit_core::event::Timestamp;
use audit_core::ring::Leftover;
use core::sync::atomic::Ordering;
use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::path::{Path, PathBuf};

/// A file mapped for reading.
struct Mapping {
    address: *mut core::ffi::c_void,
    len: usize,
}

impl Mapping {
    fn open(path: &Path) -> std::io::Result<Mapping> {
        // What somebody else put there is not followed, and not waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let stat = file.metadata()?;
        if !stat.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        let len = stat.len() as usize;
        if len == 0 {
            return Err(std::io::Error::other("the file is empty"));
        }
        // SAFETY: a new mapping; nobody writes to or cuts the file, whose server is gone.
        let address = unsafe {
            rustix::mm::mmap(
                core::ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::PRIVATE,
                &file,
                0,
            )
        }?;
        Ok(Mapping { address, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped until drop.
        unsafe { core::slice::from_raw_parts(self.address.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no slice of it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.address, self.len) };
    }
}

/// Drains all left-over rings. `false`: the worker has to end before it is done.
pub fn drain_all(worker: &mut Worker) -> bool {
    // A file that can't be removed or renamed is met again by the next worker.
    let mut done: Vec<PathBuf> = Vec::new();
    loop {
        let mut paths = ring_file::leftovers();
        paths.retain(|path| !done.contains(path));
        worker.set_leftovers(paths.len());
        let Some((path, later)) = paths.split_first() else {
            return true;
        };
        if !drain(worker, path, later) {
            return false;
        }
        done.push(path.clone());
    }
}

/// Drains one ring and removes its file.
fn drain(worker: &mut Worker, path: &Path, later: &[PathBuf]) -> bool {
    let mapping = match Mapping::open(path) {
        Ok(mapping) => mapping,
        Err(error) => {
            worker.set_aside(path, &error.to_string());
            return true;
        }
    };
    let ring = match Leftover::open(mapping.bytes()) {
        Ok(ring) => ring,
        Err(error) => {
            worker.set_aside(path, &error.to_string());
            return true;
        }
    };
    let Some(known) = worker.known_progress(ring.id()) else {
        return false;
    };
    let mut source = Left::new(&ring, known);
    // A server that was set back gives ids out again that a later ring has as given out.
    let horizon = horizon(later).map_or(worker.first_xid(), |xid| xid.min(worker.first_xid()));
    let left = settle::Ring {
        id: ring.id(),
        until: next_start(later),
        horizon,
    };
    if !worker.drain_until_empty(&mut source)
        || !orphans::end(
            worker,
            &mut source,
            &ring.orphans(),
            horizon,
            "server ended",
        )
        || !settle::settle(worker, &mut source, &left)
    {
        return false;
    }
    remove(path);
    true
}

/// The first transaction id of the run of the server after a ring's: the next ring has it, unless
/// nobody was there in that run.
fn horizon(later: &[PathBuf]) -> Option<u64> {
    let in_use = ring_file::ring().map(|ring| ring.mark().load(Ordering::Relaxed));
    of_each(later, |ring| ring.mark())
        .chain(in_use)
        .find(|mark| *mark != 0)
}

/// When the run of the server after a ring's began, as far as its files can be read.
fn next_start(later: &[PathBuf]) -> Timestamp {
    let in_use = ring_file::ring().map(|ring| ring.created_at());
    of_each(later, |ring| ring.created_at())
        .chain(in_use)
        .next()
        .unwrap_or_else(super::now)
}

/// Reads something of each ring that can be read.
fn of_each<T>(paths: &[PathBuf], f: impl Fn(&Leftover) -> T) -> impl Iterator<Item = T> {
    paths.iter().filter_map(move |path| {
        let mapping = Mapping::open(path).ok()?;
        Some(f(&Leftover::open(mapping.bytes()).ok()?))
    })
}

/// Removes a drained ring. If that fails it is drained again at the next start, from the position
/// that the trail holds: nothing comes twice.
fn remove(path: &Path) {
    let removed = std::fs::remove_file(path)
        .and_then(|()| std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all());
    if let Err(error) = removed {
        pgrx::warning!(
            "audit_ext cannot remove the drained ring \"{}\": {error}",
            path.display()
        );
    }
}
