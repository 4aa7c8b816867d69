//! A mount's life: connect, serve, end.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use fuser::{Config, SessionACL};
use tokio::sync::oneshot;

use super::adapter::Adapter;
use super::backing::Backings;
use super::device::Device;
use super::greeting::MAX_READAHEAD;
use super::handover::{self, Mount};
use super::mount::MountError;
use super::mounter::{Ground, Mounter};
use super::mountinfo;
use super::notify::Notifier;
use super::premounted;
use crate::config::MountOptions;
use crate::fs::Vfs;

/// Enough for two requests being answered from disk while others are decoded.
const MIN_THREADS: usize = 4;
/// Workers never wait for the network, so more than this many only queue; libfuse stops at 10.
const MAX_THREADS: usize = 16;

/// A mounted filesystem whose requests are not answered yet.
pub struct MountedSession<V: Vfs> {
    session: fuser::Session<Adapter<V>>,
    /// Of the same connection, for notices.
    connection: OwnedFd,
    mountpoint: PathBuf,
    device: Option<Device>,
    remover: Option<Mounter>,
}

/// A mounted filesystem that answers.
#[derive(Debug)]
pub struct ServedMount {
    /// Where; resolved.
    pub mountpoint: PathBuf,
    /// Its device, where that is known.
    pub device: Option<Device>,
    /// Tells the kernel what it must forget.
    pub notifier: Arc<Notifier>,
    /// Who can remove the mount if the supervisor is gone.
    pub remover: Option<Mounter>,
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<io::Result<()>>,
}

/// Mounts so that a successor can take the connection over; returns what it needs for that. What is
/// mounted already is only connected to.
pub fn mount_supervised<V: Vfs>(
    adapter: Adapter<V>,
    ground: Ground,
    options: &MountOptions,
) -> Result<(MountedSession<V>, Mount), MountError> {
    let Ground { mountpoint, mounter, stays } = ground;
    let mountpoint = mountpoint.as_path();
    let mounted = premounted::number_of(mountpoint);
    let (connection, fresh) = match (mounted, mounter) {
        (Some(number), _) => (premounted::connection(number).map_err(MountError::Handshake)?, None),
        (None, Some(mounter)) => mounter.mount().map(|(made, fresh)| (made, Some(fresh)))?,
        (None, None) => {
            return Err(MountError::Refused(io::Error::other("there is no process that mounts")));
        }
    };
    let backings = adapter.backings();
    let connected = handover::connect(adapter, &connection, None, acl(options), present_config());
    // Of a failed one, whoever mounted it removes the mount.
    let (session, greeting) = connected.map_err(MountError::Handshake)?;
    connect(backings, &connection);
    let device = match mounted {
        Some(_) => premounted::device_of(&connection),
        None => device_of(mountpoint),
    };
    if let Some(device) = device.filter(|_| mounted.is_some()) {
        raise_readahead_of(device);
    }
    let mountpoint = mountpoint.to_owned();
    let own = connection.try_clone().map_err(MountError::Handshake)?;
    let kept = fresh.map_or(Ok(None), |fresh| fresh.keep(stays));
    let remover = kept.unwrap_or_else(|error| {
        tracing::debug!(%error, "the process that mounted is not ours any more");
        None
    });
    let left = Mount { connection, greeting, mountpoint: mountpoint.clone(), device };
    Ok((MountedSession { session, connection: own, mountpoint, device, remover }, left))
}

/// Takes over the connection of a dead server.
pub fn take_over<V: Vfs>(
    adapter: Adapter<V>,
    options: &MountOptions,
    mount: &Mount,
    remover: Option<Mounter>,
) -> Result<MountedSession<V>, MountError> {
    let Mount { connection, greeting, mountpoint, device } = mount;
    // From a supervisor or a holder, which may have been told anything.
    premounted::assert_kernel(connection).map_err(MountError::Handshake)?;
    let kept = Some(greeting);
    let adapter = adapter.going_on(greeting.terms());
    let backings = adapter.backings();
    let connected = handover::connect(adapter, connection, kept, acl(options), present_config());
    let (session, _) = connected.map_err(MountError::Handshake)?;
    connect(backings, connection);
    handover::resend(connection.as_fd()).map_err(MountError::Handshake)?;
    let connection = connection.try_clone().map_err(MountError::Handshake)?;
    let (mountpoint, device) = (mountpoint.to_owned(), *device);
    Ok(MountedSession { session, connection, mountpoint, device, remover })
}

fn connect(backings: Option<Arc<Backings>>, connection: &OwnedFd) {
    let Some(backings) = backings else { return };
    match connection.try_clone() {
        Ok(connection) => backings.connect(connection),
        Err(error) => tracing::warn!(%error, "files are not passed through to the kernel"),
    }
}

fn device_of(mountpoint: &Path) -> Option<Device> {
    match mountinfo::topmost_at(mountpoint) {
        Ok(entry) => entry.filter(mountinfo::MountEntry::is_fuse).map(|entry| entry.device),
        Err(error) => {
            tracing::warn!(%error, "cannot read the mount table");
            None
        }
    }
}

impl<V: Vfs> MountedSession<V> {
    /// Starts the worker threads.
    pub fn serve(self) -> Result<ServedMount, MountError> {
        let Self { session, connection, mountpoint, device, remover } = self;
        let names = session.notifier();
        let notifier = Arc::new(Notifier::new(names, connection));
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || {
                // The receiver may have stopped waiting.
                let _ = end.send(session.run());
            })
            .map_err(MountError::Threads)?;
        Ok(ServedMount { mountpoint, device, notifier, remover, thread, ended })
    }
}

impl ServedMount {
    /// Waits until the kernel ends the connection: unmounted, last user gone.
    ///
    /// May be cancelled and called again.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or_else(|_| Err(io::Error::other("session thread died")))
    }

    /// Waits for the threads; only after [`Self::ended`] returned.
    pub fn join(self) {
        // A panic was logged where it happened, and there is nobody else to tell.
        let _ = self.thread.join();
    }
}

fn config(cores: usize) -> Config {
    let mut config = Config::default();
    config.n_threads = Some(cores.clamp(MIN_THREADS, MAX_THREADS));
    // For a connection that outlives its server; see [`handover`].
    config.clone_fd = false;
    config
}

fn present_config() -> Config {
    config(thread::available_parallelism().map_or(1, usize::from))
}

/// Whom fuser turns away. Without allow_root nobody: then the kernel itself admits either all
/// users (allow_other) or only the one who mounts (fs/fuse/dir.c, fuse_allow_current_process).
fn acl(options: &MountOptions) -> SessionACL {
    if options.allow_root { SessionACL::RootAndOwner } else { SessionACL::All }
}

/// The same, of what was mounted just now.
pub(super) fn raise_readahead(mountpoint: &Path) {
    if let Some(device) = device_of(mountpoint) {
        raise_readahead_of(device);
    }
}

/// In its answer to INIT a filesystem can only lower the kernel's 128 KiB; more takes this file,
/// which root may write.
fn raise_readahead_of(device: Device) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, (MAX_READAHEAD >> 10).to_string()) {
        tracing::debug!(path, %error, "read-ahead stays at the kernel's default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_follow_the_cores_within_bounds() {
        for (cores, threads) in [(1, 4), (2, 4), (4, 4), (9, 9), (16, 16), (128, 16)] {
            assert_eq!(config(cores).n_threads, Some(threads));
        }
    }

    #[test]
    fn who_is_let_in() {
        let user = MountOptions::defaults(false);
        for (allow_root, allow_other, expected) in [
            (false, false, SessionACL::All),
            (false, true, SessionACL::All),
            (true, false, SessionACL::RootAndOwner),
        ] {
            assert_eq!(acl(&MountOptions { allow_root, allow_other, ..user.clone() }), expected);
        }
    }
}
