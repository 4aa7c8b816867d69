//! Which mounts there are: /proc/self/mountinfo (proc(5)).
//!
//! Reading it never touches the mounted filesystems, so it also works for mounts whose server is
//! dead or hangs.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::device::Device;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Number of the mount.
    pub id: u64,
    /// Number of the mount that it was made on.
    pub parent: u64,
    /// Device number; its text is also the name under `/sys/class/bdi`.
    pub device: Device,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Filesystem type, e.g. `fuse` or `fuse.sshfs`.
    pub fs_type: String,
    /// First column of `df`.
    pub source: OsString,
    /// Who else learns of mounts below it.
    pub propagation: Propagation,
    /// Whose FUSE server it is; only root can let it be another user's than who mounts.
    pub user: Option<u32>,
}

/// Where mounts and unmounts below a mount are seen (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Only here.
    Private,
    /// Those of the master are seen here, ours only here.
    Slave,
    /// Here and in all its peers, both ways.
    Shared,
}

impl MountEntry {
    /// Tells whether a FUSE server stands behind it.
    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type.starts_with("fuse.")
    }
}

/// Tells whether others see what is mounted on top of a mount, but not what takes its place: a
/// volume that an engine has bound into this container. Its peers are outside, what is below it is
/// in here.
pub fn is_shared_from_outside(mounts: &[MountEntry], mount: &MountEntry) -> bool {
    let below = mounts.iter().find(|entry| entry.id == mount.parent);
    mount.propagation == Propagation::Shared
        && below.is_some_and(|below| below.propagation != Propagation::Shared)
}

/// Returns the topmost mount at exactly this (resolved) path.
pub fn topmost_at(mountpoint: &Path) -> io::Result<Option<MountEntry>> {
    Ok(find(&std::fs::read("/proc/self/mountinfo")?, mountpoint))
}

/// Returns the mounts at exactly this (resolved) path, in the order in which they were made.
pub fn all_at(mountpoint: &Path) -> io::Result<Vec<MountEntry>> {
    let mut mounts = all()?;
    mounts.retain(|entry| entry.mountpoint == mountpoint);
    Ok(mounts)
}

/// Returns all mounts that this process sees, in the order in which they were made.
pub fn all() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Returns whose server a mounted device is, as far as the table tells.
pub fn user_of(device: &str) -> Option<u32> {
    let device: Device = device.parse().ok()?;
    all().ok()?.into_iter().find(|entry| entry.device == device)?.user
}

/// Parses a table; lines that are none are left out.
pub fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// The kernel lists mounts in the order in which they were made, so the last one is on top.
fn find(table: &[u8], mountpoint: &Path) -> Option<MountEntry> {
    table
        .split(|&byte| byte == b'\n')
        .rev()
        .filter_map(parse_line)
        .find(|entry| entry.mountpoint == mountpoint)
}

/// `ID PARENT MAJ:MIN ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE SOURCE SUPER-OPTIONS`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let text = |field: &[u8]| String::from_utf8(field.to_vec()).ok();
    let id = text(fields.next()?)?.parse().ok()?;
    let parent = text(fields.next()?)?.parse().ok()?;
    let device = text(fields.next()?)?.parse().ok()?;
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let _options = fields.next()?;
    let mut propagation = Propagation::Private;
    for tag in fields.by_ref().take_while(|&field| field != b"-") {
        if tag.starts_with(b"shared:") {
            propagation = Propagation::Shared;
        } else if tag.starts_with(b"master:") && propagation == Propagation::Private {
            propagation = Propagation::Slave;
        }
    }
    let mut rest = fields;
    let fs_type = String::from_utf8(rest.next()?.to_vec()).ok()?;
    let source = OsString::from_vec(unescape(rest.next()?));
    let user = rest.next().unwrap_or_default().split(|&byte| byte == b',').find_map(|option| {
        std::str::from_utf8(option.strip_prefix(b"user_id=")?).ok()?.parse().ok()
    });
    Some(MountEntry { id, parent, device, mountpoint, fs_type, source, propagation, user })
}

/// Blanks, tabs, line ends and backslashes are written as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let Some(octal) = tail.get(..3)
            && let Some(byte) =
                std::str::from_utf8(octal).ok().and_then(|o| u8::from_str_radix(o, 8).ok())
        {
            plain.push(byte);
            rest = &tail[3..];
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    plain
}

/// Makes a mountpoint comparable with the table: absolute, links followed.
///
/// A mounted filesystem is not asked: its server may be dead, hang, or turn us away.
pub fn resolve(mountpoint: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(mountpoint)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        // "/" or a path that ends in "..".
        return absolute.canonicalize();
    };
    let joined = parent.canonicalize()?.join(name);
    if topmost_at(&joined)?.is_some() { Ok(joined) } else { joined.canonicalize() }
}

/// Tells whether an error is what the kernel answers for a FUSE mount without server.
pub fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// Returns a path for messages, in one line.
pub fn show(path: &Path) -> String {
    let text = crate::escape::lines_of(path.as_os_str().as_bytes());
    crate::escape::one_line(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 28 0:21 / /proc rw,nosuid - proc proc rw
36 28 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue
40 28 0:45 / /cvmfs/x ro,nosuid,nodev shared:7 - fuse cvmfs2 ro,user_id=0,group_id=0
41 40 0:46 / /cvmfs/x ro,nosuid,nodev - fuse.sshfs h:\\134x ro
garbage
42 28 0:47 / /short
";

    #[test]
    fn the_topmost_mount_of_a_path() {
        let table = [
            ("/proc", Some(("0:21", "proc", "proc", false))),
            ("/mnt/a b", Some(("98:0", "ext3", "/dev/root", false))),
            ("/cvmfs/x", Some(("0:46", "fuse.sshfs", "h:\\x", true))),
            ("/cvmfs", None),
            ("/short", None),
        ];
        for (path, expected) in table {
            let found = find(TABLE, Path::new(path));
            let found = found.as_ref().map(|m| {
                (m.device, &*m.fs_type, m.source.to_str().unwrap_or_default(), m.is_fuse())
            });
            let expected = expected.map(|(device, fs_type, source, is_fuse)| {
                (device.parse().unwrap(), fs_type, source, is_fuse)
            });
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn propagation_of_each() {
        let found: Vec<_> = parse(TABLE).iter().map(|entry| entry.propagation).collect();
        assert_eq!(
            found,
            [Propagation::Private, Propagation::Slave, Propagation::Shared, Propagation::Private]
        );
    }

    #[test]
    fn volumes_of_a_container() {
        let table = b"\
1 99 0:40 / / rw - overlay overlay rw
2 1 8:1 /v /volume rw shared:3 - ext4 /dev/a rw
3 2 0:45 / /volume/x ro shared:4 - fuse cvmfs2 ro
4 1 0:46 / /cvmfs ro shared:5 - fuse cvmfs2 ro
5 1 0:47 / /slave ro master:5 - fuse cvmfs2 ro
";
        let mounts = parse(table);
        let volumes = mounts.iter().filter(|mount| is_shared_from_outside(&mounts, mount));
        assert_eq!(volumes.map(|mount| mount.id).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn this_machine_has_a_proc() {
        let proc = resolve(Path::new("/proc/../proc/")).unwrap();
        assert_eq!(resolve(Path::new("/proc")).unwrap(), Path::new("/proc"));
        assert_eq!(proc, Path::new("/proc"));
        let proc = topmost_at(&proc).unwrap().unwrap();
        assert_eq!((&*proc.fs_type, proc.is_fuse()), ("proc", false));
    }

    #[test]
    fn resolved_mountpoints() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        for (path, expected) in [
            ("real", Some("real")),
            ("link", Some("real")),
            ("./link/", Some("real")),
            ("real/../real", Some("real")),
            ("missing", None),
            ("missing/x", None),
        ] {
            let resolved = resolve(&root.join(path)).ok();
            assert_eq!(resolved, expected.map(|e| root.join(e)), "{path}");
        }
    }
}
