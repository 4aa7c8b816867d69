//! Whether the caller of a waiting request has been interrupted.
//!
//! fuser answers FUSE_INTERRUPT with ENOSYS, after which the kernel never sends it again, and a
//! process that waits for our answer cannot be killed before it has one. So requests that wait are
//! looked after from this side: the caller's pending signals stand in `/proc/TID/status`. A signal
//! that would end it, or that it wants to handle, is an interruption; the request is then
//! answered with EINTR, as on NFS, while the download goes on for whoever else wants it.
//!
//! A caller in a pid namespace that we cannot see has the number 0; such requests end by the time
//! limits of the network only.

use std::path::PathBuf;
use std::time::Duration;

use cvmfs_core::descriptors::is_out_of_descriptors;

/// Time between two looks: a reader shall end within a second of its Ctrl-C. Requests that take
/// less are never looked after.
pub(super) const POLL: Duration = Duration::from_millis(250);

/// Waits until the thread `tid` is interrupted; for ever if it cannot be seen.
pub(super) async fn interrupted(tid: u32) {
    if tid == 0 {
        return std::future::pending().await;
    }
    let path = PathBuf::from(format!("/proc/{tid}/status"));
    loop {
        tokio::time::sleep(POLL).await;
        // procfs answers from memory, so this is no blocking read.
        match std::fs::read_to_string(&path) {
            Ok(status) if has_pending_signal(&status) => return,
            Ok(_) => {}
            // Out of descriptors, which says nothing about the caller.
            Err(error) if is_out_of_descriptors(&error) => {}
            // Gone, which cannot be while it waits for us, or hidden: nobody to look after.
            Err(_) => return std::future::pending().await,
        }
    }
}

/// Tells whether a signal is pending that is neither blocked nor ignored (proc(5)).
fn has_pending_signal(status: &str) -> bool {
    let mask = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
            .unwrap_or(0)
    };
    let pending = mask("SigPnd") | mask("ShdPnd");
    let ignored_by_default = !mask("SigCgt") & HARMLESS;
    pending & !mask("SigBlk") & !mask("SigIgn") & !ignored_by_default != 0
}

/// SIGCHLD, SIGCONT, SIGURG and SIGWINCH: without a handler they do nothing (signal(7)).
const HARMLESS: u64 =
    bit(libc::SIGCHLD) | bit(libc::SIGCONT) | bit(libc::SIGURG) | bit(libc::SIGWINCH);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_signals_count() {
        let status = |thread: u64, process: u64, blocked: u64, ignored: u64, caught: u64| {
            format!(
                "Name:\tcat\nSigPnd:\t{thread:016x}\nShdPnd:\t{process:016x}\nSigBlk:\t{blocked:016x}\n\
                 SigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
            )
        };
        let (int, kill, child) = (bit(libc::SIGINT), bit(libc::SIGKILL), bit(libc::SIGCHLD));
        for (text, expected) in [
            (status(0, 0, 0, 0, 0), false),
            (status(kill, 0, 0, 0, 0), true),
            (status(0, int, 0, 0, 0), true),
            (status(0, int, 0, 0, int), true),
            (status(0, int, int, 0, 0), false),
            (status(0, int, 0, int, 0), false),
            (status(0, child, 0, 0, 0), false),
            (status(0, child, 0, 0, child), true),
            (String::new(), false),
        ] {
            assert_eq!(has_pending_signal(&text), expected, "{text}");
        }
    }
}
