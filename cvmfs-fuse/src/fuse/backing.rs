//! Files that the kernel reads without us (FUSE_PASSTHROUGH), and how each open file is read.
//!
//! The kernel wants one way for all who have an inode open at the same time: one backing file, or
//! pages that we fill; everything else is EIO for who opens (fs/fuse/iomode.c). So the way that the first
//! one got is the way for all until the last one closes. The kernel knows backing files by numbers that belong
//! to the connection, outlive the server, and are not the same when the same file is registered
//! twice. So ways are noted in memory that a successor gets, and it goes on with them.
//!
//! A successor cannot know how many had an inode open before. What it inherited stays until the
//! kernel forgets the inode. Handles carry the generation of the server that gave them, so that
//! closing those of a predecessor is not taken for closing ours.
//!
//! A backing file stays readable when the cache evicts it, and takes its room until it is closed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use fuser::BackingId;
use parking_lot::Mutex;
use rustix::fs::MemfdFlags;

use crate::fs::Ino;

/// Bytes of a number in the page.
const WORD: usize = 8;
/// Bytes of the head: the generation.
const HEAD: u64 = WORD as u64;
/// Bytes of a slot: inode, and number of the backing file.
const SLOT: u64 = 2 * WORD as u64;
/// What stands for a file whose pages we fill; the kernel's numbers begin at 1.
const PAGES: u64 = 0;
/// Slots that are read; more files were hardly open when a server died. 16 MiB.
const MAX_SLOTS: u64 = 1 << 20;

nix::ioctl_write_ptr!(
    /// FUSE_DEV_IOC_BACKING_CLOSE (include/uapi/linux/fuse.h, 6.9).
    backing_close,
    229,
    2,
    u32
);

/// How an open file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The kernel asks us for pages.
    Pages,
    /// It reads the backing file of this number.
    File(u32),
}

/// The ways of all open files of a mount.
#[derive(Debug)]
pub struct Backings {
    page: File,
    generation: u64,
    connection: OnceLock<OwnedFd>,
    state: Mutex<State>,
    /// It was said that a file cannot be passed through.
    told: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<Ino, Open>,
    free: Vec<u64>,
    /// In the page.
    slots: u64,
}

#[derive(Debug)]
struct Open {
    way: Way,
    slot: u64,
    /// Handles that we gave.
    count: u64,
    /// A predecessor gave some.
    inherited: bool,
}

impl Backings {
    /// Nothing is open.
    pub fn new() -> io::Result<Self> {
        let page =
            File::from(rustix::fs::memfd_create("cvmfs-backing-files", MemfdFlags::CLOEXEC)?);
        Self::begin(page, 1, State::default())
    }

    /// Goes on with what a predecessor noted.
    pub fn inherit(page: OwnedFd) -> io::Result<Self> {
        let page = File::from(page);
        let slots = (page.metadata()?.len().saturating_sub(HEAD) / SLOT).min(MAX_SLOTS);
        let mut bytes = vec![0; usize::try_from(HEAD + slots * SLOT).map_err(io::Error::other)?];
        page.read_exact_at(&mut bytes, 0)?;
        let (words, _) = bytes.as_chunks::<WORD>();
        let mut words = words.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let generation = words.next().unwrap_or_default();
        let mut state = State { slots, ..State::default() };
        for slot in 0..slots {
            let (Some(ino), Some(number)) = (words.next(), words.next()) else { break };
            let way = u32::try_from(number).ok().map(|number| match u64::from(number) {
                PAGES => Way::Pages,
                _ => Way::File(number),
            });
            match way {
                Some(way) if ino != 0 => {
                    state.open.insert(ino, Open { way, slot, count: 0, inherited: true });
                }
                _ => state.free.push(slot),
            }
        }
        Self::begin(page, generation.wrapping_add(1), state)
    }

    fn begin(page: File, generation: u64, state: State) -> io::Result<Self> {
        page.write_all_at(&generation.to_le_bytes(), 0)?;
        let (connection, told) = (OnceLock::new(), AtomicBool::new(false));
        Ok(Self { page, generation, connection, state: Mutex::new(state), told })
    }

    /// Returns a descriptor for the supervisor.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.page.try_clone()?.into())
    }

    /// Says to which connection backing files belong, before any is opened.
    pub fn connect(&self, connection: OwnedFd) {
        // There is one connection in the life of a server.
        let _ = self.connection.set(connection);
    }

    /// Counts an opened file; returns its handle, and the way that it must be read. `file` is what
    /// the kernel can read without us, if there is such a file.
    pub fn open(&self, ino: Ino, file: Option<&Arc<File>>) -> (u64, Way) {
        // The lock is held while the kernel notes a file, which waits for nothing: two who open at
        // the same time must not register it twice.
        let mut state = self.state.lock();
        if let Some(open) = state.open.get_mut(&ino) {
            open.count += 1;
            return (self.generation, open.way);
        }
        let way = file.map_or(Way::Pages, |file| self.register(file));
        let slot = state.free.pop().unwrap_or_else(|| {
            state.slots += 1;
            state.slots - 1
        });
        // Before the kernel hears of it.
        self.write(slot, ino, way);
        state.open.insert(ino, Open { way, slot, count: 1, inherited: false });
        (self.generation, way)
    }

    /// Takes back a handle.
    pub fn close(&self, ino: Ino, handle: u64) {
        if handle != self.generation {
            return;
        }
        let mut state = self.state.lock();
        let Some(open) = state.open.get_mut(&ino) else { return };
        open.count = open.count.saturating_sub(1);
        if open.count == 0 && !open.inherited {
            self.remove(&mut state, ino);
        }
    }

    /// The kernel has forgotten an inode: whatever a predecessor had opened of it is closed.
    pub fn forget(&self, ino: Ino) {
        let mut state = self.state.lock();
        let Some(open) = state.open.get_mut(&ino) else { return };
        open.inherited = false;
        if open.count == 0 {
            self.remove(&mut state, ino);
        }
    }

    fn remove(&self, state: &mut State, ino: Ino) {
        let Some(Open { way, slot, .. }) = state.open.remove(&ino) else { return };
        self.write(slot, 0, Way::Pages);
        state.free.push(slot);
        if let (Way::File(number), Some(connection)) = (way, self.connection.get()) {
            // SAFETY: the kernel reads one u32, which lives for the call; the descriptor is open.
            let closed = unsafe { backing_close(connection.as_raw_fd(), &raw const number) };
            if let Err(error) = closed {
                tracing::debug!(%error, number, "a backing file stays open");
            }
        }
    }

    fn register(&self, file: &Arc<File>) -> Way {
        let registered = match self.connection.get() {
            Some(connection) => BackingId::create_raw(connection, file),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match registered {
            Ok(number) => Way::File(number),
            Err(error) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    let reason = reason(&error);
                    tracing::warn!(%error, "files are not passed through to the kernel: {reason}");
                }
                Way::Pages
            }
        }
    }

    fn write(&self, slot: u64, ino: Ino, way: Way) {
        let number = match way {
            Way::Pages => PAGES,
            Way::File(number) => u64::from(number),
        };
        let mut bytes = [0; 2 * WORD];
        bytes[..WORD].copy_from_slice(&ino.to_le_bytes());
        bytes[WORD..].copy_from_slice(&number.to_le_bytes());
        if let Err(error) = self.page.write_all_at(&bytes, HEAD + slot * SLOT) {
            tracing::debug!(%error, "a successor will not know how a file is read");
        }
    }
}

fn reason(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "it needs CAP_SYS_ADMIN outside of user namespaces",
        Some(libc::ELOOP) => "the cache is on a stacked file system, such as overlayfs",
        _ => "the kernel refused one",
    }
}

/// Tells whether the kernel will let this process register backing files; if not, why.
pub fn is_allowed() -> Result<(), &'static str> {
    const ALL_USERS: [&str; 3] = ["0", "0", "4294967295"];
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let map = read("/proc/self/uid_map");
    if !map.is_empty() && !map.split_whitespace().eq(ALL_USERS) {
        return Err("this process is in a user namespace");
    }
    let status = read("/proc/self/status");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = capabilities.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    match held {
        Some(held) if held & CAP_SYS_ADMIN == 0 => Err("it needs CAP_SYS_ADMIN"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes on as a successor does; the old one is dead.
    fn succeed(server: Backings) -> Backings {
        Backings::inherit(server.descriptor().unwrap()).unwrap()
    }

    fn ways(server: &Backings) -> Vec<(Ino, Way)> {
        let mut ways: Vec<_> =
            server.state.lock().open.iter().map(|(ino, open)| (*ino, open.way)).collect();
        ways.sort_unstable_by_key(|&(ino, _)| ino);
        ways
    }

    /// As if the kernel had taken it.
    fn pass_through(server: &Backings, ino: Ino, number: u32) -> u64 {
        let (handle, _) = server.open(ino, None);
        let mut state = server.state.lock();
        let open = state.open.get_mut(&ino).unwrap();
        open.way = Way::File(number);
        server.write(open.slot, ino, open.way);
        handle
    }

    #[test]
    fn all_who_have_a_file_open_read_it_in_one_way() {
        let server = Backings::new().unwrap();
        let handle = pass_through(&server, 7, 3);
        assert_eq!(server.open(7, None), (handle, Way::File(3)));
        server.close(7, handle);
        assert_eq!(ways(&server), [(7, Way::File(3))]);
        server.close(7, handle);
        assert_eq!(ways(&server), []);
        // Without a connection nothing can be registered.
        let file = Arc::new(tempfile::tempfile().unwrap());
        assert_eq!(server.open(7, Some(&file)).1, Way::Pages);
    }

    #[test]
    fn a_successor_goes_on_in_the_same_way_until_the_inode_is_forgotten() {
        let first = Backings::new().unwrap();
        let old = pass_through(&first, 7, 3);
        first.open(8, None);
        let closed = pass_through(&first, 9, 4);
        first.close(9, closed);
        let second = succeed(first);
        assert_eq!(ways(&second), [(7, Way::File(3)), (8, Way::Pages)]);
        let (new, way) = second.open(7, None);
        assert_eq!(way, Way::File(3));
        assert_ne!(new, old);
        // Nobody knows how many a predecessor had given.
        for handle in [old, old, new] {
            second.close(7, handle);
        }
        assert_eq!(second.open(7, None), (new, Way::File(3)));
        // The kernel forgets an inode, and has made it anew, before that is told.
        second.forget(7);
        assert_eq!(second.open(7, None), (new, Way::File(3)));
        let third = succeed(second);
        third.forget(7);
        third.forget(8);
        assert_eq!(ways(&third), []);
        third.open(10, None);
        assert_eq!(third.state.lock().slots, 3, "places are used again");
    }
}
