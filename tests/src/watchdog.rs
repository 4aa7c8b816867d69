//! A hard limit for each test, also for one that hangs in the kernel.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::mountinfo::MountInfo;

/// Mounts of this process. Global, because a watchdog must end those of a test that it cannot
/// talk to.
static LIVE: Mutex<Vec<Live>> = Mutex::new(Vec::new());

struct Live {
    client: Pid,
    mountpoint: PathBuf,
}

/// Registers a mount that must not outlive the process.
pub(crate) fn register(client: Pid, mountpoint: &Path) {
    live().push(Live { client, mountpoint: mountpoint.to_owned() });
}

/// Forgets a mount that was ended.
pub(crate) fn forget(mountpoint: &Path) {
    live().retain(|live| live.mountpoint != mountpoint);
}

fn live() -> MutexGuard<'static, Vec<Live>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `test`; if it takes longer than `limit`, ends all mounts and the process.
///
/// A thread that waits for a FUSE answer cannot be stopped politely, so nothing less is sure to
/// end a hanging test.
pub fn deadline<T>(limit: Duration, test: impl FnOnce() -> T) -> T {
    let (done, ended) = mpsc::channel();
    let watchdog = std::thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                give_up(limit);
            }
        })
        .expect("a thread can be started");
    let result = catch_unwind(AssertUnwindSafe(test));
    // Fails only if the watchdog is gone, and with it the process.
    let _ = done.send(());
    let _ = watchdog.join();
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

#[allow(clippy::print_stderr, reason = "the last words of a test that hangs")]
fn give_up(limit: Duration) {
    eprintln!("test hangs: not done after {limit:?}; ending its mounts and the process");
    for live in live().iter() {
        eprintln!("  {} by process {}", live.mountpoint.display(), live.client);
        // Each of these may fail because another one has done the work.
        if let Some(info) = MountInfo::of(&live.mountpoint) {
            let _ = info.abort();
        }
        let _ = kill(live.client, Signal::SIGKILL);
        let _ = umount2(&live.mountpoint, MntFlags::MNT_DETACH);
    }
    end_processes_of_this_test();
    close_own_connections();
    std::process::abort();
}

/// What nextest tells each attempt of a test, and what the processes that it starts inherit.
const ATTEMPT: &str = "NEXTEST_ATTEMPT_ID";

/// Kills the servers of mounts that nobody registered, such as those of background processes: a thread of ours that
/// waits for one of them could not be killed.
#[allow(clippy::print_stderr, reason = "the last words of a test that hangs")]
fn end_processes_of_this_test() {
    let Some(attempt) = std::env::var_os(ATTEMPT) else { return };
    let marker = [ATTEMPT.as_bytes(), b"=", attempt.as_encoded_bytes()].concat();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_of_this_test = environment.split(|byte| *byte == 0).any(|line| line == marker);
        if is_of_this_test && pid.cast_unsigned() != std::process::id() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            eprintln!("  process {pid} is ended: {}", command.escape_ascii());
            // It may end by itself in this moment.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Ends the connections that this process itself has to the kernel: a thread that waits for an answer keeps them open,
/// and with them itself.
fn close_own_connections() {
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let is_connection =
            std::fs::read_link(entry.path()).is_ok_and(|target| target == Path::new("/dev/fuse"));
        let name = entry.file_name();
        if is_connection
            && let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok())
        {
            let _ = nix::unistd::close(number);
        }
    }
}

/// Runs `work` on a thread of its own; `None` where it takes longer than `limit`.
///
/// The thread then stays behind until the kernel lets it go.
pub fn bounded<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("bounded".to_owned())
        .spawn(move || {
            // Fails where nobody waits any more.
            let _ = sender.send(work());
        })
        .expect("a thread can be started");
    receiver.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_panics_pass() {
        assert_eq!(deadline(Duration::from_secs(60), || 7), 7);
        let panic = catch_unwind(|| deadline(Duration::from_secs(60), || panic!("on purpose")));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
    }

    #[test]
    fn bounded_work() {
        assert_eq!(bounded(Duration::from_secs(60), || 7), Some(7));
        let (_keep, never) = mpsc::channel::<()>();
        assert_eq!(bounded(Duration::from_millis(1), move || never.recv().is_ok()), None);
    }
}
