//! One store over another, and the store that keeps no content.

use std::sync::Arc;

use cvmfs_cache::{AlienCache, DiskCache};
use cvmfs_core::cache::{LowerUse, MemoryCache, ObjectCache as _, StreamingCache, TieredCache};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};

use crate::stores::{commit, files, id_of, open_plain, read, stored};

#[test]
fn what_only_the_lower_store_has_is_copied_up_on_use() {
    for lower_use in [LowerUse::ReadWrite, LowerUse::ReadOnly] {
        let scratch = tempfile::tempdir().unwrap();
        let upper = Arc::new(DiskCache::open(scratch.path().join("upper")).unwrap());
        let lower = Arc::new(AlienCache::open(scratch.path().join("lower")).unwrap());
        let tiers = TieredCache::new(upper.clone(), lower.clone(), lower_use);
        // More than is copied at a time.
        let plain: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let body = stored(&plain);
        let id = id_of(&body, Compression::Zlib);
        commit(&*lower, id, &body);
        assert_eq!(open_plain(&*upper, &id), None);

        let object = tiers.open(&id).unwrap().unwrap();
        assert!(object.path().unwrap().starts_with(upper.directory()), "served from above");
        assert_eq!(read(&object), plain);
        assert_eq!(open_plain(&*upper, &id).as_ref(), Some(&plain));
        assert_eq!(upper.usage().used, plain.len() as u64);

        // Without the lower store it is still there, and so is one that the upper cannot copy.
        lower.discard(&id).unwrap();
        assert_eq!(open_plain(&tiers, &id), Some(plain));
    }
}

#[test]
fn new_objects_reach_the_lower_store_only_where_it_is_written() {
    for (lower_use, kept) in [(LowerUse::ReadWrite, true), (LowerUse::ReadOnly, false)] {
        let scratch = tempfile::tempdir().unwrap();
        let lower = Arc::new(DiskCache::open(scratch.path().join("lower")).unwrap());
        let tiers = TieredCache::new(Arc::new(MemoryCache::default()), lower.clone(), lower_use);
        let body = stored(b"new");
        let id = id_of(&body, Compression::Zlib);
        commit(&tiers, id, &body);
        assert_eq!(open_plain(&*lower, &id).is_some(), kept, "{lower_use:?}");

        // Damage: whoever only reads the lower store leaves it alone.
        commit(&*lower, id, &body);
        tiers.discard(&id).unwrap();
        assert_eq!(open_plain(&*lower, &id).is_none(), kept, "{lower_use:?}");
    }
}

#[test]
fn an_upper_store_without_room_serves_from_the_lower_one() {
    let scratch = tempfile::tempdir().unwrap();
    let lower = Arc::new(DiskCache::open(scratch.path()).unwrap());
    let upper = Arc::new(MemoryCache::with_limit(1000));
    let tiers = TieredCache::new(upper.clone(), lower.clone(), LowerUse::ReadWrite);
    let body = stored(&[5; 5000]);
    let id = id_of(&body, Compression::Zlib);
    assert_eq!(read(&commit(&tiers, id, &body)), [5; 5000]);
    for _ in 0..2 {
        assert_eq!(open_plain(&tiers, &id).as_deref(), Some(&[5; 5000][..]));
        assert_eq!(open_plain(&*upper, &id), None);
    }
}

#[test]
fn records_are_kept_above_and_found_below() {
    let scratch = tempfile::tempdir().unwrap();
    let upper = Arc::new(DiskCache::open(scratch.path().join("upper")).unwrap());
    let lower = Arc::new(DiskCache::open(scratch.path().join("lower")).unwrap());
    lower.update_record("old", &mut |_| Some(b"below".to_vec())).unwrap();
    let tiers = TieredCache::new(upper.clone(), lower.clone(), LowerUse::ReadOnly);
    assert_eq!(tiers.load_record("old").unwrap().as_deref(), Some(&b"below"[..]));
    tiers.update_record("new", &mut |_| Some(b"above".to_vec())).unwrap();
    assert_eq!(upper.load_record("new").unwrap().as_deref(), Some(&b"above"[..]));
    assert_eq!(lower.load_record("new").unwrap(), None);
}

#[test]
fn the_content_of_files_is_streamed_and_the_rest_is_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let below = Arc::new(DiskCache::open(scratch.path()).unwrap());
    let cache = StreamingCache::new(below.clone());
    let body = stored(b"bytes");
    for (kind, kept) in [
        (ObjectKind::Data, false),
        (ObjectKind::Chunk, false),
        (ObjectKind::Catalog, true),
        (ObjectKind::Certificate, true),
        (ObjectKind::History, true),
        (ObjectKind::Metainfo, true),
    ] {
        let id = ObjectId { kind, ..id_of(&body, Compression::Zlib) };
        assert_eq!(read(&commit(&cache, id, &body)), b"bytes", "{kind:?}");
        assert_eq!(open_plain(&cache, &id).is_some(), kept, "{kind:?}");
        // What is below already, from a time before, is served.
        commit(&*below, id, &body);
        assert_eq!(open_plain(&cache, &id).as_deref(), Some(&b"bytes"[..]), "{kind:?}");
    }
    assert_eq!(files(&scratch.path().join("v2/objects")).len(), 6);
}
