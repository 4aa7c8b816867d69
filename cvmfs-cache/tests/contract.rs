//! What every store must do, run over every store (`cvmfs_core::cache`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking; the exceptions in clippy.toml stop at helper functions"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;

use cvmfs_cache::{DiskCache, DiskCacheOptions, Naming};
use cvmfs_core::cache::{CacheError, CachedObject, MemoryCache, ObjectCache, ObjectMeta};
use cvmfs_core::decode::{CheckedBody, SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use flate2::{Compression as Level, write::ZlibEncoder};

const CAP: u64 = 64 << 20;

/// Bytes that are a zlib stream, so that they make an object in both readings.
fn stored(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn id_of(stored: &[u8], compression: Compression) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Sha1, stored);
    ObjectId { hash, kind: ObjectKind::Data, compression }
}

fn proof(id: ObjectId, stored: &[u8]) -> (Vec<u8>, CheckedBody) {
    decode_all(id, stored, SizeBound::AtMost(CAP)).unwrap()
}

fn commit(cache: &dyn ObjectCache, id: ObjectId, stored: &[u8]) -> CachedObject {
    let (plain, proof) = proof(id, stored);
    let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
    for piece in plain.chunks(1000) {
        transaction.write(piece).unwrap();
    }
    transaction.commit(proof).unwrap()
}

fn read(object: &CachedObject) -> Vec<u8> {
    object.read_all(CAP).unwrap().to_vec()
}

fn open_plain(cache: &dyn ObjectCache, id: &ObjectId) -> Option<Vec<u8>> {
    cache.open(id).unwrap().map(|object| read(&object))
}

/// Runs `test` on an empty store of each kind.
fn every_store(test: fn(&dyn ObjectCache)) {
    test(&MemoryCache::default());
    every_directory(|directory, naming| test(&open(directory, naming)));
}

/// Runs `test` in an empty directory for each way to name files, on disk and on tmpfs.
fn every_directory(test: impl Fn(&Path, Naming)) {
    let shm = Path::new("/dev/shm");
    for parent in [std::env::temp_dir().as_path(), shm] {
        if parent == shm && !shm.is_dir() {
            continue;
        }
        let trial = tempfile::tempdir_in(parent).unwrap();
        let natural = DiskCache::open(trial.path()).unwrap().naming();
        let mut namings = vec![natural, Naming::Named];
        namings.dedup();
        for naming in namings {
            let scratch = tempfile::tempdir_in(parent).unwrap();
            test(scratch.path(), naming);
        }
    }
}

fn open(directory: &Path, naming: Naming) -> DiskCache {
    let options = DiskCacheOptions { naming: Some(naming), ..DiskCacheOptions::default() };
    DiskCache::open_with(directory, options).unwrap()
}

/// Returns all files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn what_was_committed_can_be_opened() {
    every_store(|cache| {
        let large = vec![7; 300_000];
        for plain in [&b""[..], b"x", b"some text", &large] {
            let body = stored(plain);
            let id = id_of(&body, Compression::Zlib);
            assert_eq!(open_plain(cache, &id), None);
            let object = commit(cache, id, &body);
            assert_eq!((object.len(), read(&object)), (plain.len() as u64, plain.to_vec()));
            assert_eq!(open_plain(cache, &id).as_deref(), Some(plain));
        }
    });
}

#[test]
fn the_two_readings_of_a_body_and_the_kinds_are_different_objects() {
    every_store(|cache| {
        let body = stored(b"text");
        let zlib = id_of(&body, Compression::Zlib);
        let none = id_of(&body, Compression::None);
        let catalog = ObjectId { kind: ObjectKind::Catalog, ..zlib };
        commit(cache, zlib, &body);
        assert_eq!(open_plain(cache, &none), None);
        assert_eq!(open_plain(cache, &catalog), None);
        commit(cache, none, &body);
        assert_eq!(open_plain(cache, &zlib).as_deref(), Some(&b"text"[..]));
        assert_eq!(open_plain(cache, &none), Some(body));
    });
}

#[test]
fn an_uncommitted_object_leaves_nothing() {
    every_store(|cache| {
        let body = stored(b"never");
        let id = id_of(&body, Compression::Zlib);
        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(b"never").unwrap();
        assert_eq!(open_plain(cache, &id), None);
        drop(transaction);
        assert_eq!(open_plain(cache, &id), None);
        assert_eq!(cache.usage().used, 0);
    });
    every_directory(|directory, naming| {
        let cache = open(directory, naming);
        let id = id_of(b"never", Compression::None);
        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(b"never").unwrap();
        drop(transaction);
        for place in ["objects", "txn"] {
            assert_eq!(files(&directory.join("v2").join(place)), [] as [&Path; 0]);
        }
    });
}

#[test]
fn a_proof_of_something_else_is_refused() {
    every_store(|cache| {
        let (right, wrong) = (stored(b"right"), stored(b"wrong"));
        let id = id_of(&right, Compression::Zlib);
        let other = id_of(&wrong, Compression::Zlib);

        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(b"wrong").unwrap();
        let error = transaction.commit(proof(other, &wrong).1).unwrap_err();
        assert!(
            matches!(error, CacheError::WrongBody { expected, body } if expected == id && body == other),
            "{error:?}"
        );

        for written in [&b"righ"[..], b"rightly"] {
            let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
            transaction.write(written).unwrap();
            let error = transaction.commit(proof(id, &right).1).unwrap_err();
            let sizes = (written.len() as u64, 5);
            assert!(
                matches!(error, CacheError::WrongSize { written, checked, .. } if (written, checked) == sizes),
                "{error:?}"
            );
        }
        assert_eq!(open_plain(cache, &id), None);
        assert_eq!(cache.usage().used, 0);
    });
}

#[test]
fn transactions_for_one_object_do_not_disturb_each_other() {
    every_store(|cache| {
        let body = stored(b"the same");
        let id = id_of(&body, Compression::Zlib);
        let mut first = cache.begin(&id, &ObjectMeta::default()).unwrap();
        let mut second = cache.begin(&id, &ObjectMeta::default()).unwrap();
        let third = cache.begin(&id, &ObjectMeta::default()).unwrap();
        first.write(b"the ").unwrap();
        second.write(b"the same").unwrap();
        first.write(b"same").unwrap();
        assert_eq!(read(&first.commit(proof(id, &body).1).unwrap()), b"the same");
        drop(third);
        assert_eq!(read(&second.commit(proof(id, &body).1).unwrap()), b"the same");
        assert_eq!(open_plain(cache, &id).as_deref(), Some(&b"the same"[..]));
        assert_eq!(cache.usage().used, 8);
    });
}

#[test]
fn threads_commit_and_discard_the_same_objects() {
    every_store(|cache| {
        let bodies: Vec<_> = (0..20u8).map(|n| stored(&[n; 5000])).collect();
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (bodies, start) = (&bodies, &start);
                scope.spawn(move || {
                    start.wait();
                    for (n, body) in (0u8..).zip(bodies) {
                        let id = id_of(body, Compression::Zlib);
                        assert_eq!(read(&commit(cache, id, body)), [n; 5000]);
                        if thread == 0 {
                            cache.discard(&id).unwrap();
                        }
                        if let Some(found) = open_plain(cache, &id) {
                            assert_eq!(found, [n; 5000]);
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn a_discarded_object_is_gone_and_still_readable_where_it_is_open() {
    every_store(|cache| {
        let body = stored(b"short lived");
        let id = id_of(&body, Compression::Zlib);
        let committed = commit(cache, id, &body);
        let opened = cache.open(&id).unwrap().unwrap();
        cache.discard(&id).unwrap();
        assert_eq!(open_plain(cache, &id), None);
        for object in [&committed, &opened] {
            assert_eq!(read(object), b"short lived");
            let mut buffer = [0; 20];
            assert_eq!(object.read_at(&mut buffer, 6).unwrap(), 5);
            assert_eq!(&buffer[..5], b"lived");
        }
        cache.discard(&id).unwrap();
        assert_eq!(read(&commit(cache, id, &body)), b"short lived");
    });
}

#[test]
fn a_directory_opened_again_has_its_objects() {
    every_directory(|directory, naming| {
        let body = stored(b"kept");
        let id = id_of(&body, Compression::Zlib);
        let object = commit(&open(directory, naming), id, &body);
        let path = object.path().unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o400);
        assert_eq!(std::fs::read(path).unwrap(), b"kept");

        let again = open(directory, Naming::Named);
        assert_eq!(open_plain(&again, &id).as_deref(), Some(&b"kept"[..]));
        assert_eq!(again.usage().used, 4);
    });
}

#[test]
fn what_a_dead_process_left_is_removed_and_what_a_live_one_writes_is_not() {
    every_directory(|directory, naming| {
        let cache = open(directory, naming);
        let body = stored(b"in time");
        let id = id_of(&body, Compression::Zlib);
        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(b"in ").unwrap();
        let leftover = directory.join("v2/txn/fetch-0123456789abcdef");
        std::fs::write(&leftover, b"half").unwrap();

        let _second = open(directory, naming);
        assert!(!leftover.exists());
        transaction.write(b"time").unwrap();
        transaction.commit(proof(id, &body).1).unwrap();
        assert_eq!(open_plain(&cache, &id).as_deref(), Some(&b"in time"[..]));
    });
}

/// The objects that writers in other processes store, of very different sizes.
fn shared_body(number: usize) -> Vec<u8> {
    let byte = u8::try_from(number % 251).unwrap();
    vec![byte; (number * 7919) % 200_000 + 1]
}

/// Not a test: the other process of the tests below. It reads what to do from standard input.
#[test]
#[ignore = "run by other tests"]
fn writer() {
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    let (Some(directory), Some(naming), Some(rounds)) = (lines.next(), lines.next(), lines.next())
    else {
        return; // Somebody runs all ignored tests.
    };
    let naming = if naming == "Named" { Naming::Named } else { Naming::Unnamed };
    let cache = open(Path::new(&directory), naming);
    println!("ready");
    lines.next();
    for round in 0..rounds.parse().unwrap() {
        for number in 0..50 {
            let body = shared_body(number);
            let id = id_of(&body, Compression::None);
            assert_eq!(read(&commit(&cache, id, &body)), body);
            assert!(open_plain(&cache, &id).is_none_or(|found| found == body));
            if (round + number) % 3 == 0 {
                cache.discard(&id).unwrap();
            }
            println!("stored {number}");
        }
    }
}

struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Writer {
    fn start(directory: &Path, naming: Naming, rounds: usize, umask: &str) -> Self {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", umask])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "writer", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let directory = directory.display();
        writeln!(child.stdin.as_mut().unwrap(), "{directory}\n{naming:?}\n{rounds}").unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut writer = Self { child, lines };
        writer.wait_for("ready");
        writer
    }

    fn go(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap(), "go").unwrap();
    }

    /// Reads on until a line ends with `text`; the harness writes lines of its own.
    fn wait_for(&mut self, text: &str) {
        for line in self.lines.by_ref() {
            if line.unwrap().ends_with(text) {
                return;
            }
        }
        panic!("the writer ended before {text:?}");
    }

    fn finish(mut self) {
        self.lines.by_ref().for_each(drop);
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Checks that all names are those of their bytes; returns how many there are.
fn assert_all_whole(directory: &Path) -> usize {
    let objects = files(&directory.join("v2/objects"));
    for path in &objects {
        let bytes = std::fs::read(path).unwrap();
        let hash = ContentHash::of(HashAlgorithm::Sha1, &bytes).to_string();
        assert!(path.ends_with(format!("{}/{}.none", &hash[..2], &hash[2..])), "{path:?}");
    }
    objects.len()
}

#[test]
fn processes_commit_the_same_objects() {
    every_directory(|directory, naming| {
        let mut writers: Vec<_> =
            (0..3).map(|_| Writer::start(directory, naming, 4, "022")).collect();
        writers.iter_mut().for_each(Writer::go);
        writers.into_iter().for_each(Writer::finish);
        assert!(assert_all_whole(directory) > 0);
        assert_eq!(files(&directory.join("v2/txn")), [] as [&Path; 0]);
    });
}

#[test]
fn a_killed_process_leaves_no_partial_object() {
    every_directory(|directory, naming| {
        let cache = open(directory, naming);
        for number in [0, 3, 11, 20, 28, 35, 49] {
            let mut writer = Writer::start(directory, naming, 1000, "022");
            writer.go();
            writer.wait_for(&format!("stored {number}"));
            writer.kill();
            assert_all_whole(directory);
            // The next start cleans up, and every object is either there or not.
            let next = open(directory, naming);
            assert_eq!(files(&directory.join("v2/txn")), [] as [&Path; 0]);
            for number in 0..50 {
                let body = shared_body(number);
                let id = id_of(&body, Compression::None);
                assert!(open_plain(&next, &id).is_none_or(|found| found == body));
                assert_eq!(read(&commit(&cache, id, &body)), body);
            }
        }
    });
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    for (given, directories, objects, controls) in
        [(0o700, 0o700, 0o400, 0o600), (0o2770, 0o2770, 0o440, 0o660)]
    {
        every_directory(|scratch, naming| {
            let directory = scratch.join("cache");
            std::fs::create_dir(&directory).unwrap();
            std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(given)).unwrap();
            let mut writer = Writer::start(&directory, naming, 1, "777");
            writer.go();
            writer.finish();
            let root = directory.join("v2");
            for path in files(&root) {
                let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
                let is_record = path.starts_with(root.join("records"));
                let is_object =
                    path.starts_with(root.join("objects")) || path.ends_with("CACHEDIR.TAG");
                let expected = if is_object {
                    objects
                } else if is_record {
                    0o600
                } else {
                    controls
                };
                assert_eq!(mode(&path), expected, "{path:?}");
                assert_eq!(mode(path.parent().unwrap()), directories, "{path:?}");
            }
            assert!(root.join("index.sqlite").exists() && root.join("gauge").exists());
        });
    }
}
