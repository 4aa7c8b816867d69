//! What only a store on disk can get wrong; the rest is in `tests/contract.rs`.

use super::*;
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectKind};
use std::os::unix::fs::symlink;
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

fn both(test: impl Fn(&DiskCache, &Path)) {
    for naming in [None, Some(Naming::Named)] {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("cache");
        let cache = match naming {
            None => DiskCache::open(&directory).unwrap(),
            Some(naming) => DiskCache::open_with(&directory, naming).unwrap(),
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
            std::fs::File::options().write(true).open(path).unwrap().set_len(4).unwrap();
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
        let fan = cache.store.layout.fan(fan(&plain_id(b"x")));
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
    let limited = cache.with_quota(Some(1000));
    assert_eq!(limited.usage(), CacheUsage { used: 3, limit: 1000 });
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let error = DiskCache::open("/proc/self/cache").unwrap_err();
    assert_eq!(error.to_string(), "cannot create directory /proc/self/cache");
}
