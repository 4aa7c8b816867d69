//! A mount from start to end: checks, background process, signals, unmounting.
//!
//! | module | what it holds |
//! |---|---|
//! | [`serve`], `begin` | builds everything in order, serves, stops orderly |
//! | `succession`, `child` | who serves a mount, one after the other |
//! | [`supervisor`] | the process that outlives servers |
//! | [`estate`], `letters` | what it keeps for the next one, and what they say to each other |
//! | `abort` | the end of a mount that nobody serves |
//! | [`control`] | how a supervisor is asked for an upgrade |
//! | [`background`] | the background process, and what it tells its parent |
//! | [`mountpoint`] | may we mount there, and what is there already |
//! | [`umount`] | the other direction, from outside |
//! | [`log`] | where messages go |

mod abort;
pub mod background;
mod begin;
pub(crate) mod child;
pub mod control;
pub mod estate;
mod letters;
pub mod log;
pub mod mountpoint;
pub mod serve;
pub(crate) mod succession;
pub mod supervisor;
pub mod umount;
mod update;

use std::io::Write as _;
use std::path::Path;

use crate::cli::exit::{ExitStatus, Failure};
use crate::config::MountSettings;
use crate::fuse::mountinfo::show;
use serve::Usable;

pub use umount::unmount;

/// Mounts a repository.
///
/// In the foreground it returns when the repository was unmounted. Otherwise it starts a
/// background process and returns when the mount is usable. Either way the mount is served by a
/// child, which is this program with the same arguments, so only a command line that mounts may
/// ask for it.
pub fn mount(settings: MountSettings) -> Result<ExitStatus, Failure> {
    if let Some(descriptor) = settings.server_fd {
        background::serve_supervised(&settings, descriptor)?;
        return Ok(ExitStatus::Ok);
    }
    if let Some(descriptor) = settings.ready_fd {
        return background::run(descriptor);
    }
    if settings.foreground {
        return supervisor::run(supervisor::Place::Foreground);
    }
    let usable = background::start(&settings)?;
    announce(&settings.mountpoint, usable);
    Ok(ExitStatus::Ok)
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
