//! What we say to the kernel unasked.
//!
//! fuser's notifier takes back names and attributes. Letting go of inodes is our own: fuser 0.18
//! does not know FUSE_NOTIFY_PRUNE (include/uapi/linux/fuse.h, protocol 7.45, Linux 6.18), by which
//! the kernel drops inodes that nobody uses. Older kernels can be made to drop all unused entries of
//! a mount at once: changing the options of a superblock does that first, whatever they are
//! (fs/super.c, reconfigure_super), and here none changes. It needs CAP_SYS_ADMIN over the mount,
//! which a server gives up, so the supervisor is asked.
//!
//! FUSE_NOTIFY_INVAL_ENTRY, which all kernels have, would not do. It also takes away what is in use:
//! programs that run are shown as deleted, and what others mounted on an entry is detached, in all
//! namespaces (fs/dcache.c, d_invalidate); and it forgets the listing of the directory.
//!
//! The kernel may wait for answers of ours before a notice is done, so none is sent by a thread
//! that serves requests.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use fuser::INodeNo;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fspick};

use super::device::Device;
use super::{mountinfo, premounted};
use crate::fs::Ino;

/// Code of the notice (enum fuse_notify_code).
const NOTIFY_PRUNE: i32 = 9;
/// Bytes in front of the numbers: struct fuse_out_header and struct fuse_notify_prune_out.
const HEAD: usize = 16 + 16;
/// Numbers in one notice; the kernel takes 512 of them at a time (fs/fuse/dev.c).
const BATCH: usize = 4096;

/// How the kernel is made to let go of inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// It is told which ones.
    Prune,
    /// It drops all that are not in use.
    Shrink,
    /// There is none.
    Nothing,
}

/// Speaks to the kernel about one mount.
#[derive(Debug)]
pub struct Notifier {
    names: fuser::Notifier,
    connection: OwnedFd,
    /// A [`Means`]: what has not failed yet.
    means: AtomicU8,
    /// Asks whoever may to drop all unused entries; tells whether somebody heard that.
    shrinker: OnceLock<Shrinker>,
}

/// See [`Notifier::shrinking_by`].
struct Shrinker(Box<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for Shrinker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shrinker")
    }
}

impl Notifier {
    pub(super) fn new(names: fuser::Notifier, connection: OwnedFd) -> Self {
        let means = AtomicU8::new(Means::Prune as u8);
        Self { names, connection, means, shrinker: OnceLock::new() }
    }

    /// Says who drops all unused entries where the kernel cannot be told which: that takes rights which a
    /// server does not have.
    pub fn shrinking_by(&self, ask: impl Fn() -> bool + Send + Sync + 'static) {
        // There is one supervisor in the life of a server.
        let _ = self.shrinker.set(Shrinker(Box::new(ask)));
    }

    /// Takes back a name in a directory.
    pub fn inval_entry(&self, parent: Ino, name: &OsStr) -> io::Result<()> {
        self.names.inval_entry(INodeNo(parent), name)
    }

    /// Takes back attributes and pages of an inode.
    pub fn inval_inode(&self, ino: Ino) -> io::Result<()> {
        self.names.inval_inode(INodeNo(ino), 0, 0)
    }

    /// Makes the kernel let go of these inodes, as far as they are not in use. An error is that of a
    /// connection that ends.
    pub fn prune(&self, inodes: &[Ino]) -> io::Result<()> {
        for batch in inodes.chunks(BATCH) {
            if self.means() == Means::Prune {
                match rustix::io::write(&self.connection, &notice(batch)) {
                    // What it answers to a code that it does not know.
                    Err(Errno::INVAL) => self.settle(Means::Shrink),
                    written => drop(written?),
                }
            }
        }
        if self.means() == Means::Shrink && !self.shrinker.get().is_some_and(|ask| ask.0()) {
            tracing::info!(
                "this kernel lets go of entries only when it runs short of memory; we hold a little \
                 for each (Linux 6.18 can be asked, older ones by root)"
            );
            self.settle(Means::Nothing);
        }
        Ok(())
    }

    fn means(&self) -> Means {
        match self.means.load(Ordering::Relaxed) {
            0 => Means::Prune,
            1 => Means::Shrink,
            _ => Means::Nothing,
        }
    }

    fn settle(&self, means: Means) {
        self.means.store(means as u8, Ordering::Relaxed);
    }
}

/// Makes the kernel drop all entries of a mount that are not in use; `device` is that of the mount,
/// which somebody may have mounted over.
pub fn shrink(mountpoint: &Path, device: Option<Device>) -> io::Result<()> {
    let elsewhere = || io::Error::other("the mount cannot be seen");
    if premounted::number_of(mountpoint).is_some() {
        return Err(elsewhere());
    }
    let there = mountinfo::topmost_at(mountpoint)?.ok_or_else(elsewhere)?;
    if device != Some(there.device) {
        return Err(elsewhere());
    }
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_NO_AUTOMOUNT;
    let options = fspick(CWD, mountpoint, flags)?;
    Ok(fsconfig_reconfigure(options.as_fd())?)
}

/// Lays out a notice.
fn notice(inodes: &[Ino]) -> Vec<u8> {
    let len = HEAD + size_of_val(inodes);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&number(len));
    bytes.extend_from_slice(&NOTIFY_PRUNE.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&number(inodes.len()));
    bytes.extend_from_slice(&[0; 12]);
    inodes.iter().for_each(|ino| bytes.extend_from_slice(&ino.to_le_bytes()));
    bytes
}
