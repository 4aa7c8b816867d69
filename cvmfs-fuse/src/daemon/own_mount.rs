//! What a supervisor knows of its mount by itself. Its server may be another user's and compromised, so
//! nothing that a server says decides what root detaches or aborts.
//!
//! | fact | where it comes from |
//! |---|---|
//! | the mountpoint | the supervisor's own command line, resolved before the first server was started |
//! | the connection | a descriptor of the server, which must be /dev/fuse (character device 10:229) and alive |
//! | its number | `fuse_connection` in /proc/self/fdinfo of that descriptor, from Linux 6.15 on |
//! | the device | /proc/self/mountinfo at the mountpoint; its minor number must be that of the connection |
//!
//! Before Linux 6.15 the kernel does not tell which connection a descriptor belongs to. Then the topmost mount at the
//! mountpoint must be a FUSE mount, and its device is taken. What a false descriptor could do there is to keep the
//! server's own mount from its successors: only what is at the mountpoint is detached or aborted.
//!
//! A mount that a holder kept may be out of sight, in the mount namespace of the container before. Its device
//! is then known from the connection alone; nothing is detached here, and an abort ends that connection only.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::abort;
use crate::fuse::device::Device;
use crate::fuse::handover::{Greeting, Mount};
use crate::fuse::mountinfo::{self, MountEntry};
use crate::fuse::premounted;
use crate::fuse::received::{Kind, connection_of, kind_of};

/// Why a mount is not the supervisor's own.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOurs {
    /// A descriptor of something else.
    #[error("its descriptor is not /dev/fuse")]
    NotFuse,
    /// Unmounted, aborted, or never mounted.
    #[error("its connection has ended")]
    Over,
    /// Not what the kernel and a server say when a connection begins.
    #[error("its greeting makes no sense")]
    Greeting,
    /// The connection is that of another mount.
    #[error("its connection is not that of the mount at the mountpoint")]
    Elsewhere,
    /// The mount table cannot be read.
    #[error("the mount table cannot be read")]
    Table(#[source] io::Error),
}

/// Who tells of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Teller {
    /// A server, which has just made it.
    Server,
    /// A holder, which has kept it.
    Holder,
}

/// What the kernel is asked.
pub(super) trait Kernel {
    /// Whether a descriptor is /dev/fuse.
    fn is_fuse(&self, descriptor: BorrowedFd<'_>) -> bool {
        kind_of(descriptor) == Kind::Fuse
    }

    /// Whether its connection has ended.
    fn is_over(&self, connection: &OwnedFd) -> bool {
        abort::is_over(connection)
    }

    /// Number of its connection, where the kernel tells.
    fn connection_of(&self, descriptor: BorrowedFd<'_>) -> Option<u32> {
        connection_of(descriptor)
    }

    /// What is mounted at a place, the topmost last.
    fn mounts_at(&self, place: &Path) -> io::Result<Vec<MountEntry>> {
        mountinfo::all_at(place)
    }
}

/// The kernel that we run on.
#[derive(Debug)]
pub(super) struct Present;

impl Kernel for Present {}

/// Where the mount of a supervisor is.
pub(crate) struct OwnMount {
    place: PathBuf,
    kernel: Box<dyn Kernel>,
}

impl OwnMount {
    /// Notes the mountpoint as the command line has it; links in it are followed now, not later.
    pub(crate) fn at(mountpoint: &Path) -> Self {
        let is_premounted = premounted::number_of(mountpoint).is_some();
        let resolved = (!is_premounted).then(|| mountinfo::resolve(mountpoint).ok()).flatten();
        // A server says what is wrong with a path that cannot be resolved.
        let place = resolved.unwrap_or_else(|| mountpoint.to_owned());
        Self { place, kernel: Box::new(Present) }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn of_kernel(place: &Path, kernel: impl Kernel + 'static) -> Self {
        Self { place: place.to_owned(), kernel: Box::new(kernel) }
    }

    /// Returns a mount as the kernel shows it, if that is the supervisor's own. `said` is the device that somebody
    /// else names; it only counts where it is also in the mount table.
    pub(super) fn verify(
        &self,
        connection: OwnedFd,
        greeting: Greeting,
        said: Option<Device>,
        teller: Teller,
    ) -> Result<Mount, NotOurs> {
        if !self.kernel.is_fuse(connection.as_fd()) {
            return Err(NotOurs::NotFuse);
        }
        if !greeting.is_sound() {
            return Err(NotOurs::Greeting);
        }
        if self.kernel.is_over(&connection) {
            return Err(NotOurs::Over);
        }
        let known = self.kernel.connection_of(connection.as_fd()).map(Device::of_connection);
        let device = match premounted::number_of(&self.place) {
            Some(number) => self.premounted(number, known, teller)?,
            None => self.mounted(known, said, teller)?,
        };
        Ok(Mount { connection, greeting, mountpoint: self.place.clone(), device })
    }

    /// Of a mount that others made: the supervisor was given the same descriptor as the server.
    fn premounted(
        &self,
        number: i32,
        known: Option<Device>,
        teller: Teller,
    ) -> Result<Option<Device>, NotOurs> {
        let own = premounted::connection(number).ok();
        let own = own.and_then(|own| self.kernel.connection_of(own.as_fd()));
        match (own.map(Device::of_connection), teller) {
            (Some(own), Teller::Server) if known != Some(own) => Err(NotOurs::Elsewhere),
            _ => Ok(known),
        }
    }

    fn mounted(
        &self,
        known: Option<Device>,
        said: Option<Device>,
        teller: Teller,
    ) -> Result<Option<Device>, NotOurs> {
        let here = self.kernel.mounts_at(&self.place).map_err(NotOurs::Table)?;
        let is_here =
            |device: Device| here.iter().any(|entry| entry.is_fuse() && entry.device == device);
        match (known, teller) {
            (Some(known), Teller::Server) if !is_here(known) => Err(NotOurs::Elsewhere),
            (Some(known), _) => Ok(Some(known)),
            (None, Teller::Server) => match here.last().filter(|top| top.is_fuse()) {
                Some(top) => Ok(Some(top.device)),
                None => Err(NotOurs::Elsewhere),
            },
            (None, Teller::Holder) => Ok(said.filter(|said| is_here(*said))),
        }
    }
}

#[cfg(test)]
mod tests;
