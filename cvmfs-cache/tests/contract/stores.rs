//! All stores there are, each as a test wants them: empty, and with what they promise.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use cvmfs_cache::{
    AlienCache, Broker, BrokerOptions, BrokeredCache, DiskCache, DiskCacheOptions, Naming, Peers,
    Quota, Sharing,
};
use cvmfs_core::cache::{
    CachedObject, LowerUse, MemoryCache, ObjectCache, ObjectMeta, StreamingCache, TieredCache,
    Transaction,
};
use cvmfs_core::decode::{CheckedBody, SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use flate2::{Compression as Level, write::ZlibEncoder};

pub(crate) const CAP: u64 = 64 << 20;

/// Bytes that are a zlib stream, so that they make an object in both readings.
pub(crate) fn stored(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn id_of(stored: &[u8], compression: Compression) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Sha1, stored);
    ObjectId { hash, kind: ObjectKind::Data, compression }
}

pub(crate) fn proof(id: ObjectId, stored: &[u8]) -> (Vec<u8>, CheckedBody) {
    decode_all(id, stored, SizeBound::AtMost(CAP)).unwrap()
}

/// Begins as the fetcher does: the store sees the stored bytes too.
pub(crate) fn begin(cache: &dyn ObjectCache, id: ObjectId, stored: &[u8]) -> Box<dyn Transaction> {
    let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
    for piece in stored.chunks(700) {
        transaction.stored(piece);
    }
    transaction
}

pub(crate) fn commit(cache: &dyn ObjectCache, id: ObjectId, stored: &[u8]) -> CachedObject {
    let (plain, proof) = proof(id, stored);
    let mut transaction = begin(cache, id, stored);
    for piece in plain.chunks(1000) {
        transaction.write(piece).unwrap();
    }
    transaction.commit(proof).unwrap()
}

pub(crate) fn read(object: &CachedObject) -> Vec<u8> {
    object.read_all(CAP).unwrap().to_vec()
}

pub(crate) fn open_plain(cache: &dyn ObjectCache, id: &ObjectId) -> Option<Vec<u8>> {
    cache.open(id).unwrap().map(|object| read(&object))
}

pub(crate) fn open(directory: &Path, naming: Naming) -> DiskCache {
    let options = DiskCacheOptions { naming: Some(naming), ..DiskCacheOptions::default() };
    DiskCache::open_with(directory, options).unwrap()
}

/// Returns all files below a directory.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
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

/// Runs `test` in an empty directory for each way to name files, on disk and on tmpfs.
pub(crate) fn every_directory(test: impl Fn(&Path, Naming)) {
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

/// A store under test.
pub(crate) struct Subject<'a> {
    pub(crate) cache: &'a dyn ObjectCache,
    name: &'static str,
    /// The kind of object that it keeps.
    kind: ObjectKind,
    /// `usage` is what was stored, not what the partition has.
    counts: bool,
    /// An id never finds what was stored under another with the same hash.
    pub(crate) apart: bool,
    /// It takes a client's word that an object is damaged.
    pub(crate) believes: bool,
}

impl<'a> Subject<'a> {
    fn new(name: &'static str, cache: &'a dyn ObjectCache) -> Self {
        let kind = ObjectKind::Data;
        Self { cache, name, kind, counts: true, apart: true, believes: true }
    }

    pub(crate) fn id_of(&self, stored: &[u8], compression: Compression) -> ObjectId {
        ObjectId { kind: self.kind, ..id_of(stored, compression) }
    }

    /// Another kind that it keeps.
    pub(crate) fn other_kind(&self) -> ObjectKind {
        match self.kind {
            ObjectKind::Catalog => ObjectKind::Certificate,
            _ => ObjectKind::Catalog,
        }
    }

    pub(crate) fn assert_used(&self, bytes: u64) {
        if self.counts {
            assert_eq!(self.cache.usage().used, bytes, "{}", self.name);
        }
    }
}

/// Runs `test` on an empty store of each kind.
pub(crate) fn every_store(test: fn(&Subject<'_>)) {
    // Told only if the test fails.
    let test = |subject: &Subject<'_>| {
        println!("store: {}", subject.name);
        test(subject);
    };
    test(&Subject::new("memory", &MemoryCache::default()));
    every_directory(|directory, naming| {
        test(&Subject::new("disk", &open(directory, naming)));
    });
    let scratch = tempfile::tempdir().unwrap();
    let new = |name: &str| scratch.path().join(name);

    for naming in [None, Some(Naming::Named)] {
        let directory = new(&format!("group {naming:?}"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o2770)).unwrap();
        let options = DiskCacheOptions { naming, ..DiskCacheOptions::default() };
        let cache = DiskCache::open_with(&directory, options).unwrap();
        assert!(matches!(cache.sharing(), Sharing::Group(_)));
        test(&Subject::new("disk of a group", &cache));
    }

    let alien = AlienCache::open(new("alien")).unwrap();
    test(&Subject { counts: false, apart: false, ..Subject::new("alien", &alien) });

    for lower_use in [LowerUse::ReadWrite, LowerUse::ReadOnly] {
        let upper = DiskCache::open(new(&format!("upper {lower_use:?}"))).unwrap();
        let lower = AlienCache::open(new(&format!("lower {lower_use:?}"))).unwrap();
        let tiers = TieredCache::new(Arc::new(upper), Arc::new(lower), lower_use);
        test(&Subject { apart: false, ..Subject::new("disk over alien", &tiers) });
    }
    let lower = Arc::new(DiskCache::open(new("below memory")).unwrap());
    let tiers = TieredCache::new(Arc::new(MemoryCache::default()), lower, LowerUse::ReadWrite);
    test(&Subject::new("memory over disk", &tiers));

    // What it does with the content of files is in `tiers.rs`.
    let streaming = StreamingCache::new(Arc::new(DiskCache::open(new("below stream")).unwrap()));
    test(&Subject { kind: ObjectKind::Catalog, ..Subject::new("streaming", &streaming) });

    let broker = RunningBroker::start(&new("broker"), Quota::Auto);
    let brokered = broker.client();
    test(&Subject { believes: false, ..Subject::new("brokered", &brokered) });
}

/// A broker in a thread, ended when it is dropped.
pub(crate) struct RunningBroker {
    socket: PathBuf,
    stop: Box<dyn Fn()>,
    thread: Option<JoinHandle<()>>,
}

impl RunningBroker {
    /// Starts one whose socket and cache are in `directory`.
    pub(crate) fn start(directory: &Path, quota: Quota) -> Self {
        let options = DiskCacheOptions { quota, ..DiskCacheOptions::default() };
        let cache = DiskCache::open_with(directory.join("cache"), options).unwrap();
        let socket = directory.join("socket");
        let options = BrokerOptions { socket: socket.clone(), peers: Peers::All };
        let broker = Broker::bind(options, cache).unwrap();
        let stop = Box::new(broker.stopper());
        let thread = std::thread::spawn(move || broker.serve().unwrap());
        Self { socket, stop, thread: Some(thread) }
    }

    pub(crate) fn client(&self) -> BrokeredCache {
        BrokeredCache::connect(&self.socket, None).unwrap()
    }
}

impl Drop for RunningBroker {
    fn drop(&mut self) {
        (self.stop)();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
