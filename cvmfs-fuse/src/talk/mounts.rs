//! Which mounts there are, and which of them answer.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::address::Address;
use super::client::{AskError, ask, ask_now};
use super::report::RepositoryStatus;
use super::wire::{Reply, Request};
use crate::fuse::mountinfo;

/// How long a mount may take to tell about itself; it waits for nobody.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Mounts that are asked at once; a node with more has other sorrows.
const MAX_MOUNTS: usize = 256;
/// First column of `df` for mounts of this program and of upstream's.
pub const FS_NAME: &str = "cvmfs2";

/// A FUSE mount that is ours, or looks like it.
#[derive(Debug)]
pub struct Found {
    /// `MAJOR:MINOR`.
    pub device: String,
    /// Where it is seen from here.
    pub mountpoint: PathBuf,
    /// What it says of its repositories.
    pub status: Result<Vec<RepositoryStatus>, AskError>,
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
    Ok(ask_until(is_it)?.into_iter().find(is_it))
}

/// Asks all at once, and returns when one has given the answer that is looked for.
fn ask_until(is_enough: impl Fn(&Found) -> bool) -> io::Result<Vec<Found>> {
    let mut mounts = BTreeMap::new();
    for mount in mountinfo::all()?.into_iter().filter(mountinfo::MountEntry::is_fuse) {
        let looks_ours = mount.source == FS_NAME;
        mounts.entry(mount.device.to_string()).or_insert((mount.mountpoint, looks_ours));
    }
    let mut silent: BTreeMap<_, _> = mounts.into_iter().take(MAX_MOUNTS).collect();
    let (sender, answers) = mpsc::channel();
    for (device, (_, looks_ours)) in &silent {
        let (sender, device, looks_ours) = (sender.clone(), device.clone(), *looks_ours);
        thread::spawn(move || {
            let request = Request { command: "status".to_owned(), repository: None };
            // Other programs never listen there; ours do, but for a moment.
            let ask: fn(&Address, &Request, Duration) -> Result<Reply, AskError> =
                if looks_ours { ask } else { ask_now };
            let answer = ask(&Address::Device(device.clone()), &request, PATIENCE);
            // Nobody listens after the deadline.
            let _ = sender.send((device, answer));
        });
    }
    drop(sender);
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while let Ok((device, answer)) =
        answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        let Some((mountpoint, looks_ours)) = silent.remove(&device) else { continue };
        let address = Address::Device(device.clone());
        let status = answer.and_then(|reply| {
            serde_json::from_value(reply.data)
                .map_err(|error| AskError::Broken { address, source: io::Error::other(error) })
        });
        // Of another program, or not to be reached from here.
        if matches!(status, Err(AskError::Connect { .. })) && !looks_ours {
            continue;
        }
        let found = Found { device, mountpoint, status };
        let is_last = is_enough(&found);
        all.push(found);
        if is_last {
            return Ok(all);
        }
    }
    for (device, (mountpoint, _)) in silent {
        let (address, source) = (Address::Device(device.clone()), io::ErrorKind::TimedOut.into());
        let status = Err(AskError::Broken { address, source });
        all.push(Found { device, mountpoint, status });
    }
    all.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(all)
}

/// Finds the mount that shows a path, without touching it: the device, where it is mounted, and
/// what is left of the path.
pub fn of_path(path: &Path) -> io::Result<Option<(String, PathBuf, PathBuf)>> {
    let mounts = mountinfo::all()?;
    let deepest = mounts
        .into_iter()
        .filter(|mount| path.starts_with(&mount.mountpoint))
        // The last one is on top.
        .max_by_key(|mount| mount.mountpoint.as_os_str().len());
    Ok(deepest.filter(mountinfo::MountEntry::is_fuse).and_then(|mount| {
        let inside = path.strip_prefix(&mount.mountpoint).ok()?.to_owned();
        Some((mount.device.to_string(), mount.mountpoint, inside))
    }))
}
