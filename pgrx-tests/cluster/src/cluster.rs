//! One cluster: made, started, stopped, killed, asked.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};

use crate::process::{as_server, kill, spawn};
use crate::psql::Psql;
use crate::server::{copy_template, new_dir, server};

/// The database of the extension; [`Cluster::trail`] shows what happened in [`APP`].
pub(crate) const HOME: &str = "postgres";
pub(crate) const APP: &str = "app";

/// How a server is told to stop.
#[derive(Clone, Copy, Debug)]
pub enum Shutdown {
    Smart,
    Fast,
    Immediate,
}

/// What a cluster is like; the default is audited, not durable, with a database `app`.
pub struct Builder {
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    preload: bool,
    extension: bool,
}

pub struct Cluster {
    dir: PathBuf,
    port: Port,
    environment: Vec<(String, String)>,
    postmaster: Mutex<Option<Child>>,
}

impl Builder {
    /// A line for postgresql.conf; the value as it would stand there (quoted where needed).
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// A variable of the server's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Leaves the library out of shared_preload_libraries (and so CREATE EXTENSION out).
    pub fn without_library(mut self) -> Self {
        self.preload = false;
        self.extension = false;
        self
    }

    /// Leaves CREATE EXTENSION out.
    pub fn without_extension(mut self) -> Self {
        self.extension = false;
        self
    }

    /// Syncs as in production: for tests that kill servers.
    pub fn durable(self) -> Self {
        self.setting("fsync", "on")
    }

    /// Starts it; panics with the server's log if that fails.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let extension = self.extension;
        let cluster = self
            .try_start()
            .unwrap_or_else(|log| panic!("server did not start:\n{log}"));
        let mut script = format!("CREATE DATABASE {APP};");
        if extension {
            script.push_str("CREATE EXTENSION audit_ext;");
        }
        let made = cluster
            .psql()
            .db(HOME)
            .arg("-v")
            .arg("ON_ERROR_STOP=1")
            .run(script);
        assert_eq!(
            made.code,
            0,
            "preparing the cluster: {made:?}\n{}",
            cluster.log()
        );
        cluster
    }

    /// Starts the bare server; the error is the server's log.
    pub fn try_start(self) -> Result<Cluster, String> {
        let dir = new_dir();
        let cluster = Cluster {
            port: Port::take(),
            environment: self.environment.clone(),
            postmaster: Mutex::new(None),
            dir,
        };
        copy_template(&cluster.data_dir());
        let mut conf = fs::read_to_string(cluster.conf()).expect("postgresql.conf");
        let socket = cluster.dir.display().to_string();
        let fixed = [
            ("port", cluster.port.number.to_string()),
            ("listen_addresses", "'127.0.0.1'".into()),
            ("unix_socket_directories", format!("'{socket}'")),
            ("fsync", "off".into()),
            ("max_connections", "50".into()),
            ("shared_buffers", "'16MB'".into()),
            ("log_line_prefix", "'%m [%p] %q%u@%d '".into()),
            ("lc_messages", "'C'".into()),
        ];
        for (name, value) in fixed {
            conf.push_str(&format!("{name} = {value}\n"));
        }
        if self.preload {
            conf.push_str("shared_preload_libraries = 'audit_ext'\n");
        }
        for (name, value) in &self.settings {
            conf.push_str(&format!("{name} = {value}\n"));
        }
        fs::write(cluster.conf(), conf).expect("postgresql.conf");
        match cluster.try_start_server() {
            Ok(()) => Ok(cluster),
            Err(log) => Err(log),
        }
    }
}

impl Cluster {
    pub fn builder() -> Builder {
        Builder {
            settings: Vec::new(),
            environment: Vec::new(),
            preload: true,
            extension: true,
        }
    }

    /// An audited cluster: home in `postgres`, the tests' own statements in `app`.
    #[track_caller]
    pub fn start() -> Cluster {
        Self::builder().start()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Where its unix socket is (PGHOST).
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// All that the server has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Appends to postgresql.conf; takes effect with [`Cluster::reload`] or a restart.
    pub fn configure(&self, name: &str, value: &str) {
        let mut conf = fs::read_to_string(self.conf()).expect("postgresql.conf");
        conf.push_str(&format!("{name} = {value}\n"));
        fs::write(self.conf(), conf).expect("postgresql.conf");
    }

    pub fn reload(&self) {
        assert!(kill(self.postmaster_pid(), "HUP"));
        // The postmaster hands it on; there is nothing to wait for but time.
        thread::sleep(Duration::from_millis(300));
    }

    pub fn postmaster_pid(&self) -> u32 {
        let postmaster = self.postmaster.lock().expect("lock");
        postmaster.as_ref().expect("the server runs").id()
    }

    /// Starts a stopped server; panics with its log if that fails.
    #[track_caller]
    pub fn start_again(&self) {
        self.try_start_server()
            .unwrap_or_else(|log| panic!("server did not start:\n{log}"));
    }

    /// Stops it and waits for its end.
    #[track_caller]
    pub fn stop(&self, how: Shutdown) {
        let signal = match how {
            Shutdown::Smart => "TERM",
            Shutdown::Fast => "INT",
            Shutdown::Immediate => "QUIT",
        };
        self.end_postmaster(signal, Duration::from_secs(60));
    }

    #[track_caller]
    pub fn restart(&self, how: Shutdown) {
        self.stop(how);
        self.start_again();
    }

    /// The server runs without the library while `work` is done, stopped cleanly before and after.
    #[track_caller]
    pub fn without_library(&self, work: impl FnOnce()) {
        self.configure("shared_preload_libraries", "''");
        self.restart(Shutdown::Fast);
        work();
        self.configure("shared_preload_libraries", "'audit_ext'");
        self.restart(Shutdown::Fast);
    }

    /// SIGKILL to the postmaster, and to nothing else; waits until its children have noticed.
    #[track_caller]
    pub fn kill_postmaster(&self) {
        let children = crate::children(self.postmaster_pid());
        self.end_postmaster("KILL", Duration::from_secs(10));
        crate::eventually("the children of a killed postmaster end", || {
            !children.iter().any(|pid| crate::process_exists(*pid))
        });
    }

    /// SIGKILL to everybody at once, as when a container is stopped or the machine is switched off.
    #[track_caller]
    pub fn kill_all(&self) {
        // The postmaster must not start anybody in the place of those who die first.
        let postmaster = self.postmaster_pid();
        assert!(kill(postmaster, "STOP"));
        for pid in crate::children(postmaster) {
            kill(pid, "KILL");
        }
        self.kill_postmaster();
    }

    /// SIGKILL to one of the server's children that the postmaster restarts everything for; waits
    /// until the crash restart is over. False if there was no such process.
    #[track_caller]
    pub fn kill_child(&self, pid: u32) -> bool {
        let ready = || self.log().matches("is ready to accept connections").count();
        let before = ready();
        if !kill(pid, "KILL") {
            return false;
        }
        crate::eventually("the crash restart is over", || ready() > before);
        true
    }

    /// psql as postgres in `app` over the unix socket, unless told otherwise.
    pub fn psql(&self) -> Psql {
        Psql::new(&self.dir, self.port.number)
    }

    /// One of the server's programs (`pgbench`, `pg_dump`, …) set up to connect as `psql()` does.
    pub fn program(&self, name: &str) -> std::process::Command {
        let mut command = std::process::Command::new(server().bin.join(name));
        command
            .env("PGHOST", &self.dir)
            .env("PGPORT", self.port.number.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", APP)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// The settings of a connection over the unix socket, for what [`Cluster::connect`] leaves out.
    pub fn config(&self, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.dir)
            .port(self.port.number)
            .user(user)
            .dbname(database);
        config
    }

    #[track_caller]
    pub fn connect(&self, user: &str, database: &str) -> Client {
        self.config(user, database)
            .connect(NoTls)
            .unwrap_or_else(|e| panic!("connecting as {user} to {database}: {e:?}\n{}", self.log()))
    }

    /// A connection to `app` as postgres.
    #[track_caller]
    pub fn app(&self) -> Client {
        self.connect("postgres", APP)
    }

    /// The pid of the extension's worker, if it runs.
    pub fn worker_pid(&self) -> Option<u32> {
        self.query(
            HOME,
            "SELECT pid FROM pg_stat_activity WHERE backend_type ~ 'audit' ORDER BY backend_start",
        )
        .first()
        .map(|pid| pid.parse().expect("a pid"))
    }

    /// A copy of its data directory, taken while it runs, with a port of its own; not started. As a
    /// standby it follows this server.
    #[track_caller]
    pub fn base_backup(&self, standby: bool) -> Cluster {
        let dir = new_dir();
        let copy = Cluster {
            port: Port::take(),
            environment: Vec::new(),
            postmaster: Mutex::new(None),
            dir,
        };
        let mut command = as_server(server().bin.join("pg_basebackup"));
        command
            .args(["-c", "fast", "-X", "stream", "-U", "postgres", "-D"])
            .arg(copy.data_dir())
            .arg("-h")
            .arg(&self.dir)
            .args(["-p", &self.port.number.to_string()]);
        let made = command.output().expect("pg_basebackup runs");
        assert!(made.status.success(), "{made:?}\n{}", self.log());
        copy.settle(standby.then_some(self));
        copy
    }

    /// Makes this stopped server a standby of `source` by pg_rewind.
    #[track_caller]
    pub fn rewind_to(&self, source: &Cluster) {
        let connection = format!(
            "host={} port={} user=postgres dbname=postgres",
            source.dir.display(),
            source.port.number
        );
        let mut command = as_server(server().bin.join("pg_rewind"));
        command
            .args(["--source-server", &connection, "-D"])
            .arg(self.data_dir());
        let done = command.output().expect("pg_rewind runs");
        assert!(done.status.success(), "{done:?}");
        self.settle(Some(source));
    }

    /// Has this stopped server's pages checksummed, or not: what is the default depends on the major.
    #[track_caller]
    pub fn set_checksums(&self, on: bool) {
        let how = if on { "--enable" } else { "--disable" };
        let done = as_server(server().bin.join("pg_checksums"))
            .args([how, "--no-sync", "-D"])
            .arg(self.data_dir())
            .output()
            .expect("pg_checksums runs");
        let complaint = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success() || complaint.contains("already"),
            "{done:?}"
        );
    }

    /// Own port and socket; a standby of `primary`.
    fn settle(&self, primary: Option<&Cluster>) {
        self.configure("port", &self.port.number.to_string());
        self.configure(
            "unix_socket_directories",
            &format!("'{}'", self.dir.display()),
        );
        if let Some(primary) = primary {
            self.configure(
                "primary_conninfo",
                &format!(
                    "'host={} port={} user=postgres'",
                    primary.dir.display(),
                    primary.port.number
                ),
            );
            fs::write(self.data_dir().join("standby.signal"), "").expect("standby.signal");
        }
    }

    /// Stops the worker (SIGSTOP) where it waits for something to do: stopped anywhere else it might
    /// keep one of the server's own locks, and everybody with it. SIGCONT wakes it up.
    #[track_caller]
    pub fn suspend_worker(&self) -> u32 {
        self.flush();
        let worker = self.worker_pid().expect("the worker runs");
        crate::eventually("the worker is idle", || {
            // What the question above left to do is done after the flush interval.
            thread::sleep(Duration::from_millis(500));
            assert!(kill(worker, "STOP"));
            let call = fs::read_to_string(format!("/proc/{worker}/syscall")).unwrap_or_default();
            // epoll_wait, epoll_pwait
            let waits = ["232 ", "281 ", "22 "].iter().any(|n| call.starts_with(n));
            if !waits {
                kill(worker, "CONT");
            }
            waits
        });
        worker
    }

    fn conf(&self) -> PathBuf {
        self.data_dir().join("postgresql.conf")
    }

    fn try_start_server(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let before = self.log().len();
            let mut child = self.spawn_postmaster();
            loop {
                if self.config("postgres", HOME).connect(NoTls).is_ok() {
                    *self.postmaster.lock().expect("lock") = Some(child);
                    return Ok(());
                }
                let ended = child.try_wait().expect("our child").is_some();
                let log = self.log()[before..].to_owned();
                // What a killed server left dies within moments: ask again until it has.
                if ended && log.contains("is still in use") && Instant::now() < deadline {
                    break;
                }
                if ended || Instant::now() > deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(log);
                }
                thread::sleep(Duration::from_millis(20));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn spawn_postmaster(&self) -> Child {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .expect("the server's log");
        let mut command = as_server(server().bin.join("postgres"));
        command
            .arg("-D")
            .arg(self.data_dir())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the server's log"))
            .stderr(log);
        spawn(command).expect("setpriv runs")
    }

    #[track_caller]
    fn end_postmaster(&self, signal: &str, timeout: Duration) {
        let mut child = self
            .postmaster
            .lock()
            .expect("lock")
            .take()
            .expect("the server runs");
        kill(child.id(), signal);
        let deadline = Instant::now() + timeout;
        while child.try_wait().expect("our child").is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!(
                    "the server did not end on SIG{signal} within {timeout:?}:\n{}",
                    self.log()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let child = self.postmaster.get_mut().ok().and_then(Option::take);
        if let Some(mut child) = child {
            kill(child.id(), "QUIT");
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            eprintln!(
                "cluster kept in {}; the end of its log:",
                self.dir.display()
            );
            tail.iter().rev().for_each(|line| eprintln!("    {line}"));
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A port that no other cluster uses, of this test process or another, while the value lives.
struct Port {
    number: u16,
    /// Locked.
    _taken: File,
}

impl Port {
    fn take() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let dir = std::env::temp_dir().join("audit_test_ports");
        let _ = fs::create_dir(&dir);
        let start = std::process::id() as u16 % 10_000;
        loop {
            // Below those that the kernel gives to clients.
            let number = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
            let taken = File::create(dir.join(number.to_string())).expect("a file");
            if taken.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Port {
                    number,
                    _taken: taken,
                };
            }
        }
    }
}
