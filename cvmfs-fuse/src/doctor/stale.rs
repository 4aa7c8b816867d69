//! Mounts whose server is dead or does not answer.
//!
//! Asking such a mount can hang, in a state where not even SIGKILL ends the caller. So each mount
//! is asked by a child process, which is left behind if it hangs: a thread of ours would keep this
//! process from ending.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Finding;
use crate::cli::exit::ExitStatus;
use crate::cli::shell::quote;
use crate::fuse::mountinfo::{self, MountEntry, is_dead, show};

const CHECK: &str = "mounts";
/// Longest time for all mounts together; a slow network is no reason to doubt a mount, as only
/// the server itself is asked.
const LIMIT: Duration = Duration::from_secs(3);
/// How often children are looked at.
const PAUSE: Duration = Duration::from_millis(10);
/// Mounts asked, each by a child: a node with more of them has other sorrows.
const MAX_MOUNTS: usize = 256;

/// What a mount answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    Dead,
    Silent,
}

/// Asks every FUSE mount that this process sees.
pub(super) fn check() -> Vec<Finding> {
    // That the table cannot be read is told by the check of the propagation.
    let mut mounts = mountinfo::all().unwrap_or_default();
    mounts.retain(MountEntry::is_fuse);
    mounts.truncate(MAX_MOUNTS);
    let states = ask(&mounts);
    let alive = states.iter().filter(|state| **state == State::Alive).count();
    let mut findings: Vec<_> =
        mounts.iter().zip(states).filter_map(|(mount, state)| assess(mount, state)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{alive} FUSE mounts, all answer")));
    }
    findings
}

fn assess(mount: &MountEntry, state: State) -> Option<Finding> {
    let path = show(&mount.mountpoint);
    let quoted = quote(&path);
    match state {
        State::Alive => None,
        State::Dead => Some(
            Finding::problem(CHECK, format!("{path}: its server is dead (ENOTCONN)")).fix(format!(
                "cvmfs-fuse umount --lazy {quoted}; if refused, as root: umount -l {quoted}"
            )),
        ),
        State::Silent => {
            let message = format!("{path}: its server did not answer within {} s", LIMIT.as_secs());
            // The minor number of the device is the number of the connection.
            let connection = mount.device.minor;
            Some(Finding::problem(CHECK, message).fix(format!(
                "as root, which ends it for all its users: echo 1 > \
                 /sys/fs/fuse/connections/{connection}/abort && umount -l {quoted}"
            )))
        }
    }
}

fn ask(mounts: &[MountEntry]) -> Vec<State> {
    let mut children: Vec<_> = mounts.iter().map(|mount| start(&mount.mountpoint).ok()).collect();
    let deadline = Instant::now() + LIMIT;
    let mut states = vec![None; children.len()];
    loop {
        for (child, state) in children.iter_mut().zip(&mut states) {
            if state.is_none() {
                *state = answer(child.as_mut());
            }
        }
        let waiting = states.iter().any(Option::is_none);
        if !waiting || Instant::now() >= deadline {
            break;
        }
        // Waiting for several children at once needs SIGCHLD, which belongs to the whole process.
        #[allow(
            clippy::disallowed_methods,
            reason = "between looks at the condition, with a deadline"
        )]
        std::thread::sleep(PAUSE);
    }
    for (child, state) in children.iter_mut().zip(&states) {
        if let (Some(child), None) = (child, state) {
            // It may not end even so; nobody waits for it.
            let _ = child.kill();
        }
    }
    states.into_iter().map(|state| state.unwrap_or(State::Silent)).collect()
}

fn start(mountpoint: &Path) -> io::Result<Child> {
    // Nothing of ours: whoever reads our output must not wait for a child that hangs.
    Command::new("/proc/self/exe")
        .args(["doctor", "--probe"])
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()
}

/// A mount that could not be asked, as without /dev/null, is not called dead.
fn answer(child: Option<&mut Child>) -> Option<State> {
    let Some(child) = child else { return Some(State::Alive) };
    match child.try_wait() {
        Ok(None) => None,
        Ok(Some(status)) if status.code() == Some(ExitStatus::Unknown.code().into()) => {
            Some(State::Dead)
        }
        Ok(Some(_)) | Err(_) => Some(State::Alive),
    }
}

/// The child: asks for the figures of the file system, which no cache of the kernel answers.
pub(super) fn probe(path: &Path) -> ExitStatus {
    match rustix::fs::statfs(path) {
        Err(errno) if is_dead(&io::Error::from(errno)) => ExitStatus::Unknown,
        _ => ExitStatus::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_and_silent_mounts_have_their_fixes() {
        let table = b"9 1 0:77 / /a\\040b ro - fuse cvmfs ro\n10 1 0:78 / /c ro - fuse.x y ro";
        let mounts = mountinfo::parse(table);
        let dead = assess(&mounts[0], State::Dead).unwrap();
        assert!(dead.fix.unwrap().starts_with("cvmfs-fuse umount --lazy '/a b'"));
        let silent = assess(&mounts[1], State::Silent).unwrap();
        assert!(silent.fix.unwrap().contains("connections/78/abort && umount -l /c"));
        assert_eq!(assess(&mounts[0], State::Alive), None);
    }

    #[test]
    fn what_is_no_mount_is_not_dead() {
        assert_eq!(probe(Path::new("/proc")), ExitStatus::Ok);
        assert_eq!(probe(Path::new("/nonexistent")), ExitStatus::Ok);
    }
}
