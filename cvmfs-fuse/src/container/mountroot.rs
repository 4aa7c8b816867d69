//! Directories to mount on: made, or put over a place where none can be made.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use cvmfs_cache::safe_path::{self, PUBLIC};
use cvmfs_core::fqrn::Fqrn;
use nix::mount::MsFlags;
use rustix::fs::{Mode, OFlags};

use crate::cli::exit::{ExitStatus, Failure};
use crate::fuse::mountinfo::{is_dead, show};

/// Entries that are kept when a directory is covered; more are not in a directory of mounts.
const MAX_KEPT: usize = 1000;

/// What was made for the mounts.
#[derive(Debug, Default)]
pub(super) struct MountRoot {
    made: Vec<PathBuf>,
    covered: Option<PathBuf>,
}

impl MountRoot {
    /// Makes a directory for each repository below `root`. Where the file system is read-only or
    /// somebody else's, a tmpfs is mounted over `root`, with all that was there bound into it.
    /// Needs the right to mount.
    pub(super) fn prepare(&mut self, root: &Path, names: &[Fqrn]) -> Result<(), Failure> {
        if let Err(error) = self.make(root) {
            let what = format!("cannot make the directory {}", show(root));
            return Err(Failure::caused(ExitStatus::Permission, &what, &error).advise(
                "add 'RUN mkdir /cvmfs' to the Dockerfile, or mount elsewhere with --mount-root DIR",
            ));
        }
        for name in names {
            let place = root.join(name.as_str());
            if self.make(&place).is_ok() {
                continue;
            }
            if self.covered.is_none() {
                cover(root).map_err(|error| failed("cover", root, &error))?;
                self.covered = Some(root.to_owned());
            }
            self.make(&place).map_err(|error| failed("make a directory in", root, &error))?;
        }
        Ok(())
    }

    fn make(&mut self, path: &Path) -> io::Result<()> {
        match safe_path::make_new_directory(path, PUBLIC) {
            Ok(()) => self.made.push(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // The server removes the mount of a dead one.
            Err(error) if is_dead(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes what was made, as far as nobody uses it.
    pub(super) fn remove(self) {
        for made in self.made.iter().rev() {
            // Somebody may have put something there.
            let _ = fs::remove_dir(made);
        }
        if let Some(covered) = self.covered
            && let Err(errno) = nix::mount::umount2(&covered, nix::mount::MntFlags::MNT_DETACH)
        {
            tracing::debug!(%errno, "the tmpfs stays");
        }
    }
}

fn failed(verb: &str, root: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot {verb} {}", show(root));
    Failure::caused(ExitStatus::Permission, &what, error)
}

/// Mounts a tmpfs over a directory and binds into it what the directory had: other repositories
/// may be mounted there by the host.
fn cover(root: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let below = rustix::fs::open(root, flags, Mode::empty())?;
    let kept: Vec<_> = fs::read_dir(root)
        .map(|entries| entries.flatten().take(MAX_KEPT).collect())
        .unwrap_or_default();
    nix::mount::mount(
        Some("cvmfs-fuse"),
        root,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755,size=64k"),
    )?;
    let below = PathBuf::from(format!("/proc/self/fd/{}", below.as_raw_fd()));
    for entry in kept {
        let (old, new) = (below.join(entry.file_name()), root.join(entry.file_name()));
        if let Err(error) = keep(&old, &new) {
            tracing::warn!(path = show(&new), %error, "hidden by our mounts");
        }
    }
    Ok(())
}

fn keep(old: &Path, new: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(old)?.file_type();
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(old)?, new);
    }
    if kind.is_dir() {
        fs::create_dir(new)?;
    } else {
        fs::File::create_new(new)?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(nix::mount::mount(Some(old), new, None::<&str>, flags, None::<&str>)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_and_go() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("cvmfs");
        let names = ["a.example.org".parse().unwrap(), "b.example.org".parse().unwrap()];
        fs::create_dir(&root).unwrap();
        fs::create_dir(root.join("a.example.org")).unwrap();
        let mut made = MountRoot::default();
        made.prepare(&root, &names).unwrap();
        assert!(root.join("b.example.org").is_dir() && made.covered.is_none());
        made.remove();
        assert!(root.join("a.example.org").is_dir() && !root.join("b.example.org").exists());
    }

    #[test]
    fn a_root_that_cannot_be() {
        let home = tempfile::tempdir().unwrap();
        let failure = MountRoot::default().prepare(&home.path().join("a/b"), &[]).unwrap_err();
        assert_eq!(failure.status, ExitStatus::Permission);
        assert!(failure.message.contains("RUN mkdir /cvmfs"), "{failure}");
    }
}
