//! A cache whose files go bad after they were checked.

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cvmfs_core::cache::{CacheError, CacheUsage, CachedObject, Condition, ObjectMeta, Transaction};
use cvmfs_core::decode::CheckedBody;
use cvmfs_core::object::{ObjectId, ObjectKind};

use super::*;

/// Gives an open file in place of one that can be read.
type Damage = fn() -> File;

/// Hands out so many contents that cannot be read, from then on good ones.
struct FailingDisk {
    objects: MemoryCache,
    damage: Damage,
    bad: Arc<AtomicUsize>,
    discarded: AtomicUsize,
}

impl FailingDisk {
    fn new(damage: Damage) -> Self {
        let (objects, bad, discarded) = Default::default();
        Self { objects, damage, bad, discarded }
    }
}

fn spoil(id: &ObjectId, object: CachedObject, damage: Damage, bad: &AtomicUsize) -> CachedObject {
    let is_content = matches!(id.kind, ObjectKind::Data | ObjectKind::Chunk);
    let take = |left: usize| left.checked_sub(1);
    if is_content && bad.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
        return CachedObject::from_file(damage(), object.len(), None);
    }
    object
}

impl ObjectCache for FailingDisk {
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        let found = self.objects.open(id)?;
        Ok(found.map(|object| spoil(id, object, self.damage, &self.bad)))
    }

    fn begin(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        let inner = self.objects.begin(id, meta)?;
        Ok(Box::new(Writing { inner, id: *id, damage: self.damage, bad: Arc::clone(&self.bad) }))
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        self.discarded.fetch_add(1, Ordering::SeqCst);
        self.objects.discard(id)
    }

    /// Keeps nothing to compare with.
    fn examine(&self, _: &ObjectId, _: Instant) -> Result<Condition, CacheError> {
        Ok(Condition::Unknown)
    }

    fn usage(&self) -> CacheUsage {
        self.objects.usage()
    }
}

struct Writing {
    inner: Box<dyn Transaction>,
    id: ObjectId,
    damage: Damage,
    bad: Arc<AtomicUsize>,
}

impl Transaction for Writing {
    fn write(&mut self, piece: &[u8]) -> Result<(), CacheError> {
        self.inner.write(piece)
    }

    fn commit(self: Box<Self>, proof: CheckedBody) -> Result<CachedObject, CacheError> {
        let Self { inner, id, damage, bad } = *self;
        Ok(spoil(&id, inner.commit(proof)?, damage, &bad))
    }
}

#[tokio::test]
async fn content_that_cannot_be_read_is_fetched_again_once() {
    let content: Vec<u8> = (0..5_000u32).flat_map(u32::to_le_bytes).collect();
    let mut repo = TestRepo::new("fs.test.repo");
    repo.file("/whole", content.clone());
    repo.chunked("/chunked", content.clone(), 4096);
    let published = repo.publish();
    let damages: [(&str, Damage); 2] = [
        // Reading a directory is an error, as is a bad block.
        ("error", || File::open("/").unwrap()),
        ("cut short", || tempfile::tempfile().unwrap()),
    ];
    for (damage, damaged) in damages {
        for name in ["whole", "chunked"] {
            let cache = Arc::new(FailingDisk::new(damaged));
            let repository = open(&published, Arc::clone(&cache) as _).await;
            let fs = RepoFs::new(Arc::clone(&repository), RepoFsOptions::default());
            let ino = fs.lookup(ROOT_INO, name.as_bytes()).await.unwrap().attributes.ino;
            let downloads = || repository.fetcher().statistics().downloads.load(Ordering::Relaxed);
            let read = async || fs.read(ino, 0, 4000, 1000).await;
            // In one chunk: 4000 to 4096 and beyond are two.
            let objects = if name == "whole" { 1 } else { 2 };

            let before = downloads();
            cache.bad.store(1, Ordering::SeqCst);
            let bytes = read().await.unwrap();
            assert!(bytes == content[4000..5000], "{damage}, {name}");
            assert_eq!(downloads() - before, objects + 1, "{damage}, {name}");
            assert_eq!(cache.discarded.load(Ordering::SeqCst), 1, "{damage}, {name}");
            // It stays open and good.
            assert!(read().await.unwrap() == content[4000..5000]);
            assert_eq!(downloads() - before, objects + 1, "{damage}, {name}");

            // From here on, the new one is bad, too.
            fs.forget(ino, 1);
            let ino = fs.lookup(ROOT_INO, name.as_bytes()).await.unwrap().attributes.ino;
            let read = async || fs.read(ino, 0, 4000, 1000).await;
            cache.bad.store(2, Ordering::SeqCst);
            let error = read().await.unwrap_err();
            assert!(matches!(error, FsError::Read { .. }), "{damage}, {name}: {error}");
            assert_eq!(error.errno(), libc::EIO);
            assert!(read().await.unwrap() == content[4000..5000], "{damage}, {name}");
        }
    }
}
