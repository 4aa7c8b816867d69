//! mount(2) of /dev/fuse, or fusermount for users who may not; and the way back.
//!
//! fuser can mount by itself, but its session unmounts the path again when it ends, whoever has
//! mounted there since (fuser 0.18 `mnt::is_mounted` is true for a dead connection). So that
//! `umount X; cvmfs-fuse mount REPO X` is safe, we mount, and hand fuser the descriptor.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::premounted;
use crate::config::MountOptions;

/// Where the kernel hands out FUSE connections.
pub const DEVICE: &str = "/dev/fuse";

/// Names of the setuid helper, newest first.
pub(crate) const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];
/// Tells the helper on which descriptor to send the connection (mount.fuse3(8)).
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel has no FUSE, or the container does not show it.
    #[error("cannot open {DEVICE}")]
    NoDevice(#[source] io::Error),
    /// Neither we nor a helper may mount.
    #[error("not allowed to mount, and neither fusermount3 nor fusermount is installed")]
    NotAllowed(#[source] io::Error),
    /// The kernel refused.
    #[error("mount(2) failed")]
    Refused(#[source] io::Error),
    /// The helper refused.
    #[error("{helper} failed: {message}")]
    Helper {
        /// Its name.
        helper: &'static str,
        /// What it wrote on stderr.
        message: String,
    },
    /// The helper could not be talked to.
    #[error("cannot talk to {helper}")]
    HelperSocket {
        /// Its name.
        helper: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The kernel's first message was not answered.
    #[error("cannot start the FUSE connection")]
    Handshake(#[source] io::Error),
    /// No threads.
    #[error("cannot start the FUSE worker threads")]
    Threads(#[source] io::Error),
}

impl MountError {
    /// Returns what the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::NoDevice(_) => Some(
                "run 'modprobe fuse' as root, or in a container start it with --device /dev/fuse",
            ),
            Self::NotAllowed(_) => Some(
                "install fuse3 (fusermount3), or run as root, or mount for one command with \
                 'cvmfs-fuse run --repo FQRN -- CMD', or start the container with --cap-add \
                 SYS_ADMIN --device /dev/fuse",
            ),
            Self::Helper { message, .. } if message.contains("user_allow_other") => {
                Some("leave out -o allow_other, or add user_allow_other to /etc/fuse.conf")
            }
            Self::Helper { message, .. } if message.contains("/dev/fuse") => {
                Some("users must be able to open the device: run 'chmod 666 /dev/fuse' as root")
            }
            Self::Helper { message, .. } if message.contains("Operation not permitted") => Some(
                "in a container, start it with --cap-add SYS_ADMIN --device /dev/fuse, or mount for \
                 one command with 'cvmfs-fuse run --repo FQRN -- CMD'",
            ),
            _ => None,
        }
    }
}

/// Mounts on a resolved directory and returns the connection.
///
/// With `place`, a descriptor of that directory, nobody can lead the path elsewhere meanwhile; only a helper
/// is told the path.
pub fn mount(
    place: Option<BorrowedFd<'_>>,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<OwnedFd, MountError> {
    let link = place.map(|place| PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd())));
    let target = link.as_deref().unwrap_or(mountpoint);
    let refusal = match open_device() {
        Ok(device) => match mount_now(&device, target, options) {
            Ok(()) => return Ok(device.into()),
            Err(errno @ (Errno::EPERM | Errno::EACCES)) if options.use_helper => errno.into(),
            Err(errno) => return Err(MountError::Refused(errno.into())),
        },
        // The helper may open what we may not.
        Err(error) if options.use_helper && error.kind() == io::ErrorKind::PermissionDenied => {
            error
        }
        Err(error) => return Err(MountError::NoDevice(error)),
    };
    mount_by_helper(mountpoint, options, refusal)
}

/// Opens the device; also tells whether worker threads can get descriptors of their own.
pub fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

/// Flags of every mount: content comes from strangers, so no set-user-id, no device nodes.
fn flags(options: &MountOptions) -> MsFlags {
    let mut flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_NOEXEC, options.noexec);
    flags
}

/// The kernel knows no allow_root: it lets everybody in, and fuser turns others away.
fn lets_others_in(options: &MountOptions) -> bool {
    options.allow_other || options.allow_root
}

/// mount(2) of an open device, for the user of the options or for us.
pub(super) fn mount_now(
    device: &File,
    mountpoint: &Path,
    options: &MountOptions,
) -> nix::Result<()> {
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        options.uid.unwrap_or_else(|| nix::unistd::getuid().as_raw()),
        options.gid.unwrap_or_else(|| nix::unistd::getgid().as_raw()),
    );
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    if lets_others_in(options) {
        data.push_str(",allow_other");
    }
    nix::mount::mount(
        Some(options.fs_name.as_str()),
        mountpoint,
        Some("fuse"),
        flags(options),
        Some(data.as_str()),
    )
}

fn helper_options(options: &MountOptions) -> String {
    let mut list = String::from("ro,nosuid,nodev");
    for (wanted, name) in [
        (options.noexec, "noexec"),
        (options.default_permissions, "default_permissions"),
        (lets_others_in(options), "allow_other"),
    ] {
        if wanted {
            list.push(',');
            list.push_str(name);
        }
    }
    // Commas separate options; fusermount takes them and backslashes escaped.
    list.push_str(",fsname=");
    list.push_str(&options.fs_name.replace('\\', "\\\\").replace(',', "\\,"));
    list
}

fn mount_by_helper(
    mountpoint: &Path,
    options: &MountOptions,
    refusal: io::Error,
) -> Result<OwnedFd, MountError> {
    for helper in HELPERS {
        let socket_error = |source: io::Error| MountError::HelperSocket { helper, source };
        // Without close-on-exec: the helper inherits its end. We start no other program meanwhile.
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
                .map_err(|errno| socket_error(errno.into()))?;
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)
            .map_err(|errno| socket_error(errno.into()))?;
        let child = Command::new(helper)
            .arg("-o")
            .arg(helper_options(options))
            .arg("--")
            .arg(mountpoint)
            .env(HELPER_SOCKET, theirs.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(socket_error(error)),
        };
        drop(theirs);
        let received = receive_descriptor(&ours);
        let output = child.wait_with_output().map_err(socket_error)?;
        return match received.map_err(socket_error)? {
            Some(connection) => Ok(connection),
            None => {
                let message = String::from_utf8_lossy(&output.stderr);
                let message = message.trim().trim_start_matches(helper).trim_start_matches(": ");
                Err(MountError::Helper { helper, message: message.to_owned() })
            }
        };
    }
    Err(MountError::NotAllowed(refusal))
}

/// Receives what the helper sends with one byte of data; `None` if it ends without sending.
fn receive_descriptor(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Why an unmount failed.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Files are open, or a process has its working directory inside.
    #[error("in use")]
    Busy,
    /// Nothing is mounted there (any more).
    #[error("not mounted")]
    NotMounted,
    /// Somebody else mounted it.
    #[error("not allowed to unmount")]
    NotAllowed(#[source] io::Error),
    /// The kernel refused.
    #[error("umount(2) failed")]
    Refused(#[source] io::Error),
    /// The helper refused.
    #[error("{helper} failed: {message}")]
    Helper {
        /// Its name.
        helper: &'static str,
        /// What it wrote on stderr.
        message: String,
    },
}

/// Unmounts a resolved path; `lazy` detaches it at once and leaves open files to their users.
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), UnmountError> {
    if premounted::number_of(mountpoint).is_some() {
        // Not by us.
        return Err(UnmountError::NotMounted);
    }
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, lazy);
    match nix::mount::umount2(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(UnmountError::Busy),
        Err(Errno::EINVAL) => Err(UnmountError::NotMounted),
        Err(errno @ Errno::EPERM) => unmount_by_helper(mountpoint, lazy, errno.into()),
        Err(errno) => Err(UnmountError::Refused(errno.into())),
    }
}

fn unmount_by_helper(
    mountpoint: &Path,
    lazy: bool,
    refusal: io::Error,
) -> Result<(), UnmountError> {
    for helper in HELPERS {
        let mut command = Command::new(helper);
        command.arg("-u");
        if lazy {
            command.arg("-z");
        }
        // Messages are recognised below.
        command.arg("--").arg(mountpoint).env("LC_ALL", "C").stdin(Stdio::null());
        let output = match command.output() {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(UnmountError::NotAllowed(error)),
        };
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(if message.contains("Device or resource busy") {
            UnmountError::Busy
        } else if message.contains("not found in /etc/mtab") {
            // fusermount also says so of mounts that other users made.
            UnmountError::NotAllowed(refusal)
        } else {
            UnmountError::Helper { helper, message }
        });
    }
    Err(UnmountError::NotAllowed(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_always_read_only_and_harmless() {
        let base = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let user = MountOptions::defaults(false);
        assert_eq!(flags(&user), base);
        let noexec = MountOptions { noexec: true, ..user.clone() };
        assert_eq!(flags(&noexec), base | MsFlags::MS_NOEXEC);
        for (options, list) in [
            (user.clone(), "ro,nosuid,nodev,default_permissions,fsname=cvmfs2"),
            (noexec, "ro,nosuid,nodev,noexec,default_permissions,fsname=cvmfs2"),
            (
                MountOptions { allow_root: true, fs_name: "a,b\\c".into(), ..user },
                "ro,nosuid,nodev,default_permissions,allow_other,fsname=a\\,b\\\\c",
            ),
        ] {
            assert_eq!(helper_options(&options), list);
        }
    }

    #[test]
    fn a_helper_that_sends_nothing() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        drop(theirs);
        assert!(receive_descriptor(&ours).unwrap().is_none());
    }

    #[test]
    fn a_path_that_is_no_mountpoint() {
        let dir = tempfile::tempdir().unwrap();
        let root = nix::unistd::geteuid().is_root();
        let error = unmount(dir.path(), false).unwrap_err();
        assert!(!root || matches!(error, UnmountError::NotMounted), "{error:?}");
    }
}
