//! The key that signs checkpoints (`audit.key_file`), and the file of published checkpoints.
//!
//! The key file holds one line in the form of golang.org/x/mod/sumdb/note:
//! `PRIVATE+KEY+<name>+<id>+<base64 of 1 and the 32 secret bytes>`.

use crate::pg::spi::query;
use crate::pg::{guc, random, raw};
use audit_core::note::{Signing, Verifying};
use pgrx::pg_sys;
use rustix::fs::{self, Mode, OFlags};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Name of the file of published checkpoints, in the ring's directory.
const CHECKPOINTS: &str = "checkpoints";
/// Longest key file.
const MOST: u64 = 4096;

/// A path of a setting: relative to the data directory unless absolute.
pub fn full_path(setting: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(setting));
    if path.is_absolute() {
        return path.to_path_buf();
    }
    data_directory().join(path)
}

fn data_directory() -> &'static Path {
    // SAFETY: set before anything of ours runs.
    Path::new(OsStr::from_bytes(unsafe { raw::bytes(pg_sys::DataDir) }))
}

/// `audit.key_file` in full.
pub fn key_path() -> PathBuf {
    full_path(guc::key_file())
}

/// Whether the key lies in the data directory, so that a copy of this brings the key along.
pub fn key_is_copied_along() -> bool {
    key_path().starts_with(data_directory())
}

/// The file that the worker appends checkpoints to.
pub fn checkpoints_path() -> PathBuf {
    full_path(guc::ring_directory()).join(CHECKPOINTS)
}

/// What the file of checkpoints holds; nothing where it isn't there.
pub fn checkpoints_file() -> String {
    let bytes = std::fs::read(checkpoints_path()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads the key. `Ok(None)`: there is none yet. `Err`: why it is refused, with what to do.
pub fn load() -> Result<Option<Signing>, String> {
    load_from(&key_path())
}

fn load_from(path: &Path) -> Result<Option<Signing>, String> {
    let refuse = |why: String| Err(format!("the signing key \"{}\" {why}", path.display()));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return refuse(format!("cannot be opened: {error}")),
    };
    let stat = match fs::fstat(&file) {
        Ok(stat) => stat,
        Err(error) => return refuse(format!("cannot be read: {error}")),
    };
    let me = rustix::process::geteuid().as_raw();
    if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::RegularFile {
        return refuse("is not a plain file".into());
    }
    if stat.st_uid != me {
        return refuse(format!(
            "belongs to user id {}, not to the server's {me}; give it to the server's user",
            stat.st_uid
        ));
    }
    if stat.st_mode & 0o077 != 0 {
        return refuse(format!(
            "can be read or written by others (mode {:04o}); set its mode to 0600",
            stat.st_mode & 0o7777
        ));
    }
    let mut text = String::new();
    let read = std::fs::File::from(file)
        .take(MOST)
        .read_to_string(&mut text);
    if let Err(error) = read {
        return refuse(format!("cannot be read: {error}"));
    }
    match Signing::parse(&text) {
        Ok(key) => Ok(Some(key)),
        Err(error) => refuse(format!(
            "is no key: {error}; restore it, or move it away to have a new one made"
        )),
    }
}

/// Where a key waits that is to take the place of another.
fn next_path() -> PathBuf {
    let mut path = key_path().into_os_string();
    path.push(".new");
    path.into()
}

/// Makes a key and writes it beside the one that may be there; [`put_in_place`] is for when the trail
/// tells of it. Throws where the system has no random bytes.
pub fn create(name: &str) -> Result<Signing, String> {
    let mut secret = [0; 32];
    random::fill(&mut secret);
    let key = Signing::new(name, &secret);
    write(&next_path(), &key.private_text(&secret)).map_err(cannot_be_made)?;
    Ok(key)
}

/// The key of the last [`create`] is the one to sign with from now on.
pub fn put_in_place() -> Result<(), String> {
    let path = key_path();
    std::fs::rename(next_path(), &path)
        .and_then(|()| std::fs::File::open(folder(&path))?.sync_all())
        .map_err(cannot_be_made)
}

/// Does what a process has not come to that was killed between the event that tells of a new key,
/// which is `newest`, and [`put_in_place`].
pub fn put_told_in_place(newest: &Verifying) -> Result<(), String> {
    match load_from(&next_path()) {
        Ok(Some(next)) if next.public() == *newest => put_in_place(),
        _ => Ok(()),
    }
}

fn cannot_be_made(error: std::io::Error) -> String {
    let path = key_path();
    format!(
        "the signing key \"{}\" cannot be made: {error}",
        path.display()
    )
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    match fs::mkdir(folder(path), Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let _ = std::fs::remove_file(path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::fs::File::from(file);
    writeln!(file, "{text}")?;
    file.sync_all()?;
    std::fs::File::open(folder(path))?.sync_all()
}

/// Appends a note to the file of checkpoints, and flushes it.
pub fn append_checkpoint(note: &str) -> std::io::Result<()> {
    let path = checkpoints_path();
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::fs::File::from(file);
    // One call, so that a crash leaves at most one note unfinished; readers leave that out.
    file.write_all(format!("{note}\n").as_bytes())?;
    file.sync_all()
}

/// Public keys that KEY events tell of, the newest first. Throws; inside an SPI connection.
pub fn known() -> Vec<Verifying> {
    let mut keys = Vec::new();
    query(
        "SELECT details ->> 'key' FROM audit.origin WHERE command = 'KEY' ORDER BY seq DESC",
        |row| keys.extend(row.text(1).and_then(|text| Verifying::parse(&text).ok())),
    );
    keys
}
