//! Root starts a mount, and another user serves it: `CVMFS_USER` (spec/config.md, section 3.1).
//!
//! | process | who | what it does |
//! |---|---|---|
//! | supervisor | root | starts servers, detaches the mount; hears nothing of the network |
//! | [`Mounter`] | root | mounts once, and ends |
//! | server | the account | everything else |
//!
//! A server gives root up before its runtime has threads, and cannot get it back: all ids are set, no
//! capability stays, and it may start no program ([`crate::sandbox`]).

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use cvmfs_cache::safe_path;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, getppid, setfsgid, setfsuid};
use rustix::fs::{Mode, OFlags};

use super::Service;
use super::serve::Origin;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::Account;
use crate::fuse::mounter::{Ground, Mounter};
use crate::fuse::premounted;

/// Starts the process that mounts, since the server gives up the right to do so before it opens a repository.
pub(super) fn ground(
    service: &impl Service,
    origin: &Origin,
    mountpoint: PathBuf,
    account: Option<&Account>,
) -> Result<Ground, Failure> {
    if premounted::number_of(service.mountpoint()).is_some() {
        return Ok(Ground { mountpoint, mounter: None, stays: false });
    }
    // A server that is to clean up after its supervisor.
    let stays = prctl::get_pdeathsig() == Ok(Some(Signal::SIGTERM));
    let refused = |error: io::Error| {
        Failure::caused(ExitStatus::Mount, "cannot start the process that mounts", &error)
    };
    let options = service.options();
    if matches!(origin, Origin::Successor(_)) {
        // What it is told about the mount may be wrong; where it was asked to mount is not.
        let place = service.mountpoint();
        let remover = stays.then(|| Mounter::start(place, options, None)).transpose();
        return Ok(Ground { mountpoint, mounter: remover.map_err(refused)?, stays });
    }
    if let Some(account) = account
        && options.grab_mountpoint
        && let Err(error) = grab(&mountpoint, account)
    {
        // On a volume of somebody else, or read-only. It is covered by the mount anyway.
        tracing::warn!(%error, "cannot give the mountpoint to {}", account.shown());
    }
    let mounter = Mounter::start(&mountpoint, options, account).map_err(refused)?;
    Ok(Ground { mountpoint, mounter: Some(mounter), stays })
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
