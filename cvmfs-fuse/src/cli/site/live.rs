//! `reload`, `wipecache`, `umount`, `killall`: what is done to live mounts.

use std::collections::HashSet;
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
use crate::fuse::mount;
use crate::fuse::mountinfo::{MountEntry, show};
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
    let caches = if wipe { caches(&roots)? } else { HashSet::new() };
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
        .map(|(_, root, _)| root)
        .ok_or_else(|| Failure::new(ExitStatus::Unknown, format!("{} is not mounted", show(named))))
}

/// Where these mounts keep objects.
fn caches(roots: &[PathBuf]) -> Result<HashSet<PathBuf>, Failure> {
    let all = mounts::all().map_err(|error| unreadable(&error))?;
    let mut caches = HashSet::new();
    for found in all.into_iter().filter(|found| roots.contains(&found.mountpoint)) {
        let status = found.status.map_err(|error| {
            Failure::caused(ExitStatus::Unknown, &show(&found.mountpoint), &error)
        })?;
        caches.extend(status.into_iter().map(|status| status.workspace));
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
    let holders = holders_of(&mounts)?;
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

/// Finds the processes behind mounts by the sockets that they listen at, which are named after the
/// device: so neither a process that hangs is asked, nor one killed that serves something else.
fn holders_of(mounts: &[MountEntry]) -> Result<Holders, Failure> {
    let table = std::fs::read_to_string("/proc/net/unix").map_err(|error| {
        Failure::caused(ExitStatus::Unknown, "cannot read /proc/net/unix", &error)
    })?;
    let is_mounted = |text: &str| {
        let device = text.parse();
        device.is_ok_and(|device| mounts.iter().any(|mount| mount.device == device))
    };
    let (mut supervisors, mut servers) = (HashSet::new(), HashSet::new());
    for line in table.lines() {
        // Number, counts, protocol, flags, type, state, inode, name.
        let mut words = line.split_whitespace();
        let (Some(inode), Some(name)) = (words.nth(6), words.next()) else { continue };
        let Some(name) = name.strip_prefix("@cvmfs-fuse/") else { continue };
        let socket = format!("socket:[{inode}]");
        match name.strip_prefix("talk/") {
            Some(device) if is_mounted(device) => {
                servers.insert(socket);
            }
            None if is_mounted(name) => {
                supervisors.insert(socket);
            }
            _ => {}
        }
    }
    let mut holders = Holders::default();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let files = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        for file in files {
            let Ok(target) = std::fs::read_link(file.path()) else { continue };
            let target = target.to_string_lossy();
            if supervisors.contains(&*target) {
                holders.supervisors.insert(pid);
            }
            if servers.contains(&*target) {
                holders.servers.insert(pid);
            }
        }
    }
    Ok(holders)
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
