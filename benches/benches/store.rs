//! One object of the disk cache: opened, verified, stored. `cargo bench -p benches --bench store`;
//! `CVMFS_FUSE_BENCH_OBJECTS` makes the large directory smaller.
#![allow(clippy::unwrap_used, reason = "a bench may die")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use benches::objects::{checked, fill, name_of, open, shuffled};
use cvmfs_cache::Quota;
use cvmfs_core::cache::{ObjectCache as _, ObjectMeta};
use cvmfs_core::object::ObjectId;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

const FEW: usize = 1000;
/// Opens in a bench of which each takes some microseconds.
const SAMPLES: u32 = 100;
const OPENS_IN_SAMPLE: u32 = 500;
/// Objects that are opened for the first time.
const VERIFIED: u32 = 2000;
const VERIFIED_SIZE: usize = 64 << 10;

/// A filled directory; in memory, so that a disk is not what is measured.
struct Filled {
    directory: tempfile::TempDir,
    ids: Vec<ObjectId>,
}

/// Filled once, used by several benches, removed at the end.
static FILLED: Mutex<BTreeMap<usize, Arc<Filled>>> = Mutex::new(BTreeMap::new());

fn main() {
    divan::main();
    FILLED.lock().unwrap().clear();
}

#[allow(clippy::disallowed_methods, reason = "chosen by whoever runs the bench")]
fn sizes() -> Vec<usize> {
    let many = std::env::var("CVMFS_FUSE_BENCH_OBJECTS");
    vec![FEW, many.map_or(1_000_000, |text| text.parse().unwrap())]
}

fn filled(count: usize) -> Arc<Filled> {
    let mut all = FILLED.lock().unwrap();
    let one = all.entry(count).or_insert_with(|| {
        let shm = Path::new("/dev/shm");
        let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::tempdir_in(parent).unwrap();
        let (ids, ..) = fill(directory.path(), count);
        Arc::new(Filled { directory, ids })
    });
    Arc::clone(one)
}

/// The hit path: an object that is there and believed.
#[divan::bench(args = sizes(), sample_count = SAMPLES, sample_size = OPENS_IN_SAMPLE)]
fn hit(bencher: Bencher<'_, '_>, objects: usize) {
    let filled = filled(objects);
    let cache = open(filled.directory.path(), Quota::Unlimited);
    let mut numbers = shuffled(usize::MAX, objects);
    bencher.bench_local(|| {
        let id = &filled.ids[numbers.next().unwrap()];
        drop(black_box(cache.open(id).unwrap().unwrap()));
    });
}

/// What no cache can do without.
#[divan::bench(args = sizes(), sample_count = SAMPLES, sample_size = OPENS_IN_SAMPLE)]
fn hit_native_open_and_fstat(bencher: Bencher<'_, '_>, objects: usize) {
    let filled = filled(objects);
    let directory = filled.directory.path().join("v2/objects");
    let paths: Vec<_> = filled.ids.iter().map(|id| directory.join(name_of(id))).collect();
    let mut numbers = shuffled(usize::MAX, objects);
    bencher.bench_local(|| {
        let file = File::open(&paths[numbers.next().unwrap()]).unwrap();
        black_box(file.metadata().unwrap());
    });
}

/// Opens in a directory that a group shares: the first one of each object reads all of it.
#[divan::bench(args = ["first", "second"], sample_count = VERIFIED / 20, sample_size = 20)]
fn shared_open_64_kib(bencher: Bencher<'_, '_>, which: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("shared");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o2770)).unwrap();
    let writer = open(&directory, Quota::Unlimited);
    let ids: Vec<_> = (0..u64::from(VERIFIED))
        .map(|number| {
            let (id, plain, proof) = checked(number, VERIFIED_SIZE);
            let mut transaction = writer.begin(&id, &ObjectMeta::default()).unwrap();
            transaction.write(&plain).unwrap();
            transaction.commit(proof).unwrap();
            id
        })
        .collect();
    let reader = open(&directory, Quota::Unlimited);
    if which == "second" {
        for id in &ids {
            drop(reader.open(id).unwrap().unwrap());
        }
    }
    let next = AtomicUsize::new(0);
    bencher.counter(BytesCount::new(VERIFIED_SIZE)).bench(|| {
        let id = &ids[next.fetch_add(1, Ordering::Relaxed) % ids.len()];
        drop(black_box(reader.open(id).unwrap().unwrap()));
    });
}

/// A checked object gets its name; hashing and inflating are done before.
#[divan::bench(args = [4 << 10, 64 << 10, 1 << 20], threads = [1, 4], sample_count = 200, sample_size = 1)]
fn commit(bencher: Bencher<'_, '_>, size: usize) {
    let scratch = tempfile::tempdir().unwrap();
    let cache = open(scratch.path(), Quota::Unlimited);
    let next = AtomicU64::new(0);
    bencher
        .counter(BytesCount::new(size))
        .with_inputs(|| checked(next.fetch_add(1, Ordering::Relaxed), size))
        .bench_values(|(id, plain, proof)| {
            let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
            transaction.write(&plain).unwrap();
            assert!(transaction.commit(proof).unwrap().path().is_some());
        });
}

/// What no cache can do without: a file that gets its name when it is whole.
#[divan::bench(args = [4 << 10, 64 << 10, 1 << 20], threads = [1, 4], sample_count = 200, sample_size = 1)]
fn commit_native_write_and_rename(bencher: Bencher<'_, '_>, size: usize) {
    let scratch = tempfile::tempdir().unwrap();
    let next = AtomicU64::new(0);
    bencher
        .counter(BytesCount::new(size))
        .with_inputs(|| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            (scratch.path().join(format!("{number}.new")), scratch.path().join(number.to_string()))
        })
        .bench_values(|(new, whole)| {
            std::fs::write(&new, black_box(vec![0x5a; size])).unwrap();
            std::fs::rename(&new, &whole).unwrap();
        });
}
