//! How the system shares the processors between our processes and everybody's sessions.

/// Lets whoever wakes up run before this process goes on, instead of after its turn of some milliseconds.
/// Over time it gets as much as any other: its turns are longer, and so can wait. Never throws.
///
/// A session's statement takes some dozens of microseconds, a batch of the worker's some milliseconds: a
/// statement that has to wait for one is among the slow ones (docs/performance.md).
#[cfg(target_os = "linux")]
pub fn give_way() {
    /// The longest turn that the system gives, in nanoseconds.
    const TURN: u64 = 100_000_000;
    const THIS_PROCESS: libc::pid_t = 0;
    if is_filtered() {
        return;
    }
    // SAFETY: all fields are numbers.
    let mut attributes: libc::sched_attr = unsafe { core::mem::zeroed() };
    let size = size_of_val(&attributes) as u32;
    // SAFETY: fills at most `size` bytes; doesn't throw.
    let known = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            THIS_PROCESS,
            &raw mut attributes,
            size,
            0u32,
        )
    };
    let usual = [libc::SCHED_OTHER as u32, libc::SCHED_BATCH as u32];
    if known != 0 || !usual.contains(&attributes.sched_policy) {
        return; // What an administrator gave it stays.
    }
    attributes.size = size;
    attributes.sched_runtime = TURN;
    // SAFETY: reads the struct; doesn't throw. Linux before 6.12 knows no turns of different lengths, and
    // does nothing.
    unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            THIS_PROCESS,
            &raw const attributes,
            0u32,
        )
    };
}

/// Whether somebody has limited what this process may ask the system for (containers, services with
/// `SystemCallFilter`): a call that is not expected can be its end, and the server would start again and again.
#[cfg(target_os = "linux")]
fn is_filtered() -> bool {
    std::fs::read_to_string("/proc/self/status").map_or(true, |status| {
        let mode = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp:"));
        mode.is_some_and(|mode| mode.trim() != "0")
    })
}

/// Elsewhere the system decides alone.
#[cfg(not(target_os = "linux"))]
pub fn give_way() {}
