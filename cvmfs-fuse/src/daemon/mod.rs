//! A mount from start to end: checks, background process, signals, unmounting.
//!
//! | module | what it holds |
//! |---|---|
//! | [`serve`], `begin` | builds everything in order, serves, stops orderly |
//! | [`automount`] | the same for all repositories on one directory |
//! | `succession`, `child` | who serves a mount, one after the other |
//! | [`supervisor`] | the process that outlives servers |
//! | [`estate`], `letters` | what it keeps for the next one, and what they say to each other |
//! | `own_mount` | what a supervisor knows of its mount by itself |
//! | `pace` | how often something may happen that others cause |
//! | `identity` | root starts, another user serves |
//! | `confinement` | what a server of these settings keeps of its rights |
//! | `shrinker` | what a supervisor does for servers on older kernels |
//! | `process` | memory, descriptors and processors of a server |
//! | `talking` | the control sockets of what is served |
//! | `update`, `prune` | what the kernel is told: new revisions, and that it knows too much |
//! | `telemetry` | figures for InfluxDB |
//! | `abort` | the end of a mount that nobody serves |
//! | [`holder`] | who outlives the supervisor |
//! | `crash` | what a server leaves in its log that dies of a defect |
//! | [`control`] | how a supervisor is asked for an upgrade |
//! | [`background`] | the background process, and what it tells its parent |
//! | [`mountpoint`] | may we mount there, and what is there already |
//! | [`umount`] | the other direction, from outside |
//! | [`log`] | where messages go |

pub(crate) mod abort;
pub mod automount;
pub mod background;
mod begin;
pub(crate) mod child;
mod confinement;
pub mod control;
mod crash;
pub mod estate;
#[cfg(feature = "fuzzing")]
mod fuzzing;
pub mod holder;
mod identity;
mod letters;
pub mod log;
pub mod mountpoint;
pub(crate) mod own_mount;
mod pace;
mod process;
mod prune;
pub mod serve;
pub mod shrinker;
pub(crate) mod succession;
pub mod supervisor;
mod talking;
mod telemetry;
pub mod umount;
mod update;

use std::io::{self, Write as _};
use std::path::Path;

use crate::cli::exit::{ExitStatus, Failure};
use crate::config::{
    AutomountSettings, MountOptions, MountSettings, ProcessSettings, RepositorySettings,
};
use crate::fuse::mountinfo::show;
use own_mount::OwnMount;
use serve::{Origin, Usable};

/// Input of the fuzz target `supervisor_protocol`.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_supervisor_protocol(data: &[u8]) {
    fuzzing::supervisor_protocol(data);
}

pub use umount::unmount;

/// What a process can be asked to serve: one repository, or all of them.
pub trait Service {
    /// Which of the processes of the mount this is.
    fn process(&self) -> &ProcessSettings;
    /// Where, as the user named it; absolute.
    fn mountpoint(&self) -> &Path;
    /// How it is mounted.
    fn options(&self) -> &MountOptions;
    /// Settings of the repository, or of one of them.
    fn model(&self) -> &RepositorySettings;
    /// Under which name its log is kept.
    fn name(&self) -> &str;
    /// The repository, if it is one.
    fn repository(&self) -> Option<&str>;
    /// What a user is told who waits.
    fn progress(&self) -> String;
    /// Mounts and serves until the end, see [`serve::serve`].
    fn serve(
        &self,
        origin: Origin,
        ready: impl FnOnce(Usable) -> io::Result<()>,
    ) -> Result<(), Failure>;
}

impl Service for MountSettings {
    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    fn options(&self) -> &MountOptions {
        &self.options
    }

    fn model(&self) -> &RepositorySettings {
        &self.repository
    }

    fn name(&self) -> &str {
        self.repository.fqrn.as_str()
    }

    fn repository(&self) -> Option<&str> {
        Some(self.repository.fqrn.as_str())
    }

    fn progress(&self) -> String {
        let servers = self.repository.servers.join(", ");
        format!("contacting {servers} for {}", self.repository.fqrn)
    }

    fn serve(
        &self,
        origin: Origin,
        ready: impl FnOnce(Usable) -> io::Result<()>,
    ) -> Result<(), Failure> {
        serve::serve(self, origin, ready)
    }
}

impl Service for AutomountSettings {
    fn process(&self) -> &ProcessSettings {
        &self.process
    }

    fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    fn options(&self) -> &MountOptions {
        &self.options
    }

    fn model(&self) -> &RepositorySettings {
        &self.model
    }

    fn name(&self) -> &str {
        "automount"
    }

    fn repository(&self) -> Option<&str> {
        None
    }

    fn progress(&self) -> String {
        format!("mounting on {}", show(&self.mountpoint))
    }

    fn serve(
        &self,
        origin: Origin,
        ready: impl FnOnce(Usable) -> io::Result<()>,
    ) -> Result<(), Failure> {
        automount::serve(self, origin, ready)
    }
}

/// Mounts.
///
/// In the foreground it returns when the directory was unmounted. Otherwise it starts a
/// background process and returns when the mount is usable. Either way the mount is served by a
/// child, which is this program with the same arguments, so only a command line that mounts may
/// ask for it.
pub fn mount(service: &impl Service) -> Result<ExitStatus, Failure> {
    let process = service.process();
    if process.foreground || process.ready_fd.is_some() || process.server_fd.is_some() {
        let partner = identity::account_of(service).map(|account| account.uid);
        log::direct(&service.model().parameters.logging, service.repository(), partner);
    }
    if let Some(descriptor) = process.server_fd {
        background::serve_supervised(service, descriptor)?;
        return Ok(ExitStatus::Ok);
    }
    if let Some(descriptor) = process.ready_fd {
        process::keep_memory_private(&service.model().parameters.process);
        return background::run(service, descriptor);
    }
    if let Some(account) = identity::account_of(service) {
        let directory = &service.model().cache.directory;
        if let Err(error) = account.give_cache(directory) {
            tracing::warn!(%error, "cannot give the cache directory to {}", account.shown());
        }
    }
    if process.foreground {
        process::keep_memory_private(&service.model().parameters.process);
        let own = OwnMount::at(service.mountpoint());
        let claimed = held_at(service).map(|place| holder::Deposit::claim(place, &own));
        return supervisor::run(
            supervisor::Place::Foreground,
            own,
            claimed.transpose()?,
            &service.model().cache.directory,
        );
    }
    let usable = background::start(service)?;
    announce(service.mountpoint(), usable);
    Ok(ExitStatus::Ok)
}

/// Who holds the mount besides its supervisor.
fn held_at(service: &impl Service) -> Option<holder::Place> {
    service.process().holder.clone().map(|socket| holder::Place {
        socket,
        user: service.process().holder_user,
        name: service.name().to_owned(),
        mountpoint: service.mountpoint().to_owned(),
    })
}

/// The line that scripts around upstream's client wait for (spec/config.md section 5).
fn announce(mountpoint: &Path, usable: Usable) {
    let mountpoint = show(mountpoint);
    let mut stdout = std::io::stdout().lock();
    // Nobody may be listening; that does not matter to the mount.
    let _ = match usable {
        Usable::Mounted => writeln!(stdout, "CernVM-FS: mounted cvmfs on {mountpoint}"),
        Usable::AlreadyMounted => {
            writeln!(stdout, "CernVM-FS: already mounted on {mountpoint}")
        }
    };
    let _ = stdout.flush();
}
