//! The directory of objects: there, writable, shared with whom, how full, and how long it lasts.

use std::path::{Path, PathBuf};

use cvmfs_cache::CacheInfo;
use indicatif::BinaryBytes;
use nix::unistd::{AccessFlags, access};

use super::Finding;
use super::surroundings::{Grant, Surroundings};
use crate::config::CacheSettings;
use crate::fuse::mountinfo::{self, MountEntry};

const CHECK: &str = "cache";
/// Below this share of the partition, others who write there are the next to fail.
const LITTLE: u64 = 20;

/// Looks at the cache of the settings, without making one.
pub(super) fn check(settings: &CacheSettings, here: Surroundings) -> Vec<Finding> {
    let directory = settings.alien.as_ref().unwrap_or(&settings.directory);
    let mounts = mountinfo::all().unwrap_or_default();
    let mut findings = vec![state(settings)];
    findings.extend(goes_with_the_container(&mounts, directory, here));
    findings
}

/// The root file system of a container is removed with it, and so is a cache there.
fn goes_with_the_container(
    mounts: &[MountEntry],
    directory: &Path,
    here: Surroundings,
) -> Option<Finding> {
    let holder = mounts
        .iter()
        .filter(|mount| directory.starts_with(&mount.mountpoint))
        .max_by_key(|mount| mount.mountpoint.as_os_str().len())?;
    if here == Surroundings::Host || holder.mountpoint != Path::new("/") {
        return None;
    }
    let shown = directory.display();
    let message =
        format!("{shown} is part of this container: all is downloaded again by the next one");
    let fix = here.how_to(Grant::Volume).replace("DIR", &shown.to_string());
    Some(Finding::warning(CHECK, message).fix(fix))
}

/// Looks at the directory itself, wherever this process runs.
pub fn state(settings: &CacheSettings) -> Finding {
    let directory = settings.alien.as_ref().unwrap_or(&settings.directory);
    if !directory.exists() {
        return missing(directory);
    }
    if settings.alien.is_some() {
        return match settings.open() {
            Ok(_) => Finding::ok(CHECK, format!("alien cache {}", directory.display())),
            Err(failure) => Finding::problem(CHECK, failure.message),
        };
    }
    match settings.open_directory() {
        Ok(cache) => assess(&cache.info()),
        // The message has the advice in it. A broker may be there all the same.
        Err(failure) => match settings.open() {
            Ok(_) => Finding::ok(CHECK, format!("served by the broker on {}", settings.broker.display())),
            Err(_) => Finding::problem(CHECK, failure.message)
                .fix("cvmfs-fuse mount --cache-dir DIR with a directory of yours, or a volume: -v cvmfs-cache:/var/lib/cvmfs-fuse"),
        },
    }
}

/// A mount makes it, where it may.
fn missing(directory: &Path) -> Finding {
    let shown = directory.display();
    let ancestor: Option<PathBuf> =
        directory.ancestors().find(|path| path.exists()).map(Path::to_owned);
    match ancestor {
        Some(ancestor) if access(&ancestor, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() => {
            Finding::ok(CHECK, format!("{shown} is not there yet; the first mount makes it"))
        }
        ancestor => {
            let ancestor = ancestor.unwrap_or_default();
            let message =
                format!("{shown} is not there, and {} cannot be written", ancestor.display());
            Finding::problem(CHECK, message)
                .fix(format!("--cache-dir with a directory that can be written, or a volume: -v cvmfs-cache:{shown}"))
        }
    }
}

fn assess(info: &CacheInfo) -> Finding {
    let shown = info.directory.display();
    let quota =
        info.quota.map_or("no quota".to_owned(), |quota| format!("quota {}", BinaryBytes(quota)));
    let free = info.partition_free.unwrap_or(0);
    let message = format!(
        "{shown}: {} in {} objects, {quota}, {} free, {}, used by {} other processes",
        BinaryBytes(info.used),
        info.objects,
        BinaryBytes(free),
        info.sharing,
        info.processes
    );
    if info.read_only {
        return Finding::warning(CHECK, format!("{message}; it can only be read"))
            .fix("mount the volume without :ro, or choose another one with --cache-dir");
    }
    if info.unmanaged {
        return Finding::warning(
            CHECK,
            format!("{message}; a network file system: nothing is evicted"),
        )
        .fix("use --alien-cache DIR there, and a local directory as --cache-dir");
    }
    let room = info.quota.map(|quota| quota.saturating_sub(info.used));
    if room.is_some_and(|room| room > free) {
        let largest = info.used.saturating_add(free) / 10 * 9;
        return Finding::warning(CHECK, format!("{message}; the quota is more than the disk has"))
            .fix(format!(
                "mount with --quota {}M, or give the cache its own partition",
                largest >> 20
            ));
    }
    if info.partition_size.is_some_and(|size| free < size / LITTLE) {
        return Finding::warning(CHECK, format!("{message}; the partition is nearly full")).fix(
            format!("cvmfs-fuse cache clean --cache-dir {shown} --to {}M", (info.used / 2) >> 20),
        );
    }
    Finding::ok(CHECK, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn info() -> CacheInfo {
        CacheInfo {
            directory: "/c".into(),
            layout: "1",
            sharing: "private".to_owned(),
            read_only: false,
            unmanaged: false,
            used: 10 << 30,
            objects: 7,
            quota: Some(20 << 30),
            high_water: None,
            low_water: None,
            partition_size: Some(100 << 30),
            partition_free: Some(50 << 30),
            processes: 2,
            pinned: 0,
            quarantined: 0,
        }
    }

    #[test]
    fn states_of_a_cache() {
        for (info, severity, part) in [
            (info(), Severity::Ok, "10.00 GiB in 7 objects, quota 20.00 GiB, 50.00 GiB free"),
            (CacheInfo { read_only: true, ..info() }, Severity::Warning, "only be read"),
            (CacheInfo { unmanaged: true, ..info() }, Severity::Warning, "--alien-cache"),
            (
                CacheInfo { partition_free: Some(8 << 30), ..info() },
                Severity::Warning,
                "--quota 165",
            ),
            (
                CacheInfo { quota: None, partition_free: Some(4 << 30), ..info() },
                Severity::Warning,
                "cache clean --cache-dir /c --to 5120M",
            ),
        ] {
            let found = assess(&info);
            assert_eq!(found.severity, severity, "{found:?}");
            let all = format!("{} {}", found.message, found.fix.unwrap_or_default());
            assert!(all.contains(part), "{all}");
        }
    }

    #[test]
    fn only_a_volume_outlives_a_container() {
        let table = b"1 0 0:50 / / rw - overlay overlay rw\n2 1 8:1 /v /cache rw - ext4 /dev/a rw";
        let mounts = mountinfo::parse(table);
        for (directory, here, part) in [
            ("/var/x", Surroundings::Docker, Some("-v cvmfs-cache:/var/x")),
            ("/var/x", Surroundings::Podman, Some("-v cvmfs-cache:/var/x")),
            ("/var/x", Surroundings::Kubernetes, Some("hostPath")),
            ("/var/x", Surroundings::Host, None),
            ("/cache", Surroundings::Docker, None),
            ("/cache/y", Surroundings::Docker, None),
        ] {
            let found = goes_with_the_container(&mounts, Path::new(directory), here);
            let fix = found.and_then(|found| found.fix);
            assert_eq!(fix.is_some(), part.is_some(), "{directory} {here:?}");
            assert!(fix.unwrap_or_default().contains(part.unwrap_or_default()));
        }
    }

    #[test]
    fn a_cache_that_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let found = missing(&dir.path().join("a/b"));
        assert_eq!(found.severity, Severity::Ok);
        assert!(!dir.path().join("a").exists());
        assert_eq!(missing(Path::new("/dev/null/x")).severity, Severity::Problem);
    }
}
