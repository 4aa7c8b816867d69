//! Open files: they survive, they can be locked, mapped and read in any way.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use fixtures::genuine::TruthEntry;
use fixtures::server::Network;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::mount::{MntFlags, umount2};
use sha2::{Digest as _, Sha256};

use crate::zoo::{Zoo, in_zoo};

fn expected_digest(zoo: &Zoo, path: &str) -> String {
    digest_in(&zoo.genuine.truth(), path)
}

fn digest_in(truth: &[TruthEntry], path: &str) -> String {
    let entry = truth.iter().find(|entry| entry.path == path.as_bytes()).unwrap();
    entry.sha256.clone().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[test]
fn an_open_file_outlives_a_lazy_unmount() {
    in_zoo(|zoo| {
        let mut file = File::open(zoo.mount.path("big-chunked.bin")).unwrap();
        file.read_exact(&mut [0; 1000]).unwrap();
        umount2(zoo.mount.root(), MntFlags::MNT_DETACH).unwrap();
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(digest(&content), expected_digest(zoo, "big-chunked.bin"));
        drop(file);
        let status = zoo.mount.wait_exit();
        assert!(status.success(), "after the last close the client ended with {status}");
    });
}

#[test]
fn an_open_plain_file_needs_no_network() {
    in_zoo(|zoo| {
        let mut file = File::open(zoo.mount.path("random.bin")).unwrap();
        // Opens are the kernel's own business; the first read brings all of the file.
        let mut content = vec![0];
        file.read_exact(&mut content).unwrap();
        zoo.server.set_network(Network::Refusing);
        file.read_to_end(&mut content).unwrap();
        assert_eq!(digest(&content), expected_digest(zoo, "random.bin"));
    });
}

#[test]
fn reads_at_any_offset() {
    in_zoo(|zoo| {
        for path in ["big-chunked.bin", "random.bin"] {
            let whole = std::fs::read(zoo.mount.path(path)).unwrap();
            assert_eq!(digest(&whole), expected_digest(zoo, path));
            // O_DIRECT reads pass by the page cache, and so reach the client each time.
            for flags in [0, libc::O_DIRECT] {
                let file = File::options()
                    .read(true)
                    .custom_flags(flags)
                    .open(zoo.mount.path(path))
                    .unwrap();
                let size = whole.len();
                let mut buffer = vec![0; 10_000];
                for at in
                    [0, 1, 4095, 4096, 100_000, size / 2, size - 10_000, size - 1, size, size + 7]
                {
                    let want = &whole[at.min(size)..(at + buffer.len()).min(size)];
                    let mut got = 0;
                    while got < want.len() {
                        let length = file.read_at(&mut buffer[got..], (at + got) as u64).unwrap();
                        assert_ne!(length, 0, "{path} ends early, at {at} + {got}");
                        got += length;
                    }
                    assert!(buffer[..got] == *want, "{path} at {at}, flags {flags:o}");
                    let beyond = file.read_at(&mut buffer, (size + at) as u64).unwrap();
                    assert_eq!(beyond, 0, "{path} beyond the end");
                }
            }
        }
    });
}

#[test]
fn locks_work() {
    in_zoo(|zoo| {
        let open = || File::open(zoo.mount.path("hello.txt")).unwrap();
        let exclusive = Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap();
        let (_, errno) = Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap_err();
        assert_eq!(errno, Errno::EWOULDBLOCK);
        drop(exclusive);
        let first = Flock::lock(open(), FlockArg::LockSharedNonblock).unwrap();
        let second = Flock::lock(open(), FlockArg::LockSharedNonblock).unwrap();
        drop((first, second));
        let file = open();
        let lock = libc::flock {
            l_type: i16::try_from(libc::F_RDLCK).unwrap(),
            l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_SETLK(&lock)).unwrap();
    });
}

#[test]
fn many_files_open_at_once() {
    in_zoo(|zoo| {
        let truth = zoo.genuine.truth();
        let paths: Vec<_> = (10..500).map(|number| format!("many/f{number}")).collect();
        let open =
            |path| File::open(zoo.mount.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let files: Vec<_> = paths.iter().map(open).collect();
        for (mut file, path) in files.into_iter().zip(&paths) {
            let mut content = Vec::new();
            file.read_to_end(&mut content).unwrap();
            assert_eq!(digest(&content), digest_in(&truth, path), "{path}");
        }
    });
}

#[test]
fn mappings_show_the_content() {
    in_zoo(|zoo| {
        for path in ["big-chunked.bin", "random.bin", "one-byte"] {
            let file = File::open(zoo.mount.path(path)).unwrap();
            let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
            let map = |protection, flags| {
                // SAFETY: a fresh mapping of an open file, at an address the kernel chooses.
                unsafe {
                    libc::mmap(std::ptr::null_mut(), length, protection, flags, file.as_raw_fd(), 0)
                }
            };
            let address = map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
            assert_ne!(address, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
            // SAFETY: mapped with this length, nobody else knows the address, unmapped below.
            let content = unsafe { std::slice::from_raw_parts_mut(address.cast::<u8>(), length) };
            assert_eq!(digest(content), expected_digest(zoo, path), "{path}");
            content.fill(0);
            assert_eq!(
                digest(&std::fs::read(zoo.mount.path(path)).unwrap()),
                expected_digest(zoo, path)
            );
            // SAFETY: the slice is not used again.
            unsafe { libc::munmap(address, length) };
            let shared = map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            assert_eq!(shared, libc::MAP_FAILED, "writing through a mapping of {path}");
            assert_eq!(Errno::last(), Errno::EACCES);
        }
    });
}
