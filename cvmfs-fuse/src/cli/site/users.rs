//! `fuser`: who uses a mount.
//!
//! Everything is read in /proc, nothing in the mount, so that it also tells of one that hangs; and
//! the device is looked for, so that users in other mount namespaces are found.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::place;
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::Environment;
use crate::fuse::device::{Device, NotADevice};
use crate::fuse::mountinfo::{self, MountEntry, show};

/// `fuser REPO`: their process ids, a line each.
pub(super) fn fuser(named: &Path, environment: &Environment) -> Result<ExitCode, Failure> {
    let place = place(named, environment)?;
    let found = crate::talk::mounts::of_path(&place).map_err(|error| super::unreadable(&error))?;
    let Some((mount, inside)) = found else {
        let message = format!("{} is not mounted", show(named));
        return Err(Failure::new(ExitStatus::Unknown, message));
    };
    let mut text = String::new();
    let unknown = |error: NotADevice| Failure::caused(ExitStatus::Unknown, &show(named), &error);
    for pid in users_of(mount.device.parse().map_err(unknown)?, &inside) {
        let _ = writeln!(text, "{pid}");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Finds the processes that use what is at `inside` of the mount with this device.
fn users_of(device: Device, inside: &Path) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let number = |name: &std::ffi::OsStr| name.to_str()?.parse::<u32>().ok();
    // A thread may have left the mounts of its process for ours.
    let own = mounts_of(Path::new("/proc/self"), device);
    let mut users: Vec<_> = processes
        .flatten()
        .filter_map(|entry| Some((number(&entry.file_name())?, entry.path())))
        .filter(|(_, process)| uses(process, device, inside, &own))
        .map(|(pid, _)| pid)
        .collect();
    users.sort_unstable();
    users
}

fn mounts_of(process: &Path, device: Device) -> Vec<MountEntry> {
    let mut mounts =
        mountinfo::parse(&std::fs::read(process.join("mountinfo")).unwrap_or_default());
    mounts.retain(|mount| mount.device == device);
    mounts
}

fn uses(process: &Path, device: Device, inside: &Path, own: &[MountEntry]) -> bool {
    let (mut numbers, mut places) = (HashSet::new(), Vec::new());
    for mount in mounts_of(process, device).iter().chain(own) {
        numbers.insert(mount.id);
        places.push(mount.mountpoint.join(inside));
    }
    let is_whole = inside.as_os_str().is_empty();
    let is_below = |link: PathBuf| {
        std::fs::read_link(link).is_ok_and(|to| places.iter().any(|place| to.starts_with(place)))
    };
    ["cwd", "root", "exe"].iter().any(|link| is_below(process.join(link)))
        || opened(process)
            .any(|(number, link)| numbers.contains(&number) && (is_whole || is_below(link)))
        || maps(process, device, &places, is_whole)
}

/// Open files: the number of their mount, and the link that names them.
fn opened(process: &Path) -> impl Iterator<Item = (u64, PathBuf)> {
    let links = process.join("fd");
    let entries = std::fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
        Some((number.trim().parse().ok()?, links.join(entry.file_name())))
    })
}

/// Whether a file of the mount is mapped; descriptors may be closed meanwhile.
fn maps(process: &Path, device: Device, places: &[PathBuf], is_whole: bool) -> bool {
    let device = format!("{:02x}:{:02x}", device.major, device.minor);
    let table = std::fs::read(process.join("maps")).unwrap_or_default();
    String::from_utf8_lossy(&table).lines().any(|line| {
        // ADDRESS PERMISSIONS OFFSET DEVICE INODE PATH
        let mut words = line.split_whitespace();
        words.nth(3) == Some(&*device)
            && (is_whole
                || line.find('/').is_some_and(|at| {
                    places.iter().any(|place| Path::new(&line[at..]).starts_with(place))
                }))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn open_files_and_working_directories_are_uses() {
        let directory = tempfile::tempdir().unwrap();
        let number = directory.path().metadata().unwrap().dev();
        let device = Device { major: libc::major(number), minor: libc::minor(number) };
        let (at, inside) = {
            let mounts = mountinfo::all().unwrap();
            let path = directory.path().canonicalize().unwrap();
            let mount = mounts
                .into_iter()
                .filter(|mount| path.starts_with(&mount.mountpoint) && mount.device == device)
                .max_by_key(|mount| mount.mountpoint.as_os_str().len());
            // Of a file system that names another number than stat(2) tells, nothing can be said.
            let Some(mount) = mount else { return };
            let inside = path.strip_prefix(&mount.mountpoint).unwrap().to_owned();
            (mount.mountpoint, inside)
        };
        assert_eq!(users_of(device, &inside), Vec::<u32>::new(), "{at:?}");
        let _open = std::fs::File::create(directory.path().join("x")).unwrap();
        assert_eq!(users_of(device, &inside), [std::process::id()]);
    }
}
