//! Directories of the disk cache with objects in them.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use cvmfs_cache::{DiskCache, DiskCacheOptions, Quota};
use cvmfs_core::cache::ObjectCache as _;
use cvmfs_core::decode::{CheckedBody, SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use rusqlite::Connection;

/// Nothing that is waited for takes longer.
const LIMIT: Duration = Duration::from_secs(200);

/// Returns the id of an uncompressed object.
pub fn id_of(bytes: &[u8]) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Sha1, bytes);
    ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None }
}

/// Returns where it is below the directory of objects.
pub fn name_of(id: &ObjectId) -> String {
    let text = id.hash.to_string();
    format!("{}/{}.none", &text[..2], &text[2..])
}

/// Returns a checked object of that size, another one for each number.
pub fn checked(number: u64, size: usize) -> (ObjectId, Vec<u8>, CheckedBody) {
    let mut body = vec![0x5a; size];
    body[..8].copy_from_slice(&number.to_le_bytes());
    let id = id_of(&body);
    let (plain, proof) = decode_all(id, &body, SizeBound::Exactly(size as u64)).unwrap();
    (id, plain, proof)
}

/// Opens a directory as a process does.
pub fn open(directory: &Path, quota: Quota) -> DiskCache {
    let options = DiskCacheOptions { quota, ..DiskCacheOptions::default() };
    DiskCache::open_with(directory, options).unwrap()
}

/// Numbers without an order that a disk or a cache of names could use.
pub fn shuffled(count: usize, limit: usize) -> impl Iterator<Item = usize> {
    let mut state = 1_u64;
    (0..count).map(move |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    })
}

/// Fills a directory with objects of one byte under names of their own, as if they were committed
/// without a checksum, and waits until they are counted. Returns how long writing and counting took.
pub fn fill(directory: &Path, count: usize) -> (Vec<ObjectId>, Duration, Duration) {
    drop(open(directory, Quota::Unlimited));
    let objects = directory.join("v2/objects");
    for fan in 0..256 {
        let fan = objects.join(format!("{fan:02x}"));
        let _ = std::fs::DirBuilder::new().mode(0o700).create(fan);
    }
    let start = Instant::now();
    let seal = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let ids: Vec<_> = (0..count).map(|number| id_of(&number.to_le_bytes())).collect();
    for id in &ids {
        let path = objects.join(name_of(id));
        let mut options = std::fs::File::options();
        let mut file = options.write(true).create_new(true).mode(0o400).open(path).unwrap();
        file.write_all(b"x").unwrap();
        file.set_modified(seal).unwrap();
    }
    let written = start.elapsed();
    let index = directory.join("v2/index.sqlite");
    let _ = std::fs::remove_file(&index);
    let start = Instant::now();
    let cache = open(directory, Quota::Unlimited);
    until(|| cache.usage().used == count as u64 && count_is_done(&index));
    (ids, written, start.elapsed())
}

fn count_is_done(index: &Path) -> bool {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let Ok(connection) = Connection::open_with_flags(index, flags) else { return false };
    let query = "SELECT value FROM state WHERE key = 'count_due'";
    connection.query_row(query, [], |row| row.get::<_, i64>(0)) == Ok(0)
}

/// Looks again and again until something is so.
pub fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT);
        // Locks of the index are taken by each look.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
