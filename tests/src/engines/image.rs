//! Root file systems of images: the static program beside busybox, and what a dynamic program needs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::stage::program;

/// Where the program is in the images.
const PROGRAM: &str = "usr/bin/cvmfs-fuse";
/// A dynamic program of the same system as the one in small.test.repo.
const DYNAMIC: &str = "/bin/true";
/// What images tell their containers: `$R` is where the repository is mounted.
pub(super) const ENVIRONMENT: [&str; 2] = ["PATH=/usr/bin:/bin", "R=/cvmfs/small.test.repo"];
/// A user that has a name.
const PASSWD: &str = "root:x:0:0::/:/bin/sh\nuser:x:1001:1001::/:/bin/sh\n";

/// A directory that becomes an image.
#[derive(Debug)]
pub struct Rootfs {
    directory: PathBuf,
}

impl Rootfs {
    /// Makes one with busybox, the program, `/cvmfs`, and the key of the repository as `/key.pub`.
    ///
    /// # Panics
    /// If Debian's busybox-static is missing.
    pub fn make(directory: &Path, key: &Path) -> Self {
        let root = Self::empty(directory);
        for name in ["bin", "usr/bin", "etc", "cvmfs", "tmp", "var/lib", "proc", "dev", "mnt"] {
            fs::create_dir_all(directory.join(name)).expect("scratch space is ours");
        }
        let mode = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(directory.join("tmp"), mode).expect("it is ours");
        fs::write(directory.join("etc/passwd"), PASSWD).expect("scratch space is ours");
        root.copy(key, "key.pub");
        root.copy(&program(), PROGRAM);
        let busybox = Path::new("/bin/busybox");
        assert!(busybox.exists(), "busybox is missing: apt-get install busybox-static");
        root.copy(busybox, "bin/busybox");
        let list = Command::new(busybox).arg("--list").output().expect("it is a program");
        for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox")
        {
            symlink("busybox", directory.join("bin").join(name)).expect("names are different");
        }
        root.copy_libraries();
        root
    }

    /// Makes one with nothing in it.
    ///
    /// # Panics
    /// If the directory cannot be made.
    pub fn empty(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("scratch space is ours");
        Self { directory: directory.to_owned() }
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Puts a file of the machine into it.
    ///
    /// # Panics
    /// If that is not possible.
    pub fn copy(&self, from: &Path, to: &str) {
        let to = self.directory.join(to);
        fs::create_dir_all(to.parent().expect("a file is in a directory")).expect("ours");
        fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }

    /// The loader and libraries of a small dynamic program, under their own names.
    fn copy_libraries(&self) {
        let said = Command::new("ldd").arg(DYNAMIC).output().expect("ldd is there");
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
        for path in paths {
            self.copy(Path::new(path), path.trim_start_matches('/'));
        }
    }
}
