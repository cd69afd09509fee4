//! Processes: started as the servers' user, bound to the life of the test, killed by pid.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// PostgreSQL refuses to run as root: then everything of the server's runs as user postgres.
pub(crate) fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0))
}

/// A command that runs as the servers' user, and dies with the thread that spawned it: SIGQUIT is
/// an immediate shutdown to a postmaster, so a test that is killed leaves no server behind.
pub(crate) fn as_server(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command
        .args(["--pdeathsig=QUIT", "--"])
        .arg(program.as_ref())
        .env("LC_ALL", "C")
        .env_remove("PGOPTIONS")
        .current_dir("/");
    command
}

/// Spawns from a thread that lives as long as the test process (see [`as_server`]).
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    type Job = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    let (reply, answer) = channel();
    spawner.send((command, reply)).expect("spawner thread");
    answer.recv().expect("spawner thread")
}

/// Sends a signal (`"KILL"`, `"STOP"`, …) to one process. False if there is none of that pid.
pub fn kill(pid: u32, signal: &str) -> bool {
    Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .output()
        .expect("kill runs")
        .status
        .success()
}

/// Whether the process exists and is no zombie.
pub fn process_exists(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat[stat.rfind(')').unwrap_or(0)..].starts_with(") Z"))
}

/// The pids of a process's children.
pub fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .map(|pid| pid.parse().expect("a pid"))
        .collect()
}

/// How often a process gave up the CPU to wait: it grows by one per wake-up.
pub fn voluntary_switches(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .expect("the process runs")
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .expect("Linux tells")
        .trim()
        .parse()
        .expect("a number")
}
