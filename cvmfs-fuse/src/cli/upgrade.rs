//! `upgrade`: replaces the servers of live mounts by the program that is installed now.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::exit::{ExitStatus, Failure};
use crate::daemon::control::{Answer, AskError, ask};
use crate::fuse::mountinfo::{self, show};

/// Longer than the supervisor takes to give up a new program: until it is ready, and until it
/// serves.
const ANSWER_LIMIT: Duration = Duration::from_secs(150);

/// `upgrade MOUNTPOINT...`.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// Where repositories are mounted
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub mountpoints: Vec<PathBuf>,

    /// All mounts of this program that are seen from here
    #[arg(long)]
    pub all: bool,
}

pub(super) fn run(args: &UpgradeArgs) -> Result<ExitStatus, Failure> {
    let mounts = if args.all { all()?.into_iter().collect() } else { named(&args.mountpoints)? };
    let mut last = None;
    for (device, mountpoint) in mounts {
        let name = show(&mountpoint);
        let failure = match ask(&device, ANSWER_LIMIT) {
            Ok(Answer::Upgraded { from, to }) => {
                // The upgrade is done, whether or not somebody reads of it.
                let _ = writeln!(std::io::stdout(), "{name}: {from} -> {to}");
                continue;
            }
            // Of other programs, or mounted by a version that had no successors.
            Err(AskError::Nobody(_)) if args.all => continue,
            Ok(Answer::Failed(reason)) => {
                Failure::new(ExitStatus::RestoreState, format!("{name}: {reason}"))
            }
            Err(error @ (AskError::NotAllowed | AskError::Stranger(_))) => {
                Failure::caused(ExitStatus::Permission, &name, &error)
            }
            Err(error) => Failure::caused(ExitStatus::Unknown, &name, &error),
        };
        if let Some(before) = last.replace(failure) {
            super::complain(&before);
        }
    }
    last.map_or(Ok(ExitStatus::Ok), Err)
}

/// Returns mountpoints by device, each mount once.
fn all() -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mounts = mountinfo::all().map_err(|error| table_unreadable(&error))?;
    let mounts = mounts.into_iter().filter(mountinfo::MountEntry::is_fuse);
    let mut found = BTreeMap::new();
    for mount in mounts {
        found.entry(mount.device.to_string()).or_insert(mount.mountpoint);
    }
    Ok(found)
}

fn named(mountpoints: &[PathBuf]) -> Result<Vec<(String, PathBuf)>, Failure> {
    mountpoints.iter().map(|mountpoint| device_of(mountpoint)).collect()
}

fn device_of(mountpoint: &Path) -> Result<(String, PathBuf), Failure> {
    let name = show(mountpoint);
    let resolved = mountinfo::resolve(mountpoint)
        .map_err(|error| Failure::caused(ExitStatus::Unknown, &name, &error))?;
    match mountinfo::topmost_at(&resolved).map_err(|error| table_unreadable(&error))? {
        Some(entry) if entry.is_fuse() => Ok((entry.device.to_string(), mountpoint.to_owned())),
        _ => Err(Failure::new(ExitStatus::Unknown, format!("{name}: no repository is mounted"))),
    }
}

fn table_unreadable(error: &std::io::Error) -> Failure {
    Failure::caused(ExitStatus::Unknown, "cannot read /proc/self/mountinfo", error)
}
