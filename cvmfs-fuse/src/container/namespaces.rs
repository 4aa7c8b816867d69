//! User and mount namespaces: made, joined, and the caller's identity in them.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags};

use super::diagnosis::{Step, errno_of};

/// Who called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Identity {
    /// Returns the identity of this process.
    pub fn of_process() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }
}

/// A refused step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub step: Step,
    /// How.
    pub errno: Errno,
}

/// The one line of a map of users or groups for each, ready to be written: nothing is allocated
/// between fork and exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Maps {
    users: String,
    groups: String,
}

impl Maps {
    /// `inside` is who `outside` is in the new namespace.
    pub(super) fn new(inside: Identity, outside: Identity) -> Self {
        Self {
            users: format!("{} {} 1\n", inside.uid, outside.uid),
            groups: format!("{} {} 1\n", inside.gid, outside.gid),
        }
    }

    /// Makes a user namespace for this process, and what else `with` says. Only system calls are
    /// made. The process must have one thread.
    pub(super) fn unshare(&self, with: CloneFlags) -> Result<(), Refusal> {
        unshare(CloneFlags::CLONE_NEWUSER | with)
            .map_err(|errno| Refusal { step: Step::Namespace, errno })?;
        let refused = |error: io::Error| Refusal { step: Step::Identity, errno: errno_of(&error) };
        // Without this a user may map no group. Where the namespace above has said so it is said.
        write(c"/proc/self/setgroups", b"deny").map_err(refused)?;
        write(c"/proc/self/uid_map", self.users.as_bytes()).map_err(refused)?;
        write(c"/proc/self/gid_map", self.groups.as_bytes()).map_err(refused)
    }
}

fn write(path: &CStr, text: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel takes such a file in one piece or not at all.
    rustix::io::write(&file, text)?;
    Ok(())
}

/// Root of a new user namespace, as which this program mounts.
pub(super) const ROOT: Identity = Identity { uid: 0, gid: 0 };

/// Makes this process root of a user and mount namespace of its own.
pub(super) fn own_user_namespace(caller: Identity) -> Result<(), Refusal> {
    Maps::new(ROOT, caller).unshare(CloneFlags::CLONE_NEWNS)?;
    hide_mounts()
}

/// Gives this process a mount namespace of its own.
pub(super) fn own_mount_namespace() -> Result<(), Refusal> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| Refusal { step: Step::Mount, errno })?;
    hide_mounts()
}

/// What is mounted outside from now on is seen inside, not the other way round.
fn hide_mounts() -> Result<(), Refusal> {
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(|errno| Refusal { step: Step::Mount, errno })
}

/// What [`join`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joined {
    /// The user namespace was joined: this process is root in it.
    User,
    /// Only the mount namespace was another one, or none.
    Mounts,
}

/// Joins the user and mount namespaces of a process, as far as they are others than ours.
pub(super) fn join(pid: i32) -> io::Result<Joined> {
    let open = |kind: &str| {
        let (theirs, ours) = (namespace(&pid.to_string(), kind), namespace("self", kind));
        let same = std::fs::read_link(&theirs)? == std::fs::read_link(ours)?;
        if same { Ok(None) } else { File::open(theirs).map(Some) }
    };
    let (user, mounts) = (open("user")?, open("mnt")?);
    if let Some(user) = &user {
        setns(user, CloneFlags::CLONE_NEWUSER)?;
    }
    if let Some(mounts) = mounts {
        setns(mounts, CloneFlags::CLONE_NEWNS)?;
    }
    Ok(if user.is_some() { Joined::User } else { Joined::Mounts })
}

/// Returns the process that is in the namespaces which a `run` has made: `pid` itself or, for a
/// process 1 that stayed outside, its child there.
pub(super) fn resident_of(pid: i32) -> i32 {
    /// Some hundred children.
    const LIMIT: u64 = 4096;
    let user = |process: &str| std::fs::read_link(namespace(process, "user")).ok();
    let own = user("self");
    if user(&pid.to_string()) != own {
        return pid;
    }
    let children = format!("/proc/{pid}/task/{pid}/children");
    let children = crate::config::read_bounded(children.as_ref(), LIMIT).unwrap_or_default();
    let children = String::from_utf8_lossy(&children).into_owned();
    let mut inside = children.split_whitespace().filter(|child| {
        let namespace = user(child);
        namespace.is_some() && namespace != own
    });
    inside.next().and_then(|child| child.parse().ok()).unwrap_or(pid)
}

/// Returns who runs a process.
pub(super) fn identity_of(pid: i32) -> io::Result<Identity> {
    let found = std::fs::metadata(format!("/proc/{pid}"))?;
    Ok(Identity { uid: found.uid(), gid: found.gid() })
}

/// Becomes root of the namespace that was joined: root of the host is nobody there.
pub(super) fn become_root() -> io::Result<()> {
    if Identity::of_process() != ROOT {
        let (group, user) = (ROOT.gid.into(), ROOT.uid.into());
        nix::unistd::setresgid(group, group, group)?;
        nix::unistd::setresuid(user, user, user)?;
        // Who changes its user loses its own files in /proc, and with them the maps to be written.
        nix::sys::prctl::set_dumpable(true)?;
    }
    Ok(())
}

fn namespace(process: &str, kind: &str) -> PathBuf {
    format!("/proc/{process}/ns/{kind}").into()
}

/// The first pid namespace of a machine has this number on every kernel (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Tells whether this is a container with processes of its own. Its table of mounts is its own
/// too, and whoever joins it (`docker exec`) expects to see the mounts there.
pub(super) fn in_a_container() -> bool {
    nix::unistd::getpid().as_raw() == 1
        || std::fs::read_link(namespace("self", "pid"))
            .is_ok_and(|link| link != std::path::Path::new(FIRST_PID_NAMESPACE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_one_line() {
        let caller = Identity { uid: 1001, gid: 50 };
        let maps = Maps::new(ROOT, caller);
        assert_eq!((maps.users.as_str(), maps.groups.as_str()), ("0 1001 1\n", "0 50 1\n"));
        let back = Maps::new(caller, ROOT);
        assert_eq!((back.users.as_str(), back.groups.as_str()), ("1001 0 1\n", "50 0 1\n"));
    }

    #[test]
    fn who_made_no_namespace_is_in_none() {
        let ours = i32::try_from(std::process::id()).unwrap();
        assert_eq!(resident_of(ours), ours);
        assert_eq!(resident_of(i32::MAX), i32::MAX);
    }

    #[test]
    fn our_own_namespaces_are_joined_already() {
        let ours = i32::try_from(std::process::id()).unwrap();
        assert_eq!(join(ours).unwrap(), Joined::Mounts);
        assert!(join(i32::MAX).is_err());
    }
}
