//! What only a store on disk can get wrong; the rest is in `tests/contract.rs`.

use super::*;
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectKind};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

fn plain_id(bytes: &[u8]) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Sha1, bytes);
    ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None }
}

fn store(cache: &DiskCache, bytes: &[u8]) -> CachedObject {
    let id = plain_id(bytes);
    let (plain, proof) = decode_all(id, bytes, SizeBound::AtMost(1 << 20)).unwrap();
    let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
    transaction.write(&plain).unwrap();
    transaction.commit(proof).unwrap()
}

fn read(object: &CachedObject) -> Vec<u8> {
    object.read_all(1 << 20).unwrap().to_vec()
}

fn writable(path: &Path) -> std::fs::File {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::File::options().read(true).write(true).open(path).unwrap()
}

fn both(test: impl Fn(&DiskCache, &Path)) {
    for naming in [None, Some(Naming::Named)] {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("cache");
        let cache = match naming {
            None => DiskCache::open(&directory).unwrap(),
            Some(_) => {
                let options = DiskCacheOptions { naming, ..DiskCacheOptions::default() };
                DiskCache::open_with(&directory, options).unwrap()
            }
        };
        test(&cache, scratch.path());
    }
}

#[test]
fn foreign_things_under_an_objects_name_are_absent_and_replaced() {
    const BYTES: &[u8] = b"the right bytes";
    type Put = fn(&Path, &Path);
    let things: [(&str, Put); 8] = [
        ("same size, unsealed", |path, _| std::fs::write(path, b"the wrong bytes").unwrap()),
        ("empty", |path, _| std::fs::write(path, b"").unwrap()),
        ("cut", |path, outside| {
            // `cp -a` keeps the seal, a truncation afterwards breaks it.
            std::fs::rename(outside.join("copy"), path).unwrap();
            let file = writable(path);
            file.set_len(4).unwrap();
        }),
        ("link", |path, outside| symlink(outside.join("secret"), path).unwrap()),
        ("hard link", |path, outside| {
            std::fs::hard_link(outside.join("copy"), path).unwrap();
        }),
        ("fifo", |path, _| {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("directory", |path, _| std::fs::create_dir(path).unwrap()),
        ("full directory", |path, _| {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("x"), b"x").unwrap();
        }),
    ];
    both(|cache, scratch| {
        let path: PathBuf = store(cache, BYTES).path().unwrap().to_owned();
        for (name, put) in things {
            // Once found by a reader, once by a commit.
            for reader_first in [true, false] {
                std::fs::write(scratch.join("secret"), b"secret").unwrap();
                let _ = std::fs::remove_file(scratch.join("copy"));
                if path.is_file() {
                    std::fs::rename(&path, scratch.join("copy")).unwrap();
                }
                put(&path, scratch);
                if reader_first {
                    assert!(cache.open(&plain_id(BYTES)).unwrap().is_none(), "{name}");
                    assert!(path.symlink_metadata().is_err(), "{name} stays");
                }
                assert_eq!(read(&store(cache, BYTES)), BYTES, "{name}");
                let again = cache.open(&plain_id(BYTES)).unwrap().unwrap();
                assert_eq!(read(&again), BYTES, "{name}");
                assert_eq!(std::fs::read(scratch.join("secret")).unwrap(), b"secret");
            }
        }
    });
}

#[test]
fn a_file_in_place_of_a_directory_of_objects_is_replaced() {
    both(|cache, _| {
        let fan = cache.store.layout.path(fan_name(fan_of(&plain_id(b"x"))));
        std::fs::write(&fan, b"no directory").unwrap();
        assert!(cache.open(&plain_id(b"x")).unwrap().is_none());
        cache.discard(&plain_id(b"x")).unwrap();
        assert_eq!(read(&store(cache, b"x")), b"x");
    });
}

#[test]
fn a_cache_wiped_in_use_recovers() {
    both(|cache, _| {
        let old = store(cache, b"old");
        let id = plain_id(b"new");
        let (plain, proof) = decode_all(id, b"new", SizeBound::AtMost(3)).unwrap();
        std::fs::remove_dir_all(cache.directory()).unwrap();
        assert_eq!(read(&old), b"old");
        assert!(cache.open(&plain_id(b"old")).unwrap().is_none());
        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(&plain).unwrap();
        if cache.naming() == Naming::Unnamed {
            std::fs::remove_dir_all(cache.directory()).unwrap();
        }
        assert_eq!(read(&transaction.commit(proof).unwrap()), b"new");
        assert_eq!(read(&cache.open(&id).unwrap().unwrap()), b"new");
    });
}

#[test]
fn a_commit_takes_the_object_that_is_there() {
    use std::os::unix::fs::MetadataExt as _;
    both(|cache, _| {
        let first = store(cache, b"twice");
        let second = store(cache, b"twice");
        let inode = |object: &CachedObject| object.file().unwrap().metadata().unwrap().ino();
        assert_eq!(inode(&first), inode(&second));
        assert_eq!(cache.usage().used, 5);
    });
}

#[test]
fn usage_counts_objects_and_knows_the_limit() {
    let scratch = tempfile::tempdir().unwrap();
    store(&DiskCache::open(scratch.path()).unwrap(), b"12345");
    let cache = DiskCache::open(scratch.path()).unwrap();
    let usage = cache.usage();
    assert_eq!(usage.used, 5);
    assert!(usage.limit > usage.used, "{usage:?}");
    store(&cache, b"678");
    assert_eq!(cache.usage().used, 8);
    cache.discard(&plain_id(b"12345")).unwrap();
    assert_eq!(cache.usage().used, 3);
    drop(cache);
    let options = DiskCacheOptions { quota: Quota::Bytes(1000), ..DiskCacheOptions::default() };
    let limited = DiskCache::open_with(scratch.path(), options).unwrap();
    assert_eq!(limited.usage(), CacheUsage { used: 3, limit: 1000 });
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let error = DiskCache::open("/proc/self/cache").unwrap_err();
    assert_eq!(error.to_string(), "cannot use cache directory /proc/self/cache");
}

/// Waits until the keeper has done something; it is woken, so this is short.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::yield_now();
    }
}

fn limited(directory: &Path, quota: u64) -> DiskCache {
    let options = DiskCacheOptions { quota: Quota::Bytes(quota), ..DiskCacheOptions::default() };
    DiskCache::open_with(directory, options).unwrap()
}

#[test]
fn the_least_recently_used_go_and_pinned_ones_stay() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = limited(scratch.path(), 10_000);
    let bodies: Vec<_> = (0..9u8).map(|n| vec![n; 1000]).collect();
    let ids: Vec<_> = bodies.iter().map(|body| plain_id(body)).collect();
    for body in &bodies {
        store(&cache, body);
        let before = crate::store::now();
        until("the clock moves", || crate::store::now() > before + 1);
    }
    let pin = cache.pin(&ids[1]);
    let held = cache.open(&ids[0]).unwrap().unwrap();
    for n in 100..105 {
        store(&cache, &[n; 1000]);
        assert!(cache.usage().used <= 10_000);
        until("room is made again", || cache.usage().used <= 9_500);
    }
    let there: Vec<_> = ids.iter().map(|id| cache.open(id).unwrap().is_some()).collect();
    assert!(there[0], "used last");
    assert!(there[1], "pinned");
    assert!(!there[2] && !there[3], "{there:?}");
    drop((held, pin));
    for n in 110..125 {
        store(&cache, &[n; 1000]);
        until("room is made again", || cache.usage().used <= 9_500);
    }
    assert!(cache.open(&ids[1]).unwrap().is_none(), "the pin is gone");
}

#[test]
fn volatile_objects_go_first() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = limited(scratch.path(), 10_000);
    store(&cache, &[1; 1000]);
    let body = [2; 1000];
    let (plain, proof) = decode_all(plain_id(&body), &body, SizeBound::AtMost(1000)).unwrap();
    let meta = ObjectMeta { volatile: true, ..ObjectMeta::default() };
    let mut transaction = cache.begin(&plain_id(&body), &meta).unwrap();
    transaction.write(&plain).unwrap();
    transaction.commit(proof).unwrap();
    for n in 10..18 {
        store(&cache, &[n; 1000]);
    }
    until("room is made", || cache.usage().used <= 9_500);
    assert!(cache.open(&plain_id(&body)).unwrap().is_none());
    assert!(cache.open(&plain_id(&[1; 1000])).unwrap().is_some());
}

#[test]
fn what_is_too_large_is_served_and_not_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = limited(scratch.path(), 10_000);
    let body = vec![7; 6000];
    let object = store(&cache, &body);
    assert_eq!(read(&object), body);
    assert_eq!((object.path(), cache.usage().used), (None, 0));
    assert!(cache.open(&plain_id(&body)).unwrap().is_none());
}

#[test]
fn flipped_bytes_under_an_intact_seal_are_found_where_others_can_write() {
    for shared in [true, false] {
        let scratch = tempfile::tempdir().unwrap();
        if shared {
            let mode = std::fs::Permissions::from_mode(0o2770);
            std::fs::set_permissions(scratch.path(), mode).unwrap();
        }
        let verify = if shared { Verify::IfShared } else { Verify::Always };
        let options = DiskCacheOptions { verify, ..DiskCacheOptions::default() };
        let body = vec![3; 5000];
        let id = plain_id(&body);
        let path = {
            let first = DiskCache::open_with(scratch.path(), options).unwrap();
            store(&first, &body).path().unwrap().to_owned()
        };
        let cache = DiskCache::open_with(scratch.path(), options).unwrap();
        for round in 0..2 {
            assert_eq!(read(&cache.open(&id).unwrap().unwrap()), body);
            // Also after this process looked at it: the time of change tells.
            let file = writable(&path);
            std::os::unix::fs::FileExt::write_all_at(&file, b"X", 4000 + round).unwrap();
            seal::seal(&file, 5000).unwrap();
            drop(file);
            assert!(cache.open(&id).unwrap().is_none());
            assert_eq!(cache.statistics().damaged.load(Ordering::Relaxed), round + 1);
            assert!(!path.exists());
            store(&cache, &body);
        }
        // Without a checksum nobody can tell.
        let file = std::fs::File::open(&path).unwrap();
        rustix::fs::fremovexattr(&file, "user.cvmfs-fuse.blake3").unwrap();
        assert!(cache.open(&id).unwrap().is_none());
    }
}

#[test]
fn a_lost_index_is_rebuilt_and_the_quota_is_right_again() {
    for damage in [true, false] {
        let scratch = tempfile::tempdir().unwrap();
        {
            let cache = limited(scratch.path(), 100_000);
            (0..50).for_each(|n| drop(store(&cache, &[n; 1000])));
        }
        let index = scratch.path().join("v2/index.sqlite");
        if damage {
            std::fs::write(&index, b"bla".repeat(5000)).unwrap();
        } else {
            std::fs::remove_file(&index).unwrap();
        }
        std::fs::write(scratch.path().join("v2/gauge"), b"").unwrap();
        let cache = limited(scratch.path(), 20_000);
        // A use wakes nobody; the first look comes after a second at most.
        let files = || -> usize {
            (0..=255).map(|fan| crate::keeper::list_fan(&cache.store, fan).len()).sum()
        };
        // While it is counted, the counter rises through the same figures.
        until("counted, and cleaned to the new quota", || {
            let used = cache.usage().used;
            used > 10_000 && used <= 18_000 && files() as u64 * 1000 == used
        });
    }
}

#[test]
fn objects_that_nobody_counted_are_found_after_an_unclean_end() {
    let scratch = tempfile::tempdir().unwrap();
    {
        let cache = limited(scratch.path(), 100_000);
        (0..5).for_each(|n| drop(store(&cache, &[n; 1000])));
    }
    // As kill -9 leaves it: an object without a row, room without an object, a session without
    // a lock.
    let orphan = b"orphan".repeat(100);
    {
        let other = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(other.path()).unwrap();
        let from = store(&cache, &orphan).path().unwrap().to_owned();
        let name = from.strip_prefix(other.path()).unwrap();
        std::fs::create_dir_all(scratch.path().join(name).parent().unwrap()).unwrap();
        std::process::Command::new("cp")
            .arg("-a")
            .arg(&from)
            .arg(scratch.path().join(name))
            .status()
            .unwrap();
    }
    std::fs::write(scratch.path().join("v2/sessions/0123456789abcdef"), b"").unwrap();
    let cache = limited(scratch.path(), 100_000);
    until("counted", || cache.usage().used == 5000 + orphan.len() as u64);
    assert!(!scratch.path().join("v2/sessions/0123456789abcdef").exists());
}

#[test]
fn a_forged_index_reaches_nothing_outside() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("cache");
    let victim = scratch.path().join("victim");
    std::fs::write(&victim, b"precious").unwrap();
    drop(store(&limited(&directory, 10_000), b"something"));
    let connection = rusqlite::Connection::open(directory.join("v2/index.sqlite")).unwrap();
    for name in ["../../../victim", "..", "ab/../../../../victim", "/etc/hostname", ""] {
        connection
            .execute("INSERT OR REPLACE INTO objects VALUES (?1, 1000, 0, 1, '')", [name])
            .unwrap();
    }
    drop(connection);
    let cache = limited(&directory, 10_000);
    for n in 0..30 {
        store(&cache, &[n; 1000]);
        until("room is made", || cache.usage().used <= 9_500);
    }
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert!(Path::new("/etc/hostname").exists());
}
