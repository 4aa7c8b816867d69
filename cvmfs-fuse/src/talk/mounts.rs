//! Which mounts there are, and which of them answer.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use cvmfs_core::fqrn::Fqrn;

pub use super::address::FS_NAME;
use super::address::{Address, SeenMount};
use super::client::{AskError, ask, ask_now};
use super::report::RepositoryStatus;
use super::wire::{Reply, Request};
use crate::fuse::mountinfo::{self, MountEntry};

/// How long a mount may take to tell about itself; it waits for nobody.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Mounts that are asked at once; a node with more has other sorrows.
const MAX_MOUNTS: usize = 256;

/// A FUSE mount that is ours, or looks like it.
#[derive(Debug)]
pub struct Found {
    /// The mount, as this process sees it.
    pub mount: SeenMount,
    /// What it says of its repositories.
    pub status: Result<Vec<RepositoryStatus>, AskError>,
}

impl Found {
    /// Returns how the mount is talked to.
    pub fn address(&self) -> Address {
        self.mount.address()
    }
}

/// Asks all mounts that are seen from here, each once. The kernel is not asked, so that none that
/// hangs keeps us; nor is one waited for that does not answer.
pub fn all() -> io::Result<Vec<Found>> {
    ask_until(|_| false)
}

/// Finds the mount that has a repository open; waits for no other one.
pub fn showing(repository: &str) -> io::Result<Option<Found>> {
    let is_it =
        |found: &Found| found.status.iter().flatten().any(|status| status.repository == repository);
    // Another user's mount may claim any name: it is taken only if nobody else has it.
    let is_sure = |found: &Found| is_it(found) && found.mount.is_ours_or_roots();
    let mut all = ask_until(is_sure)?;
    let at = all.iter().position(is_sure).or_else(|| all.iter().position(is_it));
    Ok(at.map(|at| all.swap_remove(at)))
}

/// Returns the mounts that are asked, and how many are not: other users' mounts never take the place of ours and
/// root's.
fn chosen(mut mounts: Vec<SeenMount>) -> (Vec<SeenMount>, usize) {
    mounts.sort_by_key(|mount| (!mount.is_ours_or_roots(), !mount.looks_ours));
    let left_out = mounts.len().saturating_sub(MAX_MOUNTS);
    mounts.truncate(MAX_MOUNTS);
    (mounts, left_out)
}

/// Asks all at once, and returns when one has given the answer that is looked for.
fn ask_until(is_enough: impl Fn(&Found) -> bool) -> io::Result<Vec<Found>> {
    let table = mountinfo::all()?;
    let (mounts, left_out) = chosen(SeenMount::each(&table));
    if left_out > 0 {
        tracing::warn!(left_out, "too many FUSE mounts: not all are asked");
    }
    let mut silent: BTreeMap<_, _> =
        mounts.into_iter().map(|mount| (mount.device.clone(), mount)).collect();
    let (sender, answers) = mpsc::channel();
    for mount in silent.values() {
        let (sender, mount) = (sender.clone(), mount.clone());
        thread::spawn(move || {
            let request = Request { command: "status".to_owned(), repository: None };
            // Mounts of other programs have no address; ours get theirs a moment after they appear.
            let ask: fn(&Address, &Request, Duration) -> Result<Reply, AskError> =
                if mount.looks_ours { ask } else { ask_now };
            let answer = ask(&mount.address(), &request, PATIENCE);
            // Nobody listens after the deadline.
            let _ = sender.send((mount.device, answer));
        });
    }
    drop(sender);
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while let Ok((device, answer)) =
        answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        let Some(mount) = silent.remove(&device) else { continue };
        let status = answer.and_then(|reply| understood(reply, &mount, &table));
        // Of another program, or not to be reached from here.
        let is_unknown = matches!(status, Err(AskError::Connect { .. } | AskError::Refused { .. }));
        if is_unknown && !mount.looks_ours {
            continue;
        }
        let found = Found { mount, status };
        let is_last = is_enough(&found);
        all.push(found);
        if is_last {
            return Ok(all);
        }
    }
    for mount in silent.into_values() {
        let (address, source) = (mount.address(), io::ErrorKind::TimedOut.into());
        let status = Err(AskError::Broken { address, source });
        all.push(Found { mount, status });
    }
    all.sort_by(|a, b| a.mount.mountpoint.cmp(&b.mount.mountpoint));
    Ok(all)
}

/// Takes what a mount says of itself. Which mount it is, and where, is known better here: a server may say
/// anything, or see the mount elsewhere, and commands of root act upon the path.
fn understood(
    reply: Reply,
    mount: &SeenMount,
    table: &[MountEntry],
) -> Result<Vec<RepositoryStatus>, AskError> {
    let told: Vec<RepositoryStatus> = serde_json::from_value(reply.data).map_err(|error| {
        AskError::Broken { address: mount.address(), source: io::Error::other(error) }
    })?;
    let checked = |mut status: RepositoryStatus| {
        status.device = Some(mount.device.clone());
        let is_name = status.repository.parse::<Fqrn>().is_ok();
        let is_same = |entry: &&MountEntry| entry.device.to_string() == mount.device;
        let is_seen = table.iter().filter(is_same).any(|entry| {
            status.mountpoint == entry.mountpoint
                || (is_name && status.mountpoint == entry.mountpoint.join(&status.repository))
        });
        if !is_seen {
            status.mountpoint.clone_from(&mount.mountpoint);
        }
        status
    };
    Ok(told.into_iter().map(checked).collect())
}

/// Finds the mount that shows a path, without touching it, and what is left of the path below its
/// mountpoint.
pub fn of_path(path: &Path) -> io::Result<Option<(SeenMount, PathBuf)>> {
    let mounts = mountinfo::all()?;
    let deepest = mounts
        .into_iter()
        .filter(|mount| path.starts_with(&mount.mountpoint))
        // The last one is on top.
        .max_by_key(|mount| mount.mountpoint.as_os_str().len());
    Ok(deepest.filter(mountinfo::MountEntry::is_fuse).and_then(|mount| {
        let inside = path.strip_prefix(&mount.mountpoint).ok()?.to_owned();
        Some((SeenMount::of(mount), inside))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a7_mounts_of_others_do_not_hide_ours() {
        let other = nix::unistd::geteuid().as_raw() + 1000;
        let mount = |minor: usize, user, looks_ours| SeenMount {
            device: format!("0:{minor}"),
            mountpoint: PathBuf::from(format!("/m/{minor}")),
            user: Some(user),
            looks_ours,
        };
        let mut all: Vec<_> = (0..MAX_MOUNTS).map(|minor| mount(minor, other, true)).collect();
        all.push(mount(1000, other, false));
        all.push(mount(1001, 0, false));
        all.push(mount(1002, 0, true));
        let (asked, left_out) = chosen(all);
        assert_eq!((asked.len(), left_out), (MAX_MOUNTS, 3));
        let first: Vec<_> = asked.iter().take(3).map(|mount| mount.device.as_str()).collect();
        assert_eq!(first, ["0:1002", "0:1001", "0:0"]);
        assert!(asked.iter().all(|mount| mount.device != "0:1000"));
    }
}
