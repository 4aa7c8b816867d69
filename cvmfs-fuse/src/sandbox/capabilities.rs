//! Which process keeps which capability.
//!
//! | capability | server | supervisor | servers may be started with it |
//! |---|---|---|---|
//! | `SYS_ADMIN` | only with `CVMFS_FUSE_PASSTHROUGH=yes`: to register backing files | to detach the mount | the process that mounts |
//! | `DAC_OVERRIDE` | only where the cache belongs to somebody who shuts root out | the log lies in such a cache | as the server |
//! | `DAC_READ_SEARCH` | only where a `file://` server shuts root out | | as the server |
//! | `CHOWN` | only with `CVMFS_TALK_OWNER`: the control socket is given to that user | | a new cache and the mountpoint are given to `CVMFS_USER` |
//! | `FOWNER`, `FSETID` | | | the mountpoint gets its mode |
//! | `KILL` | | to end a server of another user | |
//! | `SETUID`, `SETGID` | | | to become `CVMFS_USER`, to join the group of the cache |
//! | `SETPCAP` | | | to empty the bounding set |
//! | `SYS_RESOURCE` | | | `CVMFS_OOM_SCORE_ADJ`, `CVMFS_NFILES` |
//! | all others | | | |
//!
//! Inheritable and ambient sets are empty in all of them, and the bounding set is in servers. The bounding set of
//! a supervisor is what the last column says: a program that root executes gets that whole set, and the supervisor
//! executes the next server. Its permitted set is the same: a server that gained capabilities by being executed would
//! not end with a supervisor that is killed (the kernel forgets PR_SET_PDEATHSIG then). Nobody gains what it did not
//! have: a container that was given less keeps less.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Gid, getegid, geteuid, getgroups};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What a supervisor has in effect.
pub const SUPERVISOR: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::KILL).union(CapabilitySet::DAC_OVERRIDE);

/// What servers of a supervisor may be started with.
pub const STARTED_WITH: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_RESOURCE);

/// One after the highest number that the kernel's sets have room for.
const BITS: u32 = u64::BITS;
/// Permission to read and search, and to write as well.
const READ: u32 = 0o5;
const WRITE: u32 = 0o7;
/// The bits of a directory that is shared with a group.
const GROUP_WRITABLE: u32 = 0o020;

/// Returns the capabilities that this thread has in effect; none if the kernel does not tell.
pub fn held() -> CapabilitySet {
    rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// Gives up, in this thread and those that it will start, all capabilities but those to keep, and all that
/// programs may gain but `bounding`.
///
/// Only system calls are made: it may be called between fork and exec.
///
/// # Errors
/// If the kernel refuses to take capabilities away. Where the bounding set is not ours to change, it stays.
pub fn restrict(keep: CapabilitySet, bounding: CapabilitySet) -> io::Result<()> {
    bound(bounding)?;
    match rustix::thread::clear_ambient_capability_set() {
        // Kernels before 4.3 have no such set.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let held = rustix::thread::capabilities(None)?;
    let kept = CapabilitySets {
        effective: held.effective & keep,
        permitted: held.permitted & keep,
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, kept)?)
}

/// Gives up what a supervisor and its servers do not need.
///
/// # Errors
/// As [`restrict`].
pub fn supervise() -> io::Result<()> {
    restrict(STARTED_WITH, STARTED_WITH)?;
    let held = rustix::thread::capabilities(None)?;
    let effective = held.effective & SUPERVISOR;
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective, ..held })?)
}

/// Gives up what programs may gain that this thread executes, but `bounding`. That takes CAP_SETPCAP.
///
/// # Errors
/// If the kernel refuses for another reason than that this process may not.
pub fn bound(bounding: CapabilitySet) -> io::Result<()> {
    for number in 0..BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if bounding.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // There are no more, or it takes CAP_SETPCAP. Then no_new_privs keeps exec from giving any.
            Err(Errno::INVAL | Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Gives up all capabilities of this thread, for threads that begin before the sandbox is entered.
///
/// # Errors
/// If the kernel refuses.
pub fn drop_in_this_thread() -> io::Result<()> {
    restrict(CapabilitySet::empty(), CapabilitySet::empty())
}

/// Lets root be a member of the group with which a directory is shared, so that it needs no capability to work
/// with what the others of that group make there.
pub fn join_group_of(directory: &Path) {
    let Ok(found) = std::fs::metadata(directory) else { return };
    if !geteuid().is_root() || found.mode() & GROUP_WRITABLE == 0 || is_member(found.gid()) {
        return;
    }
    let groups = getgroups().map_err(io::Error::from);
    let joined = groups.and_then(|groups| {
        let all = groups.iter().map(|group| group.as_raw()).chain([found.gid()]);
        let all: Vec<_> = all.map(rustix::process::Gid::from_raw).collect();
        // Of this thread and those that it starts.
        Ok(rustix::thread::set_thread_groups(&all)?)
    });
    if let Err(error) = joined {
        tracing::debug!(%error, gid = found.gid(), "cannot join the group of the cache");
    }
}

/// Returns the capability without which this process cannot read and write in a directory, if there is one.
pub fn to_write(directory: &Path) -> CapabilitySet {
    if is_open_to_us(directory, WRITE) {
        CapabilitySet::empty()
    } else {
        CapabilitySet::DAC_OVERRIDE
    }
}

/// Returns the capability without which this process cannot read a directory, if there is one.
pub fn to_read(directory: &Path) -> CapabilitySet {
    if is_open_to_us(directory, READ) {
        CapabilitySet::empty()
    } else {
        CapabilitySet::DAC_READ_SEARCH
    }
}

/// Tells whether the mode bits of a directory, and of those above it, let this process in. What is missing will
/// be made in the nearest directory that is there.
fn is_open_to_us(directory: &Path, wanted: u32) -> bool {
    let mut wanted = wanted;
    for part in directory.ancestors() {
        let Ok(found) = std::fs::metadata(part) else { continue };
        if !allows(found.mode(), found.uid(), found.gid(), wanted) {
            return false;
        }
        // Of those above, only the search.
        wanted = 0o1;
    }
    true
}

fn allows(mode: u32, uid: u32, gid: u32, wanted: u32) -> bool {
    let class = if uid == geteuid().as_raw() {
        6
    } else if is_member(gid) {
        3
    } else {
        0
    };
    mode >> class & wanted == wanted
}

fn is_member(gid: u32) -> bool {
    getegid().as_raw() == gid
        || getgroups().is_ok_and(|groups| groups.contains(&Gid::from_raw(gid)))
}
