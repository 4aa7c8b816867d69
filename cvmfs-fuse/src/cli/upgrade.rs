//! `upgrade`: replaces the servers of live mounts by the program that is installed now.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::exit::{ExitStatus, Failure};
use crate::daemon::control::{Answer, AskError, ask};
use crate::escape::one_line;
use crate::fuse::mountinfo::{self, show};
use crate::talk::address::SeenMount;

/// Longer than the supervisor takes to give up a new program: until it is ready, and until it
/// serves.
const ANSWER_LIMIT: Duration = Duration::from_secs(150);
/// How long another user's supervisor may keep those waiting that come after it.
const FOREIGN_LIMIT: Duration = Duration::from_secs(5);

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
    let mounts = if args.all { all()? } else { named(&args.mountpoints)? };
    let mut last = None;
    for (mount, name) in mounts {
        let is_foreign = args.all && !mount.is_ours_or_roots();
        let limit = if is_foreign { FOREIGN_LIMIT } else { ANSWER_LIMIT };
        let failure = match ask(&mount, limit) {
            Ok(Answer::Upgraded { from, to }) => {
                // The upgrade is done, whether or not somebody reads of it.
                let told = format!("{name}: {from} -> {to}");
                let _ = writeln!(std::io::stdout(), "{}", one_line(&told));
                continue;
            }
            // Of other programs, or mounted by a version that had no successors.
            Err(AskError::Nobody(_)) if args.all => continue,
            Ok(Answer::Unseen) => Failure::caused(ExitStatus::Permission, &name, &AskError::Unseen),
            Ok(Answer::Failed(reason)) => {
                Failure::new(ExitStatus::RestoreState, format!("{name}: {reason}"))
            }
            Err(error @ (AskError::NotAllowed | AskError::Stranger(_) | AskError::Unseen)) => {
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

/// Returns all mounts that are seen from here, each once, with their names for messages.
fn all() -> Result<Vec<(SeenMount, String)>, Failure> {
    let mut mounts = SeenMount::all().map_err(|error| table_unreadable(&error))?;
    mounts.sort_by_key(|mount| !mount.is_ours_or_roots());
    Ok(mounts.into_iter().map(|mount| (mount.clone(), show(&mount.mountpoint))).collect())
}

fn named(mountpoints: &[PathBuf]) -> Result<Vec<(SeenMount, String)>, Failure> {
    mountpoints.iter().map(|mountpoint| mounted_on(mountpoint)).collect()
}

fn mounted_on(mountpoint: &Path) -> Result<(SeenMount, String), Failure> {
    let name = show(mountpoint);
    let resolved = mountinfo::resolve(mountpoint)
        .map_err(|error| Failure::caused(ExitStatus::Unknown, &name, &error))?;
    match mountinfo::topmost_at(&resolved).map_err(|error| table_unreadable(&error))? {
        Some(entry) if entry.is_fuse() => Ok((SeenMount::of(entry), name)),
        _ => Err(Failure::new(ExitStatus::Unknown, format!("{name}: no repository is mounted"))),
    }
}

fn table_unreadable(error: &std::io::Error) -> Failure {
    Failure::caused(ExitStatus::Unknown, "cannot read /proc/self/mountinfo", error)
}
