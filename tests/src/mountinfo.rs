//! What the kernel says about a mount, without asking the file system.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// One line of `/proc/thread-self/mountinfo` (proc_pid_mountinfo(5)); a test may have unshared its
/// mounts from those of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Minor number of `st_dev`, which also names the FUSE connection.
    pub connection: u64,
    /// Options of this mount, e.g. `ro`, `nosuid`.
    pub options: Vec<String>,
    /// Type of the file system, e.g. `fuse` or `fuse.NAME`.
    pub fs_type: String,
    /// What is mounted, as `df` shows it.
    pub source: String,
}

impl MountInfo {
    /// Returns the topmost mount on `mountpoint`, which must be a resolved path.
    pub fn of(mountpoint: &Path) -> Option<Self> {
        let table = fs::read("/proc/thread-self/mountinfo").ok()?;
        table
            .split(|&byte| byte == b'\n')
            .filter_map(|line| parse(&String::from_utf8_lossy(line), mountpoint))
            .next_back()
    }

    /// Tells the kernel to give up the FUSE connection: all its requests end with an error.
    ///
    /// # Errors
    /// If fusectl is not mounted, or the connection is gone.
    pub fn abort(&self) -> io::Result<()> {
        fs::write(format!("/sys/fs/fuse/connections/{}/abort", self.connection), b"1")
    }
}

fn parse(line: &str, mountpoint: &Path) -> Option<MountInfo> {
    let mut fields = line.split(' ');
    let device = fields.nth(2)?;
    let path = fields.nth(1)?;
    // Space and the like are written \040; the harness mounts where no such character is.
    if path.as_bytes() != mountpoint.as_os_str().as_bytes() {
        return None;
    }
    let options = fields.next()?.split(',').map(str::to_owned).collect();
    // A variable number of optional fields ends with "-".
    let mut fields = fields.skip_while(|field| *field != "-").skip(1);
    Some(MountInfo {
        connection: device.split_once(':')?.1.parse().ok()?,
        options,
        fs_type: fields.next()?.to_owned(),
        source: fields.next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = "36 35 0:52 / /mnt ro,nosuid,nodev,noatime master:1 shared:2 - fuse.x x.y ro";
        let info = parse(line, Path::new("/mnt")).unwrap();
        assert_eq!((info.connection, info.fs_type.as_str()), (52, "fuse.x"));
        assert_eq!(info.options, ["ro", "nosuid", "nodev", "noatime"]);
        assert_eq!(info.source, "x.y");
        assert_eq!(parse(line, Path::new("/mn")), None);
        assert_eq!(parse("", Path::new("/mnt")), None);
        let plain = "36 35 0:52 / /mnt rw - tmpfs tmpfs rw";
        assert_eq!(parse(plain, Path::new("/mnt")).unwrap().options, ["rw"]);
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(MountInfo::of(Path::new("/")).is_some());
        assert_eq!(MountInfo::of(Path::new("/nowhere")), None);
    }
}
