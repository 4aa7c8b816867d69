//! Single operations, each beside what it cannot do without: hash, decode, catalog, inode table,
//! request to answer, profile. `cargo bench -p benches --bench operations`; the cache is in
//! `store.rs`.
#![allow(clippy::unwrap_used, reason = "a bench may die")]

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use benches::objects::shuffled;
use benches::repository::open;
use cvmfs_core::catalog::{Content, DirectoryEntry, EntryKind};
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{ObjectId, ObjectKind};
use cvmfs_core::path::RepoPath;
use cvmfs_core::repository::Repository;
use cvmfs_core::revision::Revision;
use cvmfs_fuse::fs::inode::InodeTable;
use cvmfs_fuse::fs::{RepoFs, RepoFsOptions, Vfs as _};
use cvmfs_fuse::fuse::adapter::Adapter;
use cvmfs_fuse::fuse::dispatch::{Dispatcher, Operation, REQUEST_DEADLINE};
use cvmfs_fuse::prefetch::profile::Profile;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use fixtures::publish::TestRepo;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::runtime::Runtime;

const SIZES: [usize; 4] = [1 << 10, 16 << 10, 256 << 10, 4 << 20];
/// More than are remembered as hot.
const FILES: usize = 50_000;
const FILES_IN_DIRECTORY: usize = 1000;

fn main() {
    divan::main();
}

/// Half of it can be compressed, as in programs.
fn plain(size: usize) -> Vec<u8> {
    let mut random = shuffled(usize::MAX, 256);
    (0..size)
        .map(|at| if at / 16 % 2 == 0 { b'x' } else { random.next().unwrap().to_le_bytes()[0] })
        .collect()
}

#[divan::bench(args = SIZES, consts = [0, 1, 2])]
fn hash<const ALGORITHM: usize>(bencher: Bencher<'_, '_>, size: usize) {
    // In the order of their names: shake128 is 2.
    let algorithms = [HashAlgorithm::Sha1, HashAlgorithm::Rmd160, HashAlgorithm::Shake128];
    let bytes = plain(size);
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| ContentHash::of(algorithms[ALGORITHM], black_box(&bytes)));
}

fn stored(size: usize) -> (ObjectId, Vec<u8>) {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&plain(size)).unwrap();
    let stored = encoder.finish().unwrap();
    (ObjectId::zlib(ContentHash::of(HashAlgorithm::Sha1, &stored), ObjectKind::Data), stored)
}

/// Hash, inflate, compare with the size of the row.
#[divan::bench(args = SIZES)]
fn decode(bencher: Bencher<'_, '_>, size: usize) {
    let (id, stored) = stored(size);
    let bound = SizeBound::Exactly(size as u64);
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| decode_all(id, black_box(&stored), bound).unwrap());
}

#[divan::bench(args = SIZES)]
fn decode_baseline_inflate(bencher: Bencher<'_, '_>, size: usize) {
    let (_, stored) = stored(size);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let mut plain = Vec::new();
        let mut decoder = flate2::read::ZlibDecoder::new(black_box(stored.as_slice()));
        io::copy(&mut decoder, &mut plain).unwrap();
        plain
    });
}

/// One repository for all benches that need one, and a native copy.
struct Scene {
    runtime: Runtime,
    repository: Arc<Repository>,
    native: tempfile::TempDir,
    _published: fixtures::publish::Published,
    _cache: tempfile::TempDir,
}

static SCENE: LazyLock<Scene> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (native, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut repo = TestRepo::new("operations.test.repo");
    for number in 0..FILES {
        repo.file(name(number), b"x");
    }
    for number in 0..FILES_IN_DIRECTORY {
        let path = native.path().join(&name(number)[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
    let published = repo.publish();
    let repository = open(&runtime, &published, cache.path());
    Scene { runtime, repository, native, _published: published, _cache: cache }
});

fn name(number: usize) -> String {
    format!("/d{:02}/file{:03}", number / FILES_IN_DIRECTORY, number % FILES_IN_DIRECTORY)
}

fn path(number: usize) -> RepoPath {
    RepoPath::parse(name(number).as_bytes()).unwrap()
}

fn revision() -> Arc<Revision> {
    SCENE.repository.current()
}

/// Names in use, and names all over a tree that is too large to be remembered.
#[divan::bench(args = [100, FILES], sample_count = 200, sample_size = 200)]
fn lookup(bencher: Bencher<'_, '_>, of: usize) {
    let (revision, mut numbers) = (revision(), shuffled(usize::MAX, of));
    let paths: Vec<_> = (0..of).map(path).collect();
    let _context = SCENE.runtime.enter();
    bencher.bench_local(|| {
        let path = &paths[numbers.next().unwrap()];
        SCENE.runtime.block_on(revision.lookup(black_box(path))).unwrap().unwrap()
    });
}

#[divan::bench(sample_count = 200, sample_size = 200)]
fn lookup_baseline_native_lstat(bencher: Bencher<'_, '_>) {
    let mut numbers = shuffled(usize::MAX, FILES_IN_DIRECTORY);
    let paths: Vec<PathBuf> = (0..FILES_IN_DIRECTORY)
        .map(|number| SCENE.native.path().join(&name(number)[1..]))
        .collect();
    bencher.bench_local(|| fs::symlink_metadata(&paths[numbers.next().unwrap()]).unwrap());
}

#[divan::bench]
fn list(bencher: Bencher<'_, '_>) {
    let (revision, directory) = (revision(), RepoPath::parse(b"/d07").unwrap());
    bencher
        .counter(ItemsCount::new(FILES_IN_DIRECTORY))
        .bench_local(|| SCENE.runtime.block_on(revision.list(&directory)).unwrap());
}

#[divan::bench]
fn list_baseline_native_readdir_and_lstat(bencher: Bencher<'_, '_>) {
    let directory = SCENE.native.path().join("d00");
    bencher.counter(ItemsCount::new(FILES_IN_DIRECTORY)).bench_local(|| {
        let entries = fs::read_dir(&directory).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap()).collect::<Vec<_>>()
    });
}

fn row(number: usize) -> Arc<DirectoryEntry> {
    let mut identity = [0; 16];
    identity[..8].copy_from_slice(&number.to_le_bytes());
    Arc::new(DirectoryEntry {
        name: format!("file{:03}", number % FILES_IN_DIRECTORY).into_bytes().into(),
        kind: EntryKind::Regular,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        size: 1,
        rdev: 0,
        mtime: 0,
        mtime_ns: 0,
        nlink: 1,
        hardlink_group: 0,
        content: Content::None,
        symlink: Box::default(),
        raw_symlink: Box::default(),
        has_xattrs: false,
        nested_mountpoint: false,
        hidden: false,
        direct_io: false,
        external: false,
        identity,
    })
}

/// A table of so many inodes that the kernel knows.
fn inodes(count: usize) -> (InodeTable, Vec<u64>) {
    let table = InodeTable::new("operations.test.repo");
    let inos = (0..count).map(|number| table.remember(&path(number), &row(number), None).ino);
    let inos = inos.collect();
    (table, inos)
}

const TABLES: [usize; 3] = [1000, 100_000, 1_000_000];

/// One that the kernel learns of and forgets.
#[divan::bench(args = TABLES, sample_count = 200, sample_size = 200)]
fn inode_remember_and_forget(bencher: Bencher<'_, '_>, known: usize) {
    let (table, _) = inodes(known);
    let (path, row) = (path(known + 1), row(known + 1));
    bencher.bench_local(|| {
        let inode = table.remember(black_box(&path), &row, None);
        table.forget(inode.ino, 1)
    });
}

/// One of those that were used last.
#[divan::bench(args = TABLES, sample_count = 200, sample_size = 200)]
fn inode_get(bencher: Bencher<'_, '_>, known: usize) {
    let (table, inos) = inodes(known);
    let recent = &inos[known - 1000..];
    let mut numbers = shuffled(usize::MAX, recent.len());
    bencher.bench_local(|| table.get(recent[numbers.next().unwrap()]).unwrap());
}

fn fs() -> Arc<RepoFs> {
    Arc::new(RepoFs::new(Arc::clone(&SCENE.repository), RepoFsOptions::default()))
}

const OPERATION: Operation = Operation { name: "lookup", ino: 1, pid: 0, uid: 0 };

/// A lookup of a name in use, from dispatch to its result.
#[divan::bench(sample_count = 200, sample_size = 200)]
fn dispatch_lookup(bencher: Bencher<'_, '_>) {
    let dispatcher = Dispatcher::new(SCENE.runtime.handle().clone(), REQUEST_DEADLINE);
    let fs = fs();
    bencher.bench_local(|| {
        let fs = Arc::clone(&fs);
        dispatcher.run(OPERATION, async move {
            black_box(fs.lookup(1, b"d00").await.unwrap());
        });
    });
}

#[divan::bench(sample_count = 200, sample_size = 200)]
fn dispatch_baseline_direct_lookup(bencher: Bencher<'_, '_>) {
    let fs = fs();
    bencher.bench_local(|| SCENE.runtime.block_on(fs.lookup(1, b"d00")).unwrap());
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (unix, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    rustix::net::socketpair(unix, SocketType::SEQPACKET, flags, None).unwrap()
}

/// Sends a request as the kernel does and waits for the answer.
fn ask(kernel: &OwnedFd, request: &[u8], reply: &mut [u8]) -> usize {
    rustix::io::write(kernel, request).unwrap();
    rustix::io::read(kernel, reply).unwrap()
}

/// Header, then the body of a request.
fn request(opcode: u32, unique: u64, ino: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + body.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend(len.to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(unique.to_le_bytes());
    bytes.extend(ino.to_le_bytes());
    // User, group, process, and no extensions.
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

const LOOKUP: u32 = 1;
const INIT: u32 = 26;

/// Request to answer: a lookup of a name in use through fuser, adapter and table, over a socket in
/// place of the kernel.
#[divan::bench(sample_count = 200, sample_size = 100)]
fn request_lookup(bencher: Bencher<'_, '_>) {
    let (kernel, server) = pair();
    let adapter =
        Adapter::new(fs(), SCENE.runtime.handle().clone(), REQUEST_DEADLINE, Arc::default());
    // Version 7.40, read-ahead, no flags.
    let mut greeting = Vec::new();
    for word in [7_u32, 40, 1 << 20] {
        greeting.extend(word.to_le_bytes());
    }
    greeting.resize(64, 0);
    rustix::io::write(&kernel, &request(INIT, 2, 0, &greeting)).unwrap();
    let (acl, config) = (fuser::SessionACL::All, fuser::Config::default());
    let session = fuser::Session::from_fd(adapter, server, acl, config).unwrap();
    let mut reply = vec![0; 4096];
    rustix::io::read(&kernel, &mut reply[..]).unwrap();
    let serving = std::thread::spawn(move || session.run());
    let lookup = request(LOOKUP, 4, 1, b"d00\0");
    bencher.bench_local(|| {
        let len = ask(&kernel, &lookup, &mut reply);
        // A header and an entry, without an error.
        assert_eq!((len, &reply[4..8]), (16 + 128, &[0; 4][..]));
    });
    // Its end is the end of the connection.
    drop(kernel);
    let _ = serving.join();
}

/// What the socket and the wake of another thread cost.
#[divan::bench(sample_count = 200, sample_size = 100)]
fn request_baseline_echo(bencher: Bencher<'_, '_>) {
    let (kernel, server) = pair();
    let serving = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 20];
        while rustix::io::read(&server, &mut bytes[..]).is_ok_and(|len| len > 0) {
            if rustix::io::write(&server, &bytes[..16 + 128]).is_err() {
                break;
            }
        }
    });
    let (lookup, mut reply) = (request(LOOKUP, 4, 1, b"d00\0"), vec![0; 4096]);
    bencher.bench_local(|| ask(&kernel, &lookup, &mut reply));
    drop(kernel);
    serving.join().unwrap();
}

/// Objects of a segment, as they are learnt.
const SEGMENT: usize = 50;

/// The record of starts that used so many objects.
#[divan::bench(args = [100, 1000], max_time = Duration::from_secs(2))]
fn profile_parse(bencher: Bencher<'_, '_>, objects: usize) {
    let mut text = "cvmfs-fuse profile 1 x.test.repo\n".to_owned();
    for number in 0..objects {
        if number % SEGMENT == 0 {
            text.push_str("s 1700000000000\n");
        }
        let hash = ContentHash::of(HashAlgorithm::Sha1, &number.to_le_bytes());
        text.push_str(&format!("o {hash} 5000 3\n"));
    }
    assert_eq!(Profile::parse(text.as_bytes(), "x.test.repo").unwrap().objects(), objects);
    bencher
        .counter(ItemsCount::new(objects))
        .bench_local(|| Profile::parse(black_box(text.as_bytes()), "x.test.repo").unwrap());
}
