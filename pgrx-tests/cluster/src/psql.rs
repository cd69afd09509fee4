//! psql against a cluster: what a person at a terminal would type and see.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use crate::server::server;

/// A psql call in the making; `run` or `command` does it.
pub struct Psql {
    command: Command,
}

/// What psql left.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Psql {
    pub(crate) fn new(socket_dir: &std::path::Path, port: u16) -> Self {
        let mut command = Command::new(server().bin.join("psql"));
        command
            .args(["-X", "-q", "-A", "-t"])
            .env("PGHOST", socket_dir)
            .env("PGPORT", port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "app")
            .env("PGCLIENTENCODING", "UTF8")
            .env("LC_ALL", "C")
            .env_remove("PGOPTIONS")
            .env_remove("PGAPPNAME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Psql { command }
    }

    pub fn user(self, user: &str) -> Self {
        self.env("PGUSER", user)
    }

    pub fn db(self, database: &str) -> Self {
        self.env("PGDATABASE", database)
    }

    /// Connects over TCP instead of the unix socket.
    pub fn tcp(self) -> Self {
        self.env("PGHOST", "127.0.0.1")
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    /// Runs a script: statement after statement, as from a file; errors don't stop it.
    pub fn run(self, script: impl AsRef<[u8]>) -> Output {
        self.finish(script.as_ref())
    }

    /// Sends the whole string as one simple query, as `psql -c` does.
    pub fn command(self, string: &str) -> Output {
        self.arg("-c").arg(string).finish(b"")
    }

    /// Runs a script file of psql's in the background-free way of [`Psql::run`], from a path.
    pub fn file(self, path: PathBuf) -> Output {
        self.arg("-f")
            .arg(path.to_str().expect("a plain path"))
            .finish(b"")
    }

    /// What a script prints, byte by byte.
    #[track_caller]
    pub fn bytes(self, script: &str) -> Vec<u8> {
        let output = self.output(script.as_bytes());
        assert!(output.status.success(), "psql: {output:?}");
        output.stdout
    }

    fn finish(self, input: &[u8]) -> Output {
        let output = self.output(input);
        Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    fn output(mut self, input: &[u8]) -> std::process::Output {
        let mut child = self.command.spawn().expect("psql runs");
        let mut stdin = child.stdin.take().expect("piped");
        // From a thread of its own: a large script and a large output must not wait for each other.
        thread::scope(|scope| {
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().expect("psql ends")
        })
    }
}

impl Output {
    /// What it printed; panics where anything, a notice included, went to stderr.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0 && self.stderr.is_empty(), "psql: {self:?}");
        self.stdout
    }

    /// Its complaints; panics where there are none of severity ERROR or FATAL.
    #[track_caller]
    pub fn error(self) -> String {
        assert!(
            self.stderr.contains("ERROR:") || self.stderr.contains("FATAL:"),
            "expected an error: {self:?}"
        );
        self.stderr
    }
}
