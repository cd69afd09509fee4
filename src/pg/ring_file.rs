//! The ring's file: made and mapped by the postmaster, inherited by every backend.
//!
//! The mapping is shared and file-backed, so what a backend wrote survives the backend, a crash
//! restart, any shutdown and SIGKILL of the postmaster; only the operating system's end can take it
//! (spec/delivery.md, "The ring"). At server start a ring that may hold records is put aside as
//! `ring.<n>.old`; the worker drains those in order and removes them.

use audit_core::ring::{Ahead, HEADER_LEN, Leftover, PIECE, Ring};
use audit_core::slot::{SLOT_LEN, is_free};
use core::ffi::c_int;
use core::hint::cold_path;
use core::ops::Range;
use core::sync::atomic::{AtomicPtr, Ordering};
use pgrx::pg_sys;
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags};
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{raw, ring_lock};

/// Name of the ring in use, inside the ring directory.
const CURRENT: &str = "ring";
/// The note of a clean stop, of which a start knows until it has looked at the ring (`witness`).
pub const STOPPED_AT: &str = "stopped_at";
/// The ring being made.
const NEW: &str = "ring.new";

/// A ring with its file.
struct Mapped {
    ring: Ring,
    base: *mut u8,
    file: OwnedFd,
    size: usize,
    /// Length of a page of memory, where msync() has to begin.
    page: usize,
}

impl Mapped {
    /// Has the system map the pages of these positions for writing, which changes nothing in them.
    fn populate(&self, positions: Range<u64>) -> bool {
        self.pages(positions).all(|(begin, len)| {
            // SAFETY: within the mapping, from the beginning of a page; it is an error, and no signal,
            // where there is no file.
            let done =
                unsafe { rustix::mm::madvise(begin.cast(), len, Advice::LinuxPopulateWrite) };
            done.is_ok()
        })
    }

    /// The memory of these positions, from the beginning of a page on: where it is, and its length.
    fn pages(&self, positions: Range<u64>) -> impl Iterator<Item = (*mut u8, usize)> {
        let spans = self.ring.places(positions).into_iter();
        spans.filter(|span| !span.is_empty()).map(|span| {
            let begin = (HEADER_LEN + span.start as usize) / self.page * self.page;
            let len = HEADER_LEN + span.end as usize - begin;
            // SAFETY: within the mapping.
            (unsafe { self.base.add(begin) }, len)
        })
    }

    /// Writes the pages that hold these positions, and waits for the disk. Sets errno.
    fn sync_records(&self, positions: Range<u64>) -> bool {
        self.pages(positions).all(|(begin, len)| {
            let flags = MsyncFlags::SYNC.bits() as c_int;
            // SAFETY: as above; doesn't throw.
            unsafe { raw::msync(begin.cast(), len, flags) == 0 }
        })
    }
}

/// Set in the postmaster while no child exists; children inherit it with mapping and descriptor.
/// Never freed: the ring in use.
#[unsafe(link_section = "audit_data")]
static MAPPED: AtomicPtr<Mapped> = AtomicPtr::new(core::ptr::null_mut());
/// How far this process has come in it.
#[unsafe(link_section = "audit_data")]
static mut AHEAD: Ahead = Ahead::new();
static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// The ring; `None` where it could not be made (the server log says why) or nothing is preloaded.
#[inline]
pub fn ring() -> Option<&'static Ring> {
    mapped().map(|mapped| &mapped.ring)
}

/// Makes the ring durable: all of the file, or only the records at `positions`. Nothing with
/// `fsync = off`, as the server's own. `Err`: errno. Never throws.
///
/// A sync takes the right to write from every process for each page that it cleans, and each gets it
/// back in a fault, page by page. So header and in-flight slots are left out: recovery trusts no
/// position of the header, and what only a slot knew the trail's own events tell
/// (worker/settle.rs).
pub fn sync(positions: Option<Range<u64>>) -> Result<(), i32> {
    let Some(mapped) = mapped() else {
        return Ok(());
    };
    // SAFETY: a plain global; calls of libc and the server that don't throw.
    let done = unsafe {
        match positions {
            _ if !pg_sys::enableFsync => true,
            None => raw::pg_fdatasync(mapped.file.as_raw_fd()) == 0,
            Some(positions) => mapped.sync_records(positions),
        }
    };
    if done {
        return Ok(());
    }
    Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(-1))
}

#[inline]
fn mapped() -> Option<&'static Mapped> {
    // SAFETY: NULL, or leaked by `startup`.
    unsafe { MAPPED.load(Ordering::Relaxed).as_ref() }
}

/// A record of this process ends here: has what comes next mapped, if it is due (audit_core::ring::Ahead).
/// Never throws; it may take as long as the page faults that it spares.
#[inline]
pub fn pushed(end: u64) {
    // SAFETY: one thread; no reference outlives this function and the one that it calls.
    let ahead = unsafe { &mut *(&raw mut AHEAD) };
    if ahead.pushed(end) {
        cold_path();
        look_ahead(ahead, end);
    }
}

#[cold]
#[inline(never)]
#[unsafe(link_section = "audit_session")]
fn look_ahead(ahead: &mut Ahead, end: u64) {
    let Some(mapped) = mapped() else { return };
    let positions = ahead.look(end, mapped.ring.capacity());
    if !positions.is_empty() && !mapped.populate(positions) {
        ahead.give_up(); // Linux before 5.14, or somebody has cut the file.
    }
}

/// The directory that holds the ring. Empty before server start has come to it, and where it is another server's.
pub fn directory() -> &'static Path {
    DIRECTORY.get().map_or(Path::new(""), PathBuf::as_path)
}

/// Rings that earlier server starts put aside, the oldest first.
pub fn leftovers() -> Vec<PathBuf> {
    numbered(directory())
        .into_iter()
        .map(|(_, path)| path)
        .collect()
}

/// Makes and maps the ring; runs in the postmaster at server start, and again at each crash restart,
/// when the mapping and its records are still there and, mostly, nothing is to be done. A failure is
/// told to the server log, and returned, and leaves the server without capture rather than without
/// service.
pub fn startup() -> Result<(), String> {
    if mapped().is_some_and(|mapped| !mapped.was_cut()) {
        return Ok(());
    }
    let directory = full_path(super::guc::ring_directory());
    let prepared = prepare_directory(&directory);
    let ours = prepared.is_err() || ring_lock::take(&directory);
    let made = prepared.and_then(|()| {
        if !ours {
            return Err("another server uses it".into());
        }
        let _ = DIRECTORY.set(directory.clone());
        open(&directory, super::guc::ring_size(), slots())
    });
    let why = match made {
        Ok(made) => {
            MAPPED.store(Box::into_raw(Box::new(made)), Ordering::Relaxed);
            return Ok(());
        }
        Err(why) => why,
    };
    let message = format!(
        "audit_ext cannot make its ring in \"{}\" and records nothing: {why}",
        directory.display()
    );
    super::report::no_ring(message.clone(), ours);
    Err(message)
}

impl Mapped {
    /// Somebody has cut the file: to touch the mapping would be SIGBUS. What is left of it is put
    /// aside.
    fn was_cut(&self) -> bool {
        let cut = fs::fstat(&self.file).is_ok_and(|stat| stat.st_size < self.size as i64);
        if cut {
            MAPPED.store(core::ptr::null_mut(), Ordering::Relaxed);
            pgrx::warning!(
                "audit_ext: somebody cut the ring's file in \"{}\" while it was in use; it is put aside",
                directory().display()
            );
        }
        cut
    }
}

/// In-flight slots: one for each session that there can be, and as many for sessions that died in a
/// crash and are not yet told of.
fn slots() -> u32 {
    // SAFETY: set before shared memory is made.
    2 * unsafe { pg_sys::MaxBackends }.max(1) as u32
}

fn full_path(setting: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(setting));
    if path.is_absolute() {
        return path.to_path_buf();
    }
    // SAFETY: DataDir is set before shared memory is made.
    let data_dir = unsafe { raw::bytes(pg_sys::DataDir) };
    Path::new(OsStr::from_bytes(data_dir)).join(path)
}

fn open(directory: &Path, capacity: usize, slots: u32) -> Result<Mapped, String> {
    put_aside(directory)?;
    let made = create(directory, capacity, slots);
    if made.is_err() {
        // What was written of it would only fill the disk further.
        let _ = fs::unlink(directory.join(NEW));
    }
    made
}

/// Makes the directory, or refuses one that somebody else could have prepared.
fn prepare_directory(directory: &Path) -> Result<(), String> {
    match fs::mkdir(directory, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(format!("the directory cannot be made: {error}")),
    }
    let stat = fs::lstat(directory).map_err(|e| format!("the directory cannot be read: {e}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err("it is not a directory (a symbolic link is not accepted)".into());
    }
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        return Err(format!(
            "the directory belongs to user id {}, not to the server's {me}",
            stat.st_uid
        ));
    }
    fs::chmod(directory, Mode::RWXU).map_err(|e| format!("its mode cannot be set to 0700: {e}"))
}

/// Renames the ring of the last server run, so that the worker finds its records. One that nothing was put into
/// is removed: a standby, or a server without a home, makes one at each start, and nobody drains them there. But only
/// after a clean stop: a file that was never synced is as empty after a loss of the operating system.
fn put_aside(directory: &Path) -> Result<(), String> {
    let current = directory.join(CURRENT);
    let left = numbered(directory);
    let next = left.last().map_or(1, |(n, _)| n + 1);
    // Of what a ring left before it, the first transaction id of the run after its own decides: the first file
    // behind it that has one.
    let first_after = |mark| {
        let before = left.last().map(|(_, path)| unused(path));
        mark != 0 && before.is_some_and(|before| before.is_none_or(|mark| mark == 0))
    };
    let clean = directory.join(STOPPED_AT).exists();
    let done = match clean.then(|| unused(&current)).flatten() {
        Some(mark) if !first_after(mark) => fs::unlink(&current),
        _ => fs::rename(&current, directory.join(format!("{CURRENT}.{next}.old"))),
    };
    match done {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(format!("the old ring cannot be put aside: {error}")),
    }
}

/// The mark of a ring that has nothing to tell: no record was ever in it, none was dropped, and no session has left
/// its slot. (Its header alone proves nothing after a loss of the operating system.) `None`: it has, or it isn't
/// certain.
fn unused(path: &Path) -> Option<u64> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(fs::open(path, flags, Mode::empty()).ok()?);
    let len = file.metadata().ok()?.len();
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header).ok()?;
    let head = Leftover::check(&header, len)
        .ok()
        .filter(|head| head.unused)?;
    // Small: what the postmaster's stack has held its children hold, too.
    const BYTES: u64 = 4096;
    let mut piece = [0; BYTES as usize];
    for _ in 0..head.capacity / BYTES {
        file.read_exact(&mut piece).ok()?;
        if piece.iter().any(|byte| *byte != 0) {
            return None;
        }
    }
    let mut slot = [0; SLOT_LEN];
    for _ in 0..(len - HEADER_LEN as u64 - head.capacity) / SLOT_LEN as u64 {
        file.read_exact(&mut slot).ok()?;
        if !is_free(&slot) {
            return None;
        }
    }
    Some(head.mark)
}

/// The files `ring.<n>.old` in the order of n.
fn numbered(directory: &Path) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let n = name.to_str()?.strip_prefix("ring.")?.strip_suffix(".old")?;
            Some((n.parse().ok()?, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Writes a new ring full of zeros and maps it. Written, not sparse: a disk that is full shows here,
/// as an error, and not later as SIGBUS in somebody's statement.
fn create(directory: &Path, capacity: usize, slots: u32) -> Result<Mapped, String> {
    let temporary = directory.join(NEW);
    let size = HEADER_LEN + capacity + slots as usize * SLOT_LEN;
    let file = write_zeros(&temporary, size)
        .map_err(|e| format!("{size} bytes cannot be written to \"ring.new\": {e}"))?;
    // SAFETY: a new private mapping of a file that only this server uses; it is never unmapped.
    let memory = unsafe {
        rustix::mm::mmap(
            core::ptr::null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &file,
            0,
        )
    }
    .map_err(|e| format!("the file cannot be mapped: {e}"))?;
    // SAFETY: `memory` is `size` zeroed bytes, page-aligned, used by nobody else yet.
    let ring = unsafe { Ring::create_with_slots(memory.cast(), size, slots, random_id(), now()) }
        .map_err(|e| format!("the file cannot be formatted: {e}"))?;
    // With its header the file can be told from damage, whatever else of it reaches the disk.
    // SAFETY: does nothing with fsync = off; doesn't throw.
    if unsafe { raw::pg_fdatasync(file.as_raw_fd()) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(format!("\"ring.new\" cannot be synced: {error}"));
    }
    fs::rename(&temporary, directory.join(CURRENT))
        .map_err(|e| format!("\"ring.new\" cannot be renamed: {e}"))?;
    // A record is no safer than the name of its file.
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(directory, folder, Mode::empty())
        .and_then(|folder| fs::fsync(&folder))
        .map_err(|e| format!("the directory cannot be synced: {e}"))?;
    Ok(Mapped {
        ring,
        base: memory.cast(),
        file,
        size,
        // SAFETY: a number of the system's; doesn't throw.
        page: unsafe { raw::getpagesize() }.max(1) as usize,
    })
}

/// Where a small file in the ring's directory is. `Err`: this server has no directory.
fn note(name: &str) -> std::io::Result<PathBuf> {
    match directory() {
        none if none.as_os_str().is_empty() => Err(std::io::ErrorKind::NotFound.into()),
        directory => Ok(directory.join(name)),
    }
}

/// Writes a small file into the ring's directory, whole or not at all, and to the disk.
pub fn write_note(name: &str, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let new = note(&format!("{name}.new"))?;
    let _ = std::fs::remove_file(&new);
    // Made anew: nothing that somebody else put there is followed.
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, note(name)?)?;
    sync_directory()
}

/// What such a file says; `None`: there is none that can be read.
pub fn read_note(name: &str) -> Option<String> {
    std::fs::read_to_string(note(name).ok()?).ok()
}

/// Removes such a file, from the disk as well.
pub fn remove_note(name: &str) -> std::io::Result<()> {
    forget_note(name)?;
    sync_directory()
}

/// Removes such a file; it may be there again after a loss of the operating system.
pub fn forget_note(name: &str) -> std::io::Result<()> {
    std::fs::remove_file(note(name)?)
}

/// The names of the files in it are on the disk.
pub fn sync_directory() -> std::io::Result<()> {
    std::fs::File::open(directory())?.sync_all()
}

/// In small pieces: what Linux is given in one write it may keep as one large folio, and a folio is cleaned,
/// locked and protected against writing as a whole, so that each sync of a few records would stop those
/// who write elsewhere. Not page by page either: each process that is new meets the ring in faults,
/// and one fault maps what a folio has around it (measured: docs/performance.md).
fn write_zeros(path: &Path, size: usize) -> rustix::io::Result<OwnedFd> {
    const CHUNK: usize = PIECE as usize;
    match fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    static ZEROS: [u8; CHUNK] = [0; CHUNK]; // Not on the stack, which children would hold, too.
    let mut written = 0;
    while written < size {
        let n = (size - written).min(CHUNK);
        written += rustix::io::pwrite(&file, &ZEROS[..n], written as u64)?;
    }
    fs::fsync(&file)?;
    Ok(file)
}

/// 128 random bits: two rings never share an id, nor do copies of a data directory after a start.
fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    // SAFETY: fills exactly the given bytes; doesn't throw.
    let strong = unsafe { raw::pg_strong_random(id.as_mut_ptr().cast(), id.len()) };
    if !strong {
        id[..8].copy_from_slice(&now().to_le_bytes());
        id[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    }
    id
}

fn now() -> i64 {
    // SAFETY: reads the clock; doesn't throw.
    unsafe { raw::GetCurrentTimestamp() }
}
