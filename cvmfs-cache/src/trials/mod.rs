//! Long tests of a whole cache directory: random work, and many deaths.

mod count;
mod kills;
mod properties;

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::cache::{CachedObject, ObjectCache, ObjectMeta, Pin};
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};

use crate::disk::{DiskCache, DiskCacheOptions};
use crate::index::Index;
use crate::keeper::{Tender, list_fan};
use crate::layout::{Layout, OBJECTS, object_name};
use crate::quota::Quota;
use crate::store::{Store, Verify};
use crate::transaction::Naming;

/// Whatever is waited for takes less.
const LIMIT: Duration = Duration::from_secs(20);

/// The bytes of an object: different for each number, of very different sizes below 4 KiB.
fn body_of(number: u32) -> Vec<u8> {
    let len = 100 + (number as usize * 7919) % 3900;
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn id_of(number: u32) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Sha1, &body_of(number));
    ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None }
}

fn commit(cache: &DiskCache, number: u32, volatile: bool) -> CachedObject {
    let (id, body) = (id_of(number), body_of(number));
    let (plain, proof) = decode_all(id, &body, SizeBound::AtMost(1 << 20)).unwrap();
    let meta = ObjectMeta { volatile, ..ObjectMeta::default() };
    let mut transaction = cache.begin(&id, &meta).unwrap();
    transaction.write(&plain).unwrap();
    let object = transaction.commit(proof).unwrap();
    assert_eq!(object.read_all(1 << 20).unwrap(), body);
    object
}

/// Opens an object, and looks at every byte; false if it is not there.
fn check(cache: &DiskCache, number: u32) -> bool {
    let Some(object) = cache.open(&id_of(number)).unwrap() else { return false };
    assert!(object.read_all(1 << 20).unwrap() == body_of(number), "wrong bytes of {number}");
    true
}

fn open(directory: &Path, quota: u64, naming: Option<Naming>) -> DiskCache {
    let (quota, verify) = (Quota::Bytes(quota), Verify::Always);
    let options = DiskCacheOptions { quota, verify, naming, ..DiskCacheOptions::default() };
    DiskCache::open_with(directory, options).unwrap()
}

/// Opens the same without the thread that tends it.
fn store_alone(directory: &Path, quota: u64) -> Arc<Store> {
    let layout = Arc::new(Layout::create(directory, false).unwrap());
    Arc::new(Store::new(layout, Naming::Named, Quota::Bytes(quota), Verify::Always))
}

/// Returns the names and sizes of all objects.
fn objects(store: &Store) -> Vec<(String, u64)> {
    let fans = (0..=u8::MAX).flat_map(|fan| list_fan(store, fan));
    let mut found: Vec<_> = fans.map(|one| (one.name, one.size)).collect();
    found.sort();
    found
}

fn rows(store: &Store) -> Vec<(String, u64)> {
    let mut rows = Vec::new();
    let index = Index::open(store.layout.path("index.sqlite"), None).unwrap();
    index
        .for_each(&mut |row| {
            rows.push((row.name, row.size));
            true
        })
        .unwrap();
    rows.sort();
    rows
}

/// Counts a directory that nobody uses any more, and compares everything with everything.
fn assert_consistent_after_a_count(directory: &Path, quota: u64) {
    let store = store_alone(directory, quota);
    let mut tender = Tender::new(Arc::clone(&store));
    // What is some milliseconds old is counted next time.
    let start = Instant::now();
    loop {
        assert!(tender.count(false), "nobody else counts");
        let found = objects(&store);
        let sum = (found.iter().map(|one| one.1).sum(), found.len() as u64);
        let gauge = store.gauge.read();
        let agrees = (gauge.bytes, gauge.objects) == sum;
        if agrees && rows(&store) == found {
            break;
        }
        let late = start.elapsed() > Duration::from_secs(2);
        assert!(!late || agrees, "gauge {gauge:?}, files {sum:?}");
        assert!(!late, "rows {:?}, files {found:?}", rows(&store));
    }
    // Ours alone, after a keeper's look.
    assert_eq!(store.session.as_ref().unwrap().others().live, 0);
    assert_eq!(store.layout.list("sessions").unwrap().len(), 1);
}

/// Checks that every file under the name of an object has its hash.
fn assert_no_partial_object(directory: &Path) -> usize {
    let mut count = 0;
    let root = directory.join("v2").join(OBJECTS);
    for fan in std::fs::read_dir(&root).unwrap() {
        for file in std::fs::read_dir(fan.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            // Somebody may evict it just now.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let hash = ContentHash::of(HashAlgorithm::Sha1, &bytes);
            let compression = Compression::None;
            let id = ObjectId { hash, kind: ObjectKind::Data, compression };
            assert_eq!(path, root.join(object_name(&id)), "{} bytes", bytes.len());
            count += 1;
        }
    }
    count
}

/// How long a trial is, where somebody wants another than the usual.
fn number_from_environment(name: &str, usual: u32) -> u32 {
    let given = std::env::var_os(name);
    given.map_or(usual, |text| text.to_str().unwrap().parse().unwrap())
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// Not a test: another process, told what to do on its standard input.
#[test]
#[ignore = "run by other tests"]
fn worker() {
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    // Somebody who runs all ignored tests says nothing.
    let Some(directory) = lines.next().map(PathBuf::from) else { return };
    let quota = lines.next().unwrap().parse().unwrap();
    let naming = match lines.next().as_deref() {
        Some("Named") => Some(Naming::Named),
        _ => None,
    };
    let cache = open(&directory, quota, naming);
    println!("ready");
    let (mut begun, mut pins) = (Vec::new(), Vec::<Pin>::new());
    for line in lines {
        let (what, number) = line.split_once(' ').unwrap();
        let number: u32 = number.parse().unwrap();
        match what {
            "commit" => drop(commit(&cache, number, false)),
            "pin" => pins.push(cache.pin(&id_of(number))),
            "begin" => {
                let mut transaction = cache.begin(&id_of(number), &ObjectMeta::default()).unwrap();
                transaction.write(&body_of(number)[..50]).unwrap();
                begun.push(transaction);
            }
            // Until somebody ends us.
            "churn" => kills::churn(&cache, number),
            other => panic!("{other}"),
        }
        println!("did {line}");
    }
}

/// The other end of [`worker`]; ended by `kill -9` when it is dropped.
struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(directory: &Path, quota: u64, naming: Option<Naming>) -> Self {
        let mut worker = Self::spawn(directory, quota, naming);
        worker.wait_for("ready");
        worker
    }

    /// Does not wait until it is ready.
    fn spawn(directory: &Path, quota: u64, naming: Option<Naming>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "trials::worker", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let naming = naming.map_or(String::new(), |naming| format!("{naming:?}"));
        let directory = directory.display();
        writeln!(child.stdin.as_mut().unwrap(), "{directory}\n{quota}\n{naming}").unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn say(&mut self, what: &str, number: u32) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what} {number}").unwrap();
    }

    fn make(&mut self, what: &str, number: u32) {
        self.say(what, number);
        self.wait_for(&format!("did {what} {number}"));
    }

    fn wait_for(&mut self, text: &str) {
        for line in self.lines.by_ref() {
            if line.unwrap().ends_with(text) {
                return;
            }
        }
        panic!("the worker ended before {text:?}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
