//! `reload`, `wipecache`, `umount`, `killall`: what is done to live mounts.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{ours, place, unreadable};
use crate::cli::cache::print;
use crate::cli::control::pause;
use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::upgrade::{self, UpgradeArgs};
use crate::config::Environment;
use crate::daemon::control::supervisor_of;
use crate::fuse::mount;
use crate::fuse::mountinfo::{MountEntry, show};
use crate::talk::address::{SeenMount, workspaces};
use crate::talk::directory::device_number;
use crate::talk::mounts;

/// How long a killed process may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// `reload [-c] [REPO...]`: a successor reads the configuration anew and goes on with the mount.
///
/// Caches are emptied afterwards: what a successor needs at once is still there then, and it must
/// not depend on servers.
pub(super) fn reload(
    named: &[PathBuf],
    wipe: bool,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    let roots = match named {
        [] => ours()?.into_iter().map(|mount| mount.mountpoint).collect(),
        named => {
            named.iter().map(|name| root_of(name, environment)).collect::<Result<Vec<_>, _>>()?
        }
    };
    if roots.is_empty() {
        print("nothing is mounted here\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let caches = if wipe { caches(&roots, environment)? } else { HashSet::new() };
    let mountpoints = roots.iter().cloned().collect::<HashSet<_>>().into_iter().collect();
    let status = upgrade::run(&UpgradeArgs { mountpoints, all: false })?;
    for cache in caches {
        cvmfs_cache::wipe(&cache).map_err(|error| {
            let what = format!("cannot wipe {}", cache.display());
            Failure::caused(ExitStatus::CacheDirectory, &what, &error)
        })?;
        print(&format!("{}: wiped\n", show(&cache)))?;
    }
    Ok(status.into())
}

/// The mount that shows a repository, which may show others, too.
fn root_of(named: &Path, environment: &Environment) -> Result<PathBuf, Failure> {
    let place = place(named, environment)?;
    let found = mounts::of_path(&place).map_err(|error| unreadable(&error))?;
    found
        .map(|(mount, _)| mount.mountpoint)
        .ok_or_else(|| Failure::new(ExitStatus::Unknown, format!("{} is not mounted", show(named))))
}

/// Where these mounts keep objects.
fn caches(roots: &[PathBuf], environment: &Environment) -> Result<HashSet<PathBuf>, Failure> {
    let stated = workspaces(environment);
    let all = mounts::all().map_err(|error| unreadable(&error))?;
    let mut caches = HashSet::new();
    for found in all.into_iter().filter(|found| roots.contains(&found.mount.mountpoint)) {
        let status = found.status.map_err(|error| {
            Failure::caused(ExitStatus::Unknown, &show(&found.mount.mountpoint), &error)
        })?;
        for status in status {
            // Root would empty what another user's server names.
            if !found.mount.is_ours_or_roots() && !stated.contains(&status.workspace) {
                let message = format!(
                    "{}: its server is user {}'s, and names {}, which the settings do not",
                    show(&found.mount.mountpoint),
                    found.mount.user.unwrap_or_default(),
                    show(&status.workspace)
                );
                return Err(Failure::new(ExitStatus::Permission, message));
            }
            caches.insert(status.workspace);
        }
    }
    Ok(caches)
}

/// `umount [REPO...]`.
pub(super) fn umount(named: &[PathBuf], environment: &Environment) -> Result<ExitCode, Failure> {
    let places = match named {
        // Those on top of others first.
        [] => ours()?.into_iter().rev().map(|mount| mount.mountpoint).collect(),
        named => {
            named.iter().map(|name| place(name, environment)).collect::<Result<Vec<_>, _>>()?
        }
    };
    let mut is_done = true;
    for place in places {
        let name = show(&place);
        match crate::daemon::unmount(&place, false) {
            Ok(()) => {
                print(&format!("Unmounting {name}: OK\n"))?;
            }
            Err(failure) => {
                print(&format!("Unmounting {name}: Failed!\n"))?;
                super::super::complain(&failure);
                is_done = false;
            }
        }
    }
    Ok(ExitCode::from(u8::from(!is_done)))
}

/// `killall`: ends supervisors, then servers, then mounts, and asks none of them.
pub(super) fn kill_all() -> Result<ExitCode, Failure> {
    let mounts = ours()?;
    let holders = holders_of(&mounts);
    // A supervisor that lives starts a successor.
    for processes in [&holders.supervisors, &holders.servers] {
        end(processes)?;
    }
    let mut is_done = true;
    for entry in mounts.iter().rev() {
        let name = show(&entry.mountpoint);
        match mount::unmount(&entry.mountpoint, true) {
            Ok(()) => {
                print(&format!("Unmounting {name}: OK\n"))?;
            }
            Err(error) => {
                print(&format!("Unmounting {name}: Failed!\n"))?;
                super::super::complain(&Failure::caused(ExitStatus::Unknown, &name, &error));
                is_done = false;
            }
        }
    }
    Ok(ExitCode::from(u8::from(!is_done)))
}

#[derive(Default)]
struct Holders {
    supervisors: HashSet<i32>,
    servers: HashSet<i32>,
}

/// A process as far as it matters here.
struct Process {
    pid: i32,
    parent: i32,
    uid: u32,
    /// Numbers of the connections to the kernel that it has open.
    connections: HashSet<u32>,
}

/// Finds the processes behind mounts. None of them is asked, and no name is believed: the supervisor is who
/// listens in the control directory, as the kernel tells, and a server is a child of it that has the
/// connection of the mount. Without a supervisor, as of an earlier version, it is who has the connection
/// and is of root or of the user of the mount.
fn holders_of(mounts: &[MountEntry]) -> Holders {
    let processes = processes();
    let mut holders = Holders::default();
    for mount in mounts.iter().cloned().map(SeenMount::of) {
        let Some((0, minor)) = device_number(&mount.device) else { continue };
        let have_it: Vec<_> = processes
            .iter()
            .filter(|process| process.connections.contains(&minor))
            .filter(|process| mount.is_spoken_for_by(process.uid))
            .collect();
        // What another user listens with is not connected to.
        let supervisor = mount.is_ours_or_roots().then(|| supervisor_of(&mount)).flatten();
        if let Some(supervisor) = supervisor {
            holders.supervisors.insert(supervisor);
            let children = have_it.iter().filter(|process| process.parent == supervisor);
            holders.servers.extend(children.map(|process| process.pid));
        } else {
            for process in &have_it {
                let is_parent = have_it.iter().any(|other| other.parent == process.pid);
                let of = if is_parent { &mut holders.supervisors } else { &mut holders.servers };
                of.insert(process.pid);
            }
        }
    }
    holders
}

/// Reads which processes have connections of FUSE open, as far as this user may know.
fn processes() -> Vec<Process> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let path = entry.path();
        let mut connections = HashSet::new();
        for file in std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten() {
            if !std::fs::read_link(file.path()).is_ok_and(|target| target == Path::new("/dev/fuse"))
            {
                continue;
            }
            let facts = std::fs::read_to_string(path.join("fdinfo").join(file.file_name()));
            let facts = facts.unwrap_or_default();
            let number = facts.lines().find_map(|line| line.strip_prefix("fuse_connection:"));
            connections.extend(number.and_then(|number| number.trim().parse::<u32>().ok()));
        }
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        let parent = parent.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
        if let Ok(found) = std::fs::metadata(&path)
            && !connections.is_empty()
        {
            all.push(Process { pid, parent, uid: found.uid(), connections });
        }
    }
    all
}

/// Kills processes, and waits until they are gone.
fn end(processes: &HashSet<i32>) -> Result<(), Failure> {
    for pid in processes.iter().filter_map(|&pid| Pid::from_raw(pid)) {
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                let what = format!("cannot end process {}", pid.as_raw_nonzero());
                return Err(Failure::caused(
                    ExitStatus::Permission,
                    &what,
                    &std::io::Error::from(error),
                ));
            }
        }
    }
    let deadline = Instant::now() + END_LIMIT;
    // A zombie serves nobody any more.
    let lives = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    };
    while processes.iter().any(lives) && Instant::now() < deadline {
        pause(LOOK_AGAIN);
    }
    Ok(())
}
