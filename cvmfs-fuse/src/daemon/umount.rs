//! Unmounting from outside.

use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::mountpoint::{Answer, answer, attribute};
use crate::cli::exit::{ExitStatus, Failure};
use crate::fuse::mount::{self, UnmountError};
use crate::fuse::mountinfo::{self, show};

/// How long the server may take to end; longer than its own limit for an orderly stop.
const END_DEADLINE: Duration = Duration::from_secs(15);
/// Users of a busy mount that are named.
const MAX_NAMED_USERS: usize = 5;

/// Unmounts a repository and waits (bounded) until its server has ended, so that the next mount
/// finds cache and directory unused. `lazy` detaches also a mount in use; its server then ends
/// with the last user, and is not waited for.
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), Failure> {
    let name = show(mountpoint);
    let fail = |why: &str| Failure::new(ExitStatus::Unknown, format!("{name}: {why}"));
    let resolved = mountinfo::resolve(mountpoint)
        .map_err(|error| Failure::caused(ExitStatus::Unknown, &name, &error))?;
    let entry = mountinfo::topmost_at(&resolved)
        .map_err(|error| {
            Failure::caused(ExitStatus::Unknown, "cannot read /proc/self/mountinfo", &error)
        })?
        .ok_or_else(|| fail("not mounted"))?;
    if !entry.is_fuse() {
        return Err(fail(&format!("not a repository, but a mount of type {}", entry.fs_type)));
    }
    let dead = !lazy && matches!(answer(&resolved), Answer::Dead);
    let server = if lazy || dead { None } else { server_of(&resolved) };
    mount::unmount(&resolved, lazy || dead).map_err(|error| match error {
        UnmountError::Busy => fail(&format!("in use{}", users(&resolved)))
            .advise(&format!("end these, or detach it with: cvmfs-fuse umount --lazy {name}")),
        UnmountError::NotAllowed(_) => Failure::caused(ExitStatus::Permission, &name, &error)
            .advise(
                "only root and the user who mounted may unmount; users need fusermount3 (fuse3)",
            ),
        error => Failure::caused(ExitStatus::Unknown, &name, &error),
    })?;
    if let Some(server) = server
        && !wait_for_end(server)
    {
        tracing::warn!(
            pid = server.as_raw_nonzero().get(),
            "unmounted, but the server has not ended yet: it may still be used, by an overlay of \
             directories of the mount (as containers have it) or in another mount namespace"
        );
    }
    Ok(())
}

/// Returns the process behind a mount, if it is visible and one of ours: in another pid namespace
/// the number means somebody else.
fn server_of(mountpoint: &Path) -> Option<Pid> {
    let number: i32 = attribute(mountpoint, "user.pid")?.trim().parse().ok()?;
    let command = std::fs::read_to_string(format!("/proc/{number}/comm")).ok()?;
    command.starts_with("cvmfs").then(|| Pid::from_raw(number)).flatten()
}

/// Returns false if the process is still there after the deadline.
fn wait_for_end(process: Pid) -> bool {
    let Ok(descriptor) = pidfd_open(process, PidfdFlags::empty()) else {
        // Gone already, or a kernel before 5.3.
        return true;
    };
    let deadline = rustix::event::Timespec::try_from(END_DEADLINE).ok();
    let mut ended = [PollFd::new(&descriptor, PollFlags::IN)];
    matches!(poll(&mut ended, deadline.as_ref()), Ok(1..))
}

/// Names processes that keep a mount busy, as far as /proc shows them to us.
fn users(mountpoint: &Path) -> String {
    let Ok(processes) = std::fs::read_dir("/proc") else { return String::new() };
    let inside =
        |link: &Path| std::fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint));
    let mut users: Vec<String> = processes
        .flatten()
        .filter(|process| process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter(|process| {
            let path = process.path();
            ["cwd", "root", "exe"].iter().any(|link| inside(&path.join(link)))
                || std::fs::read_dir(path.join("fd"))
                    .is_ok_and(|files| files.flatten().any(|file| inside(&file.path())))
        })
        .map(|process| {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("{} ({})", process.file_name().to_string_lossy(), command.trim())
        })
        .take(MAX_NAMED_USERS + 1)
        .collect();
    if users.len() > MAX_NAMED_USERS {
        users.truncate(MAX_NAMED_USERS);
        users.push("and others".to_owned());
    }
    if users.is_empty() { String::new() } else { format!(" by {}", users.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mounted() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            (dir.path().to_owned(), "not mounted"),
            (dir.path().join("missing"), "No such file"),
            ("/proc".into(), "not a repository, but a mount of type proc"),
        ] {
            let failure = unmount(&path, false).unwrap_err();
            assert_eq!(failure.status, ExitStatus::Unknown);
            assert!(failure.message.contains(text), "{failure}");
        }
    }

    #[test]
    fn users_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        assert_eq!(users(&dir), "");
        let _open = std::fs::File::create(dir.join("x")).unwrap();
        assert!(users(&dir).starts_with(&format!(" by {} (", std::process::id())));
    }

    #[test]
    fn ends_are_noticed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Pid::from_child(&child);
        assert!(wait_for_end(process));
        child.wait().unwrap();
    }
}
