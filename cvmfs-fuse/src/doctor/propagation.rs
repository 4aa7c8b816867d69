//! Who else sees what is mounted below a directory.

use std::path::Path;

use super::Finding;
use super::surroundings::{Grant, Surroundings};
use crate::fuse::mountinfo::{self, MountEntry, Propagation, show};

const CHECK: &str = "propagation";

/// Looks at the mount that holds the directory; never at the directory itself, which may hang.
pub(super) fn check(mountpoint: &Path, here: Surroundings) -> [Finding; 1] {
    let mounts = match mountinfo::all() {
        Ok(mounts) => mounts,
        Err(error) => {
            return [Finding::problem(CHECK, format!("cannot read the table of mounts: {error}"))
                .fix("mount -t proc proc /proc")];
        }
    };
    let is_mounted = mounts.iter().any(|mount| mount.mountpoint == mountpoint);
    // Links of what is not mounted can be followed safely.
    let resolved = mountinfo::resolve(mountpoint);
    match resolved {
        Ok(path) => [assess(&mounts, &path, here)],
        Err(_) if is_mounted => [assess(&mounts, mountpoint, here)],
        Err(error) => {
            let path = show(mountpoint);
            [Finding::warning(CHECK, format!("{path} cannot be used: {error}"))
                .fix(format!("mkdir -p {path}"))]
        }
    }
}

fn assess(mounts: &[MountEntry], path: &Path, here: Surroundings) -> Finding {
    // The longest path wins, and of equals the one on top, which is the last.
    let holder = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mountpoint))
        .max_by_key(|mount| mount.mountpoint.as_os_str().len());
    let Some(holder) = holder else {
        return Finding::problem(CHECK, format!("no mount holds {}", show(path)));
    };
    let (path, on) = (show(path), show(&holder.mountpoint));
    match holder.propagation {
        Propagation::Shared => Finding::ok(
            CHECK,
            format!("{path} is on {on}, which is shared: its peers see what is mounted"),
        ),
        Propagation::Slave => Finding::ok(
            CHECK,
            format!(
                "{path} is on {on}, a slave: mounts of the host appear here, mounts made here are \
                 seen only here"
            ),
        ),
        Propagation::Private => Finding::warning(
            CHECK,
            format!(
                "{path} is on {on}, which is private: no container that runs already will see what \
                 is mounted here, and no mount of others appears"
            ),
        )
        .fix(here.how_to(Grant::Propagation).replace("DIR", &path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    const TABLE: &[u8] = b"\
1 0 8:1 / / rw shared:1 - ext4 /dev/a rw
2 1 8:1 / /cvmfs rw - ext4 /dev/a rw
3 2 8:1 / /cvmfs/sub rw master:1 - ext4 /dev/a rw
4 3 8:1 / /cvmfs/sub rw shared:4 master:1 - ext4 /dev/a rw
";

    #[test]
    fn the_mount_that_holds_a_directory() {
        let mounts = mountinfo::parse(TABLE);
        for (path, severity, part) in [
            ("/mnt", Severity::Ok, "on /, which is shared"),
            ("/cvmfsx", Severity::Ok, "on /, which is shared"),
            ("/cvmfs", Severity::Warning, "on /cvmfs, which is private"),
            ("/cvmfs/x", Severity::Warning, "on /cvmfs, which is private"),
            ("/cvmfs/sub/y", Severity::Ok, "on /cvmfs/sub, which is shared"),
        ] {
            let found = assess(&mounts, Path::new(path), Surroundings::Host);
            assert_eq!(found.severity, severity, "{found:?}");
            assert!(found.message.contains(part), "{found:?}");
            let fix = found.fix.unwrap_or_default();
            assert_eq!(fix.contains(&format!("--make-shared {path}")), severity != Severity::Ok);
        }
        let slave = assess(&mounts[..3], Path::new("/cvmfs/sub"), Surroundings::Host);
        assert!(slave.message.contains("a slave"), "{slave:?}");
        assert_eq!(assess(&[], Path::new("/x"), Surroundings::Host).severity, Severity::Problem);
    }
}
