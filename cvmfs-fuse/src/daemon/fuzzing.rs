//! Input of the fuzz target `supervisor_protocol`.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::MemfdFlags;

use super::estate::{Holdings, MAX_JOURNALS, Trust};
use super::letters::{Word, decode};
use super::own_mount::{Kernel, OwnMount, Teller};
use crate::fuse::device::Device;
use crate::fuse::mountinfo::{MountEntry, parse};

/// The device of the supervisor's own mount.
const OWN: Device = Device { major: 0, minor: 57 };
const TABLE: &[u8] =
    b"40 28 0:57 / /m ro - fuse cvmfs2 ro\n41 28 0:58 / /other ro - fuse cvmfs2 ro\n";

/// One own mount; every descriptor is that of its connection, if the number is told at all.
struct Machine {
    tells: bool,
}

impl Kernel for Machine {
    fn is_fuse(&self, _: BorrowedFd<'_>) -> bool {
        true
    }

    fn is_over(&self, _: &OwnedFd) -> bool {
        false
    }

    fn connection_of(&self, _: BorrowedFd<'_>) -> Option<u32> {
        self.tells.then_some(OWN.minor)
    }

    fn mounts_at(&self, place: &Path) -> std::io::Result<Vec<MountEntry>> {
        let mut mounts = parse(TABLE);
        mounts.retain(|mount| mount.mountpoint == place);
        Ok(mounts)
    }
}

/// Input: a byte of switches, then messages, each with a byte that says how many descriptors come with it, and a line
/// end.
pub(super) fn supervisor_protocol(data: &[u8]) {
    let Some((&switches, messages)) = data.split_first() else { return };
    let own = OwnMount::of_kernel(Path::new("/m"), Machine { tells: switches & 1 == 0 });
    let trust = match switches & 6 {
        0 => Trust::Supervised(&own, Teller::Server),
        2 => Trust::Supervised(&own, Teller::Holder),
        4 => Trust::Depositor { journals_left: 3 },
        _ => Trust::Supervisor,
    };
    let memory = rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory");
    let mut holdings = Holdings::default();
    for message in messages.split(|&byte| byte == b'\n') {
        let Some((&count, text)) = message.split_first() else { continue };
        let Some(word) = decode(text) else { continue };
        match &word {
            // What is shown to people is cut before it is escaped, so escapes would be cut the second time.
            Word::Ready { version: text }
            | Word::Serving { version: text }
            | Word::Refused { reason: text } => {
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
            word => {
                let said = serde_json::to_vec(word).expect("it was text");
                assert_eq!(decode(&said).as_ref(), Some(word));
            }
        }
        let copy = || memory.as_fd().try_clone_to_owned().expect("descriptors");
        let before = holdings.mount.is_some();
        let descriptors = (0..count % 4).map(|_| copy()).collect();
        let taken = holdings.take(word, descriptors, trust);
        assert!(!(before && taken.is_ok_and(|change| change == super::estate::Change::Mounted)));
        assert!(holdings.journals.len() <= MAX_JOURNALS);
        assert!(holdings.journals.keys().all(|name| name.bytes().all(|b| b.is_ascii_graphic())));
        if let (Some(mount), Trust::Supervised(..)) = (&holdings.mount, trust) {
            assert_eq!(mount.mountpoint, Path::new("/m"));
            assert!(mount.device.is_none_or(|device| device == OWN));
            assert!(mount.greeting.is_sound());
        }
    }
    crate::fs::suspects::fuzz(data);
}
