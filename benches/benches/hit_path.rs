//! The warm path without a kernel: decode, open of a cached object, lookup and listing in a catalog.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints and may die")]

use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;

use benches::{Ratio, compare};
use cvmfs_cache::DiskCache;
use cvmfs_core::cache::{ObjectCache, ObjectMeta};
use cvmfs_core::clock::SystemClock;
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::net::{HttpTransport, ProxySpec, SelectionOptions, Timeouts, TransportOptions};
use cvmfs_core::object::{ObjectId, ObjectKind};
use cvmfs_core::path::RepoPath;
use cvmfs_core::repository::{ExternalServers, Pin, Repository, RepositoryConfig};
use cvmfs_core::trust::MasterKeys;
use fixtures::publish::TestRepo;

const FILES: usize = 10_000;

fn main() {
    println!("{:<58} {:>12} {:>12} {:>8}", "measurement (median)", "ours", "baseline", "ratio");
    for ratio in [decode(), cached_open()].into_iter().chain(catalog()) {
        println!(
            "{:<58} {:>12} {:>12} {:>8.2}",
            ratio.name,
            format!("{:.2?}", ratio.ours),
            format!("{:.2?}", ratio.baseline),
            ratio.value()
        );
    }
}

fn zlib(plain: &[u8]) -> (ObjectId, Vec<u8>) {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).unwrap();
    let stored = encoder.finish().unwrap();
    (ObjectId::zlib(ContentHash::of(HashAlgorithm::Sha1, &stored), ObjectKind::Data), stored)
}

fn decode() -> Ratio {
    let plain: Vec<u8> = (0..8u32 << 20).map(|i| ((i / 7) ^ (i >> 9)).to_le_bytes()[0]).collect();
    let (id, stored) = zlib(&plain);
    let bound = SizeBound::Exactly(plain.len() as u64);
    compare(
        "decode 8 MiB (inflate, SHA-1, bound) / inflate alone",
        1,
        || drop(black_box(decode_all(id, &stored, bound).unwrap())),
        || {
            let mut out = Vec::new();
            std::io::copy(&mut flate2::read::ZlibDecoder::new(&stored[..]), &mut out).unwrap();
            black_box(out);
        },
    )
}

fn cached_open() -> Ratio {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path().join("cache")).unwrap();
    let mut ids = Vec::new();
    let mut files = Vec::new();
    for number in 0..1000 {
        let (id, stored) = zlib(format!("content {number}").as_bytes());
        let (plain, proof) = decode_all(id, &stored, SizeBound::AtMost(100)).unwrap();
        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(&plain).unwrap();
        transaction.commit(proof).unwrap();
        ids.push(id);
        let file = dir.path().join(format!("{number}"));
        std::fs::write(&file, &plain).unwrap();
        files.push(file);
    }
    compare(
        "open of a cached object / open+fstat of a native file",
        1000,
        || ids.iter().for_each(|id| drop(black_box(cache.open(id).unwrap().unwrap()))),
        || {
            for file in &files {
                let file = std::fs::File::open(file).unwrap();
                black_box(file.metadata().unwrap());
            }
        },
    )
}

fn catalog() -> [Ratio; 2] {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let native = tempfile::tempdir().unwrap();
    let mut repo = TestRepo::new("bench.test.repo");
    repo.dir("/d");
    for number in 0..FILES {
        repo.file(format!("/d/f{number}"), b"x");
        std::fs::write(native.path().join(format!("f{number}")), b"x").unwrap();
    }
    let published = repo.publish();
    let key = std::fs::read(published.public_key()).unwrap();
    let config = RepositoryConfig {
        fqrn: published.fqrn().parse().unwrap(),
        servers: vec![format!("file://{}/{}", published.root().display(), published.fqrn())],
        proxy: ProxySpec::direct(),
        keys: MasterKeys::parse([("master", key)]).unwrap(),
        blocklist: Blocklist::default(),
        pin: Pin::Latest,
        symlink_variables: cvmfs_core::catalog::symlink::SymlinkVariables::default(),
        timeouts: Timeouts::default(),
        selection: SelectionOptions::default(),
        wait_for_network: false,
        min_revision: 0,
        names: cvmfs_core::net::Names::default(),
        geo: None,
        max_servers: 0,
        external: ExternalServers::default(),
        descriptors: cvmfs_core::descriptors::DescriptorBudget::default(),
        fetch_ahead: false,
        ahead_bandwidth: None,
        grace: None,
    };
    let cache_dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(DiskCache::open(cache_dir.path()).unwrap());
    let transport = Arc::new(HttpTransport::new(TransportOptions::default()));
    let repository = runtime
        .block_on(Repository::open(config, transport, cache, Arc::new(SystemClock)))
        .unwrap();
    let revision = repository.current();
    let paths: Vec<_> = (0..FILES)
        .map(|number| RepoPath::parse(format!("/d/f{number}").as_bytes()).unwrap())
        .collect();
    let files: Vec<_> = (0..FILES).map(|n| native.path().join(format!("f{n}"))).collect();
    let directory = RepoPath::parse(b"/d").unwrap();
    [
        compare(
            "lookup in a catalog of 10,000 / lstat of a native file",
            u32::try_from(FILES).unwrap(),
            || {
                runtime.block_on(async {
                    for path in &paths {
                        black_box(revision.lookup(path).await.unwrap().unwrap());
                    }
                });
            },
            || {
                for file in &files {
                    black_box(std::fs::symlink_metadata(file).unwrap());
                }
            },
        ),
        compare(
            "listing of 10,000 with attributes / native readdir+lstat",
            1,
            || drop(black_box(runtime.block_on(revision.list(&directory)).unwrap())),
            || {
                for entry in std::fs::read_dir(native.path()).unwrap() {
                    black_box(entry.unwrap().metadata().unwrap());
                }
            },
        ),
    ]
}
