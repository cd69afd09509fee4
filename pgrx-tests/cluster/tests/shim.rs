//! Libraries that are loaded into a server under test (LD_PRELOAD): they play what a test must not do
//! to the machine.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use audit_cluster_tests::Builder;

/// The library of `tests/<name>.c`.
pub fn library(name: &'static str) -> String {
    static MADE: Mutex<Option<HashMap<&'static str, PathBuf>>> = Mutex::new(None);
    let mut made = MADE.lock().expect("lock");
    let library = made.get_or_insert_default().entry(name).or_insert_with(|| {
        let file = format!("audit_{name}.{}.so", std::process::id());
        let library = std::env::temp_dir().join(file);
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{name}.c"));
        let made = Command::new("gcc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .expect("gcc runs: it is needed to play a fault of the machine");
        assert!(made.status.success(), "gcc: {made:?}");
        library
    });
    library.to_str().expect("a plain path").to_owned()
}

/// A file of the test's own, a new one at each call.
pub fn scratch_file(what: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("audit_{what}.{}.{number}", std::process::id()))
}

/// The clock of one server: the system's, and some seconds.
pub struct Clock {
    path: PathBuf,
    file: File,
}

impl Clock {
    pub fn new() -> Clock {
        let path = scratch_file("clock");
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(&path)
            .expect("a file");
        let clock = Clock { path, file };
        clock.set_ahead(0);
        clock
    }

    /// A server that goes by this clock.
    pub fn of(&self, server: Builder) -> Builder {
        server
            .env("LD_PRELOAD", &library("clock"))
            .env("CLOCK_AHEAD", self.path.to_str().expect("a plain path"))
    }

    /// From now on, everywhere in the server.
    pub fn set_ahead(&self, seconds: i64) {
        self.file
            .write_all_at(&seconds.to_ne_bytes(), 0)
            .expect("writes");
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
