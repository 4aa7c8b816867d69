//! What a descriptor is that another process has sent.
//!
//! The other side may send anything: a pipe, a file of a filesystem that it serves itself. So nothing here waits:
//! `fstat(2)` would ask that filesystem, and so would `close(2)`, which tells it of the end (FUSE_FLUSH) and waits for
//! its answer, out of reach of every signal. Kinds that cannot do that are recognised first, and all others are closed
//! by a thread made for it.

use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, StatxFlags, fstat, major, minor, statx};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;

/// Device number of /dev/fuse (Documentation/admin-guide/devices.txt).
const FUSE: (u32, u32) = (10, 229);
/// Most that is read of a file below /proc/self/fdinfo.
const MAX_FACTS: u64 = 4096;
/// Stack of a thread that closes descriptors.
const CLOSER_STACK: usize = 64 << 10;

/// Kind of a descriptor, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Memory (memfd, tmpfs) of this size in bytes: neither reading nor closing it waits for anybody.
    Memory(u64),
    /// /dev/fuse.
    Fuse,
    /// A socket of AF_UNIX.
    Local,
    /// Anything else: to look at it, to read it and to close it may take for ever.
    Other,
}

/// Returns the kind of a descriptor; waits for nobody.
pub fn kind_of(descriptor: BorrowedFd<'_>) -> Kind {
    if let Ok(domain) = socket_domain(descriptor) {
        return if domain == AddressFamily::UNIX { Kind::Local } else { Kind::Other };
    }
    // Only memory has seals; other filesystems answer without being asked.
    let is_memory = rustix::fs::fcntl_get_seals(descriptor).is_ok();
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::SIZE;
    let (mode, device, size) = match statx(descriptor, c"", flags, wanted) {
        Ok(found) => {
            let device = (found.stx_rdev_major, found.stx_rdev_minor);
            (u32::from(found.stx_mode), device, found.stx_size)
        }
        // A sandbox that knows no statx: there is no other way.
        Err(Errno::NOSYS | Errno::PERM) => match fstat(descriptor) {
            Ok(found) => {
                let device = (major(found.st_rdev), minor(found.st_rdev));
                (found.st_mode, device, found.st_size.try_into().unwrap_or(u64::MAX))
            }
            Err(_) => return Kind::Other,
        },
        Err(_) => return Kind::Other,
    };
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile if is_memory => Kind::Memory(size),
        FileType::CharacterDevice if device == FUSE => Kind::Fuse,
        _ => Kind::Other,
    }
}

/// Returns the number of the connection behind a descriptor of /dev/fuse, where the kernel tells (from Linux 6.15 on).
pub fn connection_of(descriptor: BorrowedFd<'_>) -> Option<u32> {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let mut facts = String::new();
    std::fs::File::open(path).ok()?.take(MAX_FACTS).read_to_string(&mut facts).ok()?;
    facts.lines().find_map(|line| line.strip_prefix("fuse_connection:"))?.trim().parse().ok()
}

/// Closes descriptors without waiting for whoever is behind them.
pub fn discard(descriptors: Vec<OwnedFd>) {
    let (strange, harmless): (Vec<_>, Vec<_>) =
        descriptors.into_iter().partition(|descriptor| kind_of(descriptor.as_fd()) == Kind::Other);
    drop(harmless);
    if strange.is_empty() {
        return;
    }
    let closer = std::thread::Builder::new().name("descriptor-closer".to_owned());
    // Without a thread they are closed here, by the end of the closure.
    if let Err(error) = closer.stack_size(CLOSER_STACK).spawn(move || drop(strange)) {
        tracing::warn!(%error, "no thread to close descriptors");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_kinds_of_descriptors_that_somebody_may_send() {
        let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 77).unwrap();
        assert_eq!(kind_of(memory.as_fd()), Kind::Memory(77));
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(kind_of(reader.as_fd()), Kind::Other);
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(kind_of(one.as_fd()), Kind::Local);
        // The end of one may linger.
        let internet = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(kind_of(internet.as_fd()), Kind::Other);
        for path in ["/dev/null", "/proc/self/stat", "/proc"] {
            let file = std::fs::File::open(path).unwrap();
            assert_eq!(kind_of(file.as_fd()), Kind::Other, "{path}");
            assert_eq!(connection_of(file.as_fd()), None, "{path}");
        }
        let path =
            rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(kind_of(path.as_fd()), Kind::Other);
        discard(vec![memory, reader.into(), one.into(), internet.into(), path]);
    }
}
