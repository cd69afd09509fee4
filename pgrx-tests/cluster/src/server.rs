//! The server under test: its programs, its version, and one initdb that all clusters are copies of.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::{as_server, is_root, process_exists};

/// An installed PostgreSQL.
pub struct Server {
    pub bin: PathBuf,
    pub major: u32,
}

/// The server under test, as `AUDIT_TEST_PG_CONFIG` says; `AUDIT_TEST_MAJOR` is checked against it.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let pg_config = env::var("AUDIT_TEST_PG_CONFIG")
            .unwrap_or_else(|_| "/usr/lib/postgresql/15/bin/pg_config".into());
        let ask = |what: &str| {
            let output = Command::new(&pg_config)
                .arg(what)
                .output()
                .unwrap_or_else(|e| panic!("{pg_config}: {e}; run make setup"));
            String::from_utf8(output.stdout)
                .expect("text")
                .trim()
                .to_owned()
        };
        let version = ask("--version");
        let major = version
            .split_whitespace()
            .nth(1)
            .and_then(|number| number.split(|c: char| !c.is_ascii_digit()).next())
            .and_then(|major| major.parse().ok())
            .unwrap_or_else(|| panic!("{pg_config} says {version:?}"));
        if let Ok(expected) = env::var("AUDIT_TEST_MAJOR") {
            assert_eq!(expected, format!("{major}"), "major of {pg_config}");
        }
        let library = Path::new(&ask("--pkglibdir")).join("audit_ext.so");
        assert!(
            library.exists(),
            "{} is missing: run make install",
            library.display()
        );
        Server {
            bin: ask("--bindir").into(),
            major,
        }
    })
}

/// A fresh folder for one cluster, owned by the servers' user.
pub(crate) fn new_dir() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = base().join(format!("c{number}"));
    fs::create_dir(&dir).expect("folder of a cluster");
    give_to_server(&dir);
    dir
}

/// Copies the one initdb to `data`.
pub(crate) fn copy_template(data: &Path) {
    let done = as_server("cp")
        .args(["-a", "--reflink=auto"])
        .arg(template())
        .arg(data)
        .status()
        .expect("cp runs");
    assert!(done.success(), "copying the template cluster");
}

/// The folder of this test process. What earlier runs left there (failed tests keep theirs) goes.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let prefix = "audit_test.";
        // Not under target/: the servers' user may not be able to reach the checkout.
        let parent = env::var_os("AUDIT_TEST_DIR").map_or_else(env::temp_dir, PathBuf::from);
        for entry in fs::read_dir(&parent).expect("temporary folder").flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(prefix));
            if let Some(pid) = owner.and_then(|pid| pid.parse().ok())
                && !process_exists(pid)
            {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let base = parent.join(format!("{prefix}{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(&base).expect("folder of the test run");
        give_to_server(&base);
        base
    })
}

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let data = base().join("template");
        // Small segments: each cluster starts with a copy of one.
        let made = as_server(server().bin.join("initdb"))
            .args(["-N", "-U", "postgres", "-A", "trust", "-E", "UTF8"])
            .args(["--locale=C.UTF-8", "--wal-segsize=1", "-D"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        data
    })
}

fn give_to_server(dir: &Path) {
    if is_root() {
        let done = Command::new("chown").arg("postgres:").arg(dir).status();
        assert!(
            done.expect("chown runs").success(),
            "chown {}",
            dir.display()
        );
    }
}
