//! Mounts that show several repositories below them, as everybody sees them: their servers tell root and the
//! user who mounted only.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::look::look;
use super::ours;
use crate::cli::exit::Failure;
use crate::fuse::mountinfo;
use crate::talk::address::SeenMount;

/// How long they may take to tell that; one that hangs is passed over.
const PATIENCE: Duration = Duration::from_secs(3);
/// Names that are taken of one: its server may list without an end.
const MAX_LISTED: usize = 4096;

/// Returns those of these mounts that show several.
pub(in crate::cli) fn of(mountpoints: &[PathBuf]) -> Vec<PathBuf> {
    let seen = look(mountpoints, PATIENCE);
    let several = mountpoints.iter().zip(seen);
    let several = several.filter(|(_, seen)| seen.as_ref().is_ok_and(|l| !l.automount.is_empty()));
    several.map(|(place, _)| place.clone()).collect()
}

/// Repositories that such a mount lists: those that are open, or stated. It has just answered.
/// Another user's server is not asked: it may keep us for ever.
pub(in crate::cli) fn listed(root: &Path) -> Vec<PathBuf> {
    let mount = mountinfo::topmost_at(root).ok().flatten().map(SeenMount::of);
    if !mount.is_some_and(|mount| mount.is_ours_or_roots()) {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut places: Vec<_> =
        entries.take(MAX_LISTED).filter_map(|entry| Some(entry.ok()?.path())).collect();
    places.sort();
    places
}

/// Finds a repository by its name that no server tells us of: where a mount is named so, or below one that
/// shows several. Looking for it there opens it, if there is one.
pub(in crate::cli) fn find(name: &OsStr) -> Result<Option<PathBuf>, Failure> {
    let mounts: Vec<_> = ours()?.into_iter().map(|mount| mount.mountpoint).collect();
    if let Some(mount) = mounts.iter().find(|mount| mount.file_name() == Some(name)) {
        return Ok(Some(mount.clone()));
    }
    let places: Vec<_> = of(&mounts).into_iter().map(|root| root.join(name)).collect();
    let seen = look(&places, PATIENCE);
    Ok(places.into_iter().zip(seen).find(|(_, seen)| seen.is_ok()).map(|(place, _)| place))
}
