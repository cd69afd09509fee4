//! Rings that earlier server runs left behind: drained in order before the ring in use, then
//! removed.

use super::run::Worker;
use super::source::Left;
use super::{lifecycle, orphans, settle};
use crate::pg::ring_file;
use crate::pg::spi::Failure;
use audit_core::event::Timestamp;
use audit_core::ring::{HEADER_LEN, Head, Leftover};
use core::sync::atomic::Ordering;
use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes read at once, and where that fails one by one.
const CHUNK: usize = 64 * 1024;
const PAGE: usize = 4096;

/// A file, read into memory: to touch the mapping of one that somebody cuts, or whose disk is bad, would be
/// SIGBUS, which the whole server restarts for, to meet the file again.
struct Copy {
    address: *mut core::ffi::c_void,
    len: usize,
    /// Pages that can't be read.
    lost: usize,
}

/// Times that what can't be read is read again, a second apart: a disk may come back.
const TRIES: usize = 5;

impl Copy {
    /// Pages that can't be read are zeros, as are those that hold nothing, which take no memory either.
    /// `None`: `over` said so.
    fn read(path: &Path, over: &dyn Fn() -> bool) -> std::io::Result<Option<Copy>> {
        let (file, len) = open(path)?;
        Leftover::check(&header(&file)?, len as u64).map_err(std::io::Error::other)?;
        // Memory that may be written to is promised by the system, and it may promise no more than it has: only
        // what is needed is asked for, piece by piece.
        // SAFETY: new memory of our own.
        let address = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            rustix::mm::mmap_anonymous(core::ptr::null_mut(), len, ProtFlags::READ, flags)
        }?;
        let mut copy = Copy {
            address,
            len,
            lost: 0,
        };
        let mut buffer = [0; CHUNK];
        let mut waiting: Vec<usize> = (0..len).step_by(CHUNK).collect();
        for again in 0..TRIES {
            if again > 0 {
                lifecycle::sleep(Duration::from_secs(1));
            }
            let mut failed = Vec::new();
            for at in waiting {
                if over() {
                    return Ok(None);
                }
                if !copy.fill(&file, at, CHUNK, &mut buffer)? {
                    failed.push(at);
                }
            }
            waiting = failed;
            if waiting.is_empty() {
                return Ok(Some(copy));
            }
        }
        for at in waiting {
            for page in (at..(at + CHUNK).min(len)).step_by(PAGE) {
                if over() {
                    return Ok(None);
                }
                copy.lost += usize::from(!copy.fill(&file, page, PAGE, &mut buffer)?);
            }
        }
        Ok(Some(copy))
    }

    /// Reads a piece of the file; `false`: some of it can't be read. Fails for lack of memory.
    fn fill(
        &mut self,
        file: &std::fs::File,
        at: usize,
        most: usize,
        buffer: &mut [u8; CHUNK],
    ) -> std::io::Result<bool> {
        let buffer = &mut buffer[..most.min(self.len - at)];
        if file.read_exact_at(buffer, at as u64).is_err() {
            return Ok(false);
        }
        if buffer.iter().any(|byte| *byte != 0) {
            // SAFETY: whole pages of our own memory, of which nobody has a reference yet.
            unsafe {
                let to = self.address.cast::<u8>().add(at);
                let flags = MprotectFlags::READ | MprotectFlags::WRITE;
                rustix::mm::mprotect(to.cast(), buffer.len(), flags)?;
                core::ptr::copy_nonoverlapping(buffer.as_ptr(), to, buffer.len());
            }
        }
        Ok(true)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: ours until drop.
        unsafe { core::slice::from_raw_parts(self.address.cast(), self.len) }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // SAFETY: our own memory; no slice of it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.address, self.len) };
    }
}

/// Opens a file for reading; its length.
fn open(path: &Path) -> std::io::Result<(std::fs::File, usize)> {
    // What somebody else put there is not followed, and not waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let stat = file.metadata()?;
    if !stat.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    if stat.len() == 0 {
        return Err(std::io::Error::other("the file is empty"));
    }
    Ok((file, stat.len() as usize))
}

/// The first page, as far as there is one.
fn header(file: &std::fs::File) -> std::io::Result<Vec<u8>> {
    let mut header = Vec::new();
    file.take(HEADER_LEN as u64).read_to_end(&mut header)?;
    Ok(header)
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
    let mut tries = 0;
    let read = worker.insist(|worker| {
        tries += 1;
        match Copy::read(path, &|| worker.is_over()) {
            // Not of the file, and not for ever.
            Err(error) if tries < TRIES && is_passing(&error) => Err(Failure::of_io(&error)),
            read => Ok(read),
        }
    });
    let copy = match read {
        Some(Ok(Some(copy))) => copy,
        Some(Err(error)) => {
            worker.set_aside(path, &error.to_string());
            return true;
        }
        Some(Ok(None)) | None => return false,
    };
    let ring = match Leftover::open(copy.bytes()) {
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
    match copy.lost {
        0 => remove(path),
        lost => worker.set_aside(path, &format!("{lost} of its pages")),
    }
    true
}

/// Whether an error is of this moment: memory, open files or a disk that can't be had.
fn is_passing(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    [
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::IO,
        Errno::STALE,
        Errno::AGAIN,
        Errno::INTR,
    ]
    .iter()
    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The first transaction id of the run of the server after a ring's: the next ring has it, unless
/// nobody was there in that run.
fn horizon(later: &[PathBuf]) -> Option<u64> {
    let in_use = ring_file::ring().map(|ring| ring.mark().load(Ordering::Relaxed));
    of_each(later, |head| head.mark)
        .chain(in_use)
        .find(|mark| *mark != 0)
}

/// When the run of the server after a ring's began, as far as its files can be read.
fn next_start(later: &[PathBuf]) -> Timestamp {
    let in_use = ring_file::ring().map(|ring| ring.created_at());
    of_each(later, |head| head.created_at)
        .chain(in_use)
        .next()
        .unwrap_or_else(super::now)
}

/// Reads something of each ring that can be read.
fn of_each<T>(paths: &[PathBuf], f: impl Fn(&Head) -> T) -> impl Iterator<Item = T> {
    paths.iter().filter_map(move |path| {
        let (file, len) = open(path).ok()?;
        Some(f(&Leftover::check(&header(&file).ok()?, len as u64).ok()?))
    })
}

/// Removes a drained ring. If that fails it is drained again at the next start, from the position
/// that the trail holds: nothing comes twice.
fn remove(path: &Path) {
    let removed = std::fs::remove_file(path).and_then(|()| ring_file::sync_directory());
    if let Err(error) = removed {
        pgrx::warning!(
            "audit_ext cannot remove the drained ring \"{}\": {error}",
            path.display()
        );
    }
}
