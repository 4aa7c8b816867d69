//! Who downloads what: of all processes that share a cache, one fetches an object, and the others
//! wait for it a little.
//!
//! A claim is the lock of one byte of a file, at a place computed from the object's id (open file
//! description locks: they exclude across containers, and end with their process). Two objects on
//! one byte, or a sibling that locks for ever, only cost time: whoever waits has a limit, and
//! downloads for itself then.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use cvmfs_core::cache::Claim;
use cvmfs_core::object::ObjectId;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use parking_lot::Mutex;

use crate::layout::{Layout, object_name};

/// Name of the file; it stays empty.
const NAME: &str = "claims";

/// The claims of this process.
#[derive(Debug)]
pub(crate) struct Claims {
    layout: Arc<Layout>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    /// Locks of one process do not exclude each other.
    ours: HashSet<i64>,
}

impl Claims {
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        Self { layout, state: Mutex::default() }
    }

    /// Tries to claim an object.
    pub(crate) fn claim(self: &Arc<Self>, id: &ObjectId) -> Claim {
        let place = place_of(id);
        let mut state = self.state.lock();
        if state.ours.contains(&place) {
            return Claim::Taken;
        }
        let gone = |file: &Arc<File>| !file.metadata().is_ok_and(|found| found.nlink() > 0);
        if state.file.as_ref().is_none_or(gone) {
            state.file = self.layout.open_control(NAME).ok().map(Arc::new);
        }
        let Some(file) = state.file.clone() else { return Claim::Unknown };
        match lock(&file, place, libc::F_WRLCK) {
            Ok(()) => {
                state.ours.insert(place);
                Claim::Ours(Box::new(Claimed { claims: Arc::clone(self), file, place }))
            }
            Err(Errno::EAGAIN | Errno::EACCES) => Claim::Taken,
            // No locks here: everybody for themselves.
            Err(_) => Claim::Unknown,
        }
    }
}

/// A claim that was taken.
struct Claimed {
    claims: Arc<Claims>,
    file: Arc<File>,
    place: i64,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // First the lock: who finds the place free here must find it free there.
        let _ = lock(&self.file, self.place, libc::F_UNLCK);
        self.claims.state.lock().ours.remove(&self.place);
    }
}

fn place_of(id: &ObjectId) -> i64 {
    let hash = blake3::hash(object_name(id).as_bytes());
    let mut word = [0; 8];
    word.copy_from_slice(&hash.as_bytes()[..8]);
    // Not negative, and one byte before the largest offset.
    i64::from_le_bytes(word) & (i64::MAX >> 1)
}

fn lock(file: &File, place: i64, kind: libc::c_int) -> Result<(), Errno> {
    let kind = libc::c_short::try_from(kind).map_err(|_| Errno::EINVAL)?;
    let whence = libc::c_short::try_from(libc::SEEK_SET).map_err(|_| Errno::EINVAL)?;
    let range = libc::flock { l_type: kind, l_whence: whence, l_start: place, l_len: 1, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cvmfs_core::hash::{ContentHash, HashAlgorithm};
    use cvmfs_core::object::ObjectKind;

    fn id(text: &str) -> ObjectId {
        let hash = ContentHash::of(HashAlgorithm::Sha1, text.as_bytes());
        ObjectId::zlib(hash, ObjectKind::Data)
    }

    #[test]
    fn one_of_all_has_a_claim_until_it_is_dropped() {
        let scratch = tempfile::tempdir().unwrap();
        let open = || {
            let layout = Layout::create(scratch.path(), false).unwrap();
            Arc::new(Claims::new(Arc::new(layout)))
        };
        let (one, other) = (open(), open());
        let held = one.claim(&id("a"));
        assert!(matches!(held, Claim::Ours(_)));
        assert!(matches!(other.claim(&id("a")), Claim::Taken));
        assert!(matches!(one.claim(&id("a")), Claim::Taken), "in one process, too");
        assert!(matches!(other.claim(&id("b")), Claim::Ours(_)));
        drop(held);
        let again = other.claim(&id("a"));
        assert!(matches!(again, Claim::Ours(_)));
        // As a process ends.
        std::fs::remove_file(one.layout.path(NAME)).unwrap();
        assert!(matches!(one.claim(&id("a")), Claim::Ours(_)), "wiped: everybody begins anew");
    }
}
