//! A mount from start to end: checks, background process, signals, unmounting.
//!
//! | module | what it holds |
//! |---|---|
//! | [`serve`] | builds everything in order, serves, stops orderly |
//! | [`supervisor`], [`estate`] | who outlives a server, and what for |
//! | [`background`] | the background process, and what it tells its parent |
//! | [`mountpoint`] | may we mount there, and what is there already |
//! | [`umount`] | the other direction, from outside |
//! | [`log`] | where messages go |

pub mod background;
pub mod estate;
pub mod log;
pub mod mountpoint;
pub mod serve;
pub mod supervisor;
pub mod umount;
mod update;

use std::io::Write as _;
use std::path::Path;

use crate::cli::exit::Failure;
use crate::config::MountSettings;
use crate::fuse::mountinfo::show;
use serve::Usable;

pub use umount::unmount;

/// Mounts a repository.
///
/// In the foreground it returns when the repository was unmounted. Otherwise it starts a
/// background process and returns when the mount is usable; the background process is this
/// program with the same arguments, so only a `mount` command line may ask for it.
pub fn mount(settings: MountSettings) -> Result<(), Failure> {
    if let Some(descriptor) = settings.server_fd {
        return background::serve_supervised(&settings, descriptor);
    }
    if let Some(descriptor) = settings.ready_fd {
        return match settings.supervised {
            true => background::run(descriptor),
            false => background::serve_alone(&settings, descriptor),
        };
    }
    if settings.foreground {
        return serve::serve(&settings, serve::Origin::Alone, |usable| {
            announce(&settings.mountpoint, usable);
            Ok(())
        });
    }
    let usable = background::start(&settings)?;
    announce(&settings.mountpoint, usable);
    Ok(())
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
