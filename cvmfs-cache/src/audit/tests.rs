//! What the commands do, on a small cache.

use super::*;
use cvmfs_core::cache::ObjectMeta;
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::hash::HashAlgorithm;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

fn filled(directory: &Path, objects: u8) -> (DiskCache, Vec<ObjectId>) {
    let cache = DiskCache::open(directory).unwrap();
    let ids = (0..objects).map(|n| {
        let body = vec![n; 1000];
        let hash = ContentHash::of(HashAlgorithm::Sha1, &body);
        let id = ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None };
        let (plain, proof) = decode_all(id, &body, SizeBound::AtMost(1000)).unwrap();
        let meta = ObjectMeta { label: format!("/file{n}"), ..ObjectMeta::default() };
        let mut transaction = cache.begin(&id, &meta).unwrap();
        transaction.write(&plain).unwrap();
        transaction.commit(proof).unwrap();
        id
    });
    let ids = ids.collect();
    (cache, ids)
}

fn damage(cache: &DiskCache, id: &ObjectId) {
    let path = cache.open(id).unwrap().unwrap().path().unwrap().to_owned();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"!", 500).unwrap();
    seal::seal(&file, 1000).unwrap();
}

#[test]
fn a_check_finds_what_is_damaged_and_repairs_it() {
    let scratch = tempfile::tempdir().unwrap();
    let (cache, ids) = filled(scratch.path(), 20);
    damage(&cache, &ids[3]);
    damage(&cache, &ids[11]);
    let stray = cache.store.layout.path(fan_name(0)).join("stray");
    cache.store.layout.fan(0).unwrap();
    std::fs::write(stray, b"x").unwrap();
    let told = AtomicU64::new(0);
    let tell = |progress: Progress| {
        told.fetch_max(progress.objects, Ordering::Relaxed);
    };
    let report = cache.check(false, 4, &tell);
    let mut names: Vec<_> = [3, 11].map(|n: usize| object_name(&ids[n])).into();
    names.sort();
    assert_eq!(report.damaged.iter().map(|one| one.name.clone()).collect::<Vec<_>>(), names);
    assert_eq!((report.checked, report.bytes, report.foreign), (20, 20_000, 1));
    assert_eq!(told.into_inner(), 20);
    assert!(!report.repaired);

    assert!(cache.check(true, 2, &|_| {}).repaired);
    let again = cache.check(false, 1, &|_| {});
    assert_eq!((again.checked, again.damaged.len()), (18, 0));
    assert!(cache.is_consistent());
    let info = cache.info();
    assert_eq!((info.objects, info.used, info.quarantined), (18, 18_000, 2));
    assert_eq!((info.sharing.as_str(), info.processes), ("private", 0));
}

#[test]
fn listing_evicting_and_cleaning() {
    let scratch = tempfile::tempdir().unwrap();
    let (cache, ids) = filled(scratch.path(), 30);
    let mut labels = Vec::new();
    cache.for_each(&mut |object| {
        labels.push(object.label);
        true
    });
    assert_eq!(labels.len(), 30);
    assert!(labels.contains(&"/file7".to_owned()));

    assert_eq!(cache.evict_hash(ids[0].hash).unwrap(), [1000]);
    assert_eq!(cache.evict_hash(ids[0].hash).unwrap(), [] as [u64; 0]);
    assert_eq!(cache.evict(&ids[1]).unwrap(), Some(1000));
    assert_eq!(cache.info().objects, 28);

    let pin = cache.pin(&ids[2]);
    let done = cache.clean(5_000, &mut |_| {});
    assert_eq!(done, Evicted { objects: 23, bytes: 23_000 });
    assert!(cache.open(&ids[2]).unwrap().is_some(), "pinned");
    drop(pin);
    cache.clean(0, &mut |_| {});
    assert_eq!(cache.info().objects, 0);
    assert!(cache.is_consistent());
}

#[test]
fn wiping_removes_ours_alone_under_a_live_cache() {
    let scratch = tempfile::tempdir().unwrap();
    let (cache, ids) = filled(scratch.path(), 3);
    std::fs::write(scratch.path().join("mine"), b"kept").unwrap();
    std::fs::create_dir(scratch.path().join("v1")).unwrap();
    let held = cache.open(&ids[0]).unwrap().unwrap();
    assert!(wipe(scratch.path()).unwrap());
    let left: Vec<_> =
        std::fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["mine"]);
    assert!(!wipe(scratch.path()).unwrap());
    assert_eq!(held.read_all(1000).unwrap(), vec![0; 1000]);
    assert!(cache.open(&ids[1]).unwrap().is_none());
    drop(cache);
    let (cache, ids) = filled(scratch.path(), 3);
    assert!(cache.open(&ids[1]).unwrap().is_some());
}
