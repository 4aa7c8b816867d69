//! A kernel that says what no kernel does. The peer of a real mount is always `/dev/fuse`
//! ([`super::premounted`]), so this is about a damaged kernel; nothing of it may take more than its request along.
//! Lengths that fuser 0.18 believes end a worker if they are wrong: that of the whole message, and those of what is
//! to be written, set or handed to an ioctl.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fixtures::publish::TestRepo;
use fuser::SessionACL;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::activity::Activity;
use super::adapter::Adapter;
use super::handover::{self, Mount};
use super::session::take_over;
use crate::config::MountOptions;
use crate::fs::RepoFs;
use crate::fs::tests::serve;

/// Longest time to an answer on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const READ: u32 = 15;
const INIT: u32 = 26;
const READDIR: u32 = 28;
/// Ends a worker, as it should.
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;
const READDIRPLUS: u32 = 44;
/// Their lengths are believed: fuser ends the worker if they are wrong.
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const IOCTL: u32 = 39;
/// The last one that the kernel has, and some more.
const OPCODES: u32 = 60;
const MESSAGES: u64 = 4000;
/// The number of the question whether it still answers.
const FAREWELL: u64 = u64::MAX - 7;

fn message(opcode: u32, unique: u64, nodeid: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + body.len()).unwrap();
    let mut bytes = [len.to_le_bytes(), opcode.to_le_bytes()].concat();
    bytes.extend(unique.to_le_bytes());
    bytes.extend(nodeid.to_le_bytes());
    // User, group, process: one that cannot be seen; padding.
    bytes.extend([0; 16]);
    bytes.extend_from_slice(body);
    bytes
}

fn init() -> Vec<u8> {
    // Version 7.45, 128 KiB of read-ahead, every feature there is.
    let words = [7_u32, 45, 128 << 10, u32::MAX, u32::MAX];
    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    body.resize(64, 0);
    message(INIT, 1, 0, &body)
}

fn send(kernel: &OwnedFd, bytes: &[u8]) {
    // Who does not read our answers is waited for by the other side; it reads them.
    assert_eq!(rustix::net::send(kernel, bytes, SendFlags::NOSIGNAL).unwrap(), bytes.len());
}

/// A file system behind a socket that stands for the kernel.
struct Stage {
    kernel: OwnedFd,
    answers: std::sync::mpsc::Receiver<u64>,
    session: std::thread::JoinHandle<io::Result<()>>,
    _published: fixtures::publish::Published,
    _runtime: tokio::runtime::Runtime,
}

/// A repository without a kernel, and what must live as long.
fn filesystem() -> (Adapter<RepoFs>, fixtures::publish::Published, tokio::runtime::Runtime) {
    let mut repo = TestRepo::new("hostile.test.repo");
    repo.dir("/d");
    for number in 0..50 {
        repo.file(format!("/d/f{number}"), b"x");
    }
    repo.file("/large", vec![7; 3 << 20]);
    let published = repo.publish();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let fs: Arc<RepoFs> = Arc::new(runtime.block_on(serve(&published)));
    let adapter = Adapter::new(fs, runtime.handle().clone(), LIMIT, Arc::<Activity>::default());
    (adapter, published, runtime)
}

/// Two ends of what stands for a connection to the kernel.
fn connection() -> (OwnedFd, OwnedFd) {
    let kind = SocketType::SEQPACKET;
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

impl Stage {
    fn new() -> Self {
        let (adapter, published, runtime) = filesystem();
        let (kernel, connection) = connection();
        send(&kernel, &init());
        let mut config = fuser::Config::default();
        config.n_threads = Some(4);
        let connected =
            handover::connect(adapter, &connection, None, SessionACL::All, config).unwrap();
        drop(connection);
        let session = std::thread::spawn(move || connected.0.run());
        let (sender, answers) = std::sync::mpsc::channel();
        let ours = kernel.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 17 << 20];
            while let Ok((len @ 16.., _)) =
                rustix::net::recv(ours.as_fd(), &mut bytes[..], RecvFlags::empty())
            {
                let (said, _) = bytes.split_at(len);
                let _ = sender.send(u64::from_le_bytes(said[8..16].try_into().unwrap()));
            }
        });
        Self { kernel, answers, session, _published: published, _runtime: runtime }
    }

    /// Waits for the answer to the one request with this number.
    fn await_answer(&self, unique: u64) {
        while self.answers.recv_timeout(LIMIT).unwrap() != unique {}
    }

    #[track_caller]
    fn assert_answers(&self) {
        send(&self.kernel, &message(GETATTR, FAREWELL, 1, &[0; 16]));
        self.await_answer(FAREWELL);
    }
}

/// Reproducible noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn low_no_message_of_the_kernel_takes_more_than_its_request_along() {
    let stage = Stage::new();
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let many = u64::from(u32::MAX);
    for (opcode, node, body) in [
        // Twice.
        (INIT, 0, init()[40..].to_vec()),
        // A name without its end, none, one with slashes, dots, too long.
        (LOOKUP, 1, vec![b'x'; 300]),
        (LOOKUP, 1, Vec::new()),
        (LOOKUP, 1, b"../../../etc/passwd\0".to_vec()),
        (LOOKUP, 1, b"\0".to_vec()),
        (LOOKUP, 1, [vec![b'y'; 9000], vec![0]].concat()),
        (LOOKUP, 0, b"d\0".to_vec()),
        (LOOKUP, u64::MAX, b"d\0".to_vec()),
        (GETATTR, u64::MAX, vec![0xff; 16]),
        // Of nobody, at the end of all numbers, as much as can be said.
        (READ, 4711, words(&[0, 0, many, 0, 0])),
        (READ, 1, words(&[u64::MAX, u64::MAX, many, u64::MAX, u64::MAX])),
        (READDIR, 1, words(&[u64::MAX, u64::MAX, many, 0, 0])),
        (READDIRPLUS, 1, words(&[u64::MAX, 1 << 63, many, 0, 0])),
        (READDIR, 0, words(&[0, 0, 0, 0, 0])),
        // More than it holds, and of inodes that nobody knows.
        (BATCH_FORGET, 0, words(&[many, 7, u64::MAX])),
        (BATCH_FORGET, 0, words(&[2, 1, u64::MAX, u64::MAX, u64::MAX])),
    ] {
        send(&stage.kernel, &message(opcode, 77, node, &body));
    }
    stage.assert_answers();
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    for unique in 100..100 + MESSAGES {
        let opcode = match u32::try_from(noise.next() % u64::from(OPCODES)).unwrap() {
            DESTROY | SETXATTR | WRITE | IOCTL => u32::MAX,
            opcode => opcode,
        };
        let node = match noise.next() % 4 {
            0 => 1,
            1 => u64::MAX,
            2 => 0,
            _ => noise.next(),
        };
        let length = usize::try_from(noise.next() % 120).unwrap();
        let body: Vec<u8> = (0..length)
            .map(|_| [0, 0xff, b'd'][usize::try_from(noise.next() % 3).unwrap()])
            .collect();
        send(&stage.kernel, &message(opcode, unique, node, &body));
    }
    stage.assert_answers();
    // A large file, read as if memory had no end, and forgotten more often than it was looked up.
    send(&stage.kernel, &message(LOOKUP, 90_001, 1, b"large\0"));
    stage.await_answer(90_001);
    for _ in 0..1000 {
        send(&stage.kernel, &message(2, 0, 1, &u64::MAX.to_le_bytes()));
    }
    stage.assert_answers();
    // Without a kernel, and with what ends workers: the session ends, and nothing else.
    send(&stage.kernel, &[0; 3]);
    drop(stage.answers);
    rustix::net::shutdown(&stage.kernel, rustix::net::Shutdown::Both).unwrap();
    assert!(stage.session.join().unwrap().is_err());
}

/// Whoever leaves a mount to a successor may lie about the connection.
#[test]
fn low_only_the_kernel_is_taken_over() {
    let (adapter, _published, _runtime) = filesystem();
    let (_kernel, connection) = connection();
    let greeting = serde_json::json!({ "request": init(), "reply": [0] });
    let mount = Mount {
        connection,
        greeting: serde_json::from_value(greeting).unwrap(),
        mountpoint: "/nowhere".into(),
        device: None,
    };
    let taken = take_over(adapter, &MountOptions::defaults(true), &mount, None);
    let error = taken.map(drop).unwrap_err();
    assert_eq!(
        cvmfs_core::chain::chain(&error).to_string(),
        "cannot start the FUSE connection: it is not /dev/fuse"
    );
}
