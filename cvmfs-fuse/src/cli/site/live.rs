//! `reload`, `wipecache`, `umount`: what is done to live mounts.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{ours, place, unreadable};
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::upgrade::{self, UpgradeArgs};
use crate::config::Environment;
use crate::fuse::mountinfo::show;
use crate::talk::mounts;

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
