//! Root starts a mount, and another user serves it: `CVMFS_USER` (spec/config.md, section 3.1).
//!
//! | process | who | what it does |
//! |---|---|---|
//! | supervisor | root | starts servers, detaches the mount; hears nothing of the network |
//! | [`Mounter`](crate::fuse::mounter::Mounter) | root | mounts once, and ends |
//! | server | the account | everything else |
//!
//! A server gives root up before its runtime has threads, and cannot get it back: all ids are set, no
//! capability stays, and no program that it may start gains any.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use cvmfs_cache::safe_path;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, getppid, setfsgid, setfsuid};
use rustix::fs::{Mode, OFlags};

use super::Service;
use super::serve::Origin;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::Account;
use crate::fuse::mounter::{Ground, Mounter};
use crate::fuse::premounted;

/// Prepares what takes root, where the server will be another user.
pub(super) fn ground(
    service: &impl Service,
    origin: &Origin,
    mountpoint: PathBuf,
    account: Option<&Account>,
) -> Result<Ground, Failure> {
    let is_to_mount =
        matches!(origin, Origin::First(_)) && premounted::number_of(&mountpoint).is_none();
    let Some(account) = account.filter(|_| is_to_mount) else {
        return Ok(Ground { mountpoint, mounter: None });
    };
    let options = service.options();
    if options.grab_mountpoint
        && let Err(error) = grab(&mountpoint, account)
    {
        // On a volume of somebody else, or read-only. It is covered by the mount anyway.
        tracing::warn!(%error, "cannot give the mountpoint to {}", account.shown());
    }
    let mounter = Mounter::start(&mountpoint, options, account).map_err(|error| {
        Failure::caused(ExitStatus::Mount, "cannot start the process that mounts", &error)
    })?;
    Ok(Ground { mountpoint, mounter: Some(mounter) })
}

/// Returns as whom the servers of a mount work, if not as who started it.
pub(super) fn account_of(service: &impl Service) -> Option<Account> {
    Account::wanted(service.options(), &service.model().parameters)
}

/// As upstream: to the account, and with the usual mode.
fn grab(mountpoint: &Path, account: &Account) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = safe_path::open_directory(mountpoint)?;
    let directory = File::from(rustix::fs::openat(found, ".", flags, Mode::empty())?);
    account.own(&directory)?;
    rustix::fs::fchmod(directory.as_fd(), Mode::from_bits_truncate(0o755))?;
    Ok(())
}

/// Touches files as the account would, for as long as `work` takes; only in this thread.
pub(super) fn as_account<T>(account: Option<&Account>, work: impl FnOnce() -> T) -> T {
    let Some(account) = account else { return work() };
    let gid = setfsgid(Gid::from_raw(account.gid));
    let uid = setfsuid(Uid::from_raw(account.uid));
    let outcome = work();
    setfsuid(uid);
    setfsgid(gid);
    outcome
}

/// Gives root up for good.
pub(super) fn assume(account: &Account) -> Result<(), Failure> {
    let refused = |error: io::Error| {
        let what = format!("cannot serve as {}", account.shown());
        Failure::caused(ExitStatus::Permission, &what, &error)
    };
    let (parent, signal) = (getppid(), prctl::get_pdeathsig().map_err(|e| refused(e.into()))?);
    account.assume().map_err(|errno| refused(errno.into()))?;
    // No program that we start, as fusermount, is to gain anything.
    prctl::set_no_new_privs().map_err(|errno| refused(errno.into()))?;
    // The kernel forgot it with the change.
    if let Some(signal) = signal {
        prctl::set_pdeathsig(signal).map_err(|errno| refused(errno.into()))?;
        if getppid() != parent {
            return Err(refused(io::ErrorKind::NotConnected.into()));
        }
    }
    tracing::info!(user = account.shown(), "root is given up");
    Ok(())
}
