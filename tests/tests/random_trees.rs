//! Random trees, published and mounted, against what was published; then random questions.
//!
//! The names are few and odd on purpose. A failure names its seed: run it again alone with
//! `CVMFS_TEST_SEED=N cargo nextest run -p tests --test random_trees`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may die, and names its seed")]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use fixtures::genuine::{EntryType, TruthEntry};
use fixtures::publish::{Algorithm, ExpectedEntry, Kind, TestRepo};
use fixtures::server::TestServer;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use sha2::Digest as _;
use tests::walk::{assert_equal, get_xattr};
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(60);
const ENTRIES: usize = 60;
const QUESTIONS: usize = 400;
const NAMES: [&[u8]; 10] =
    [b"a", b"b", b"A", b".h", b"a b", b"\xff\xfe", b"new\nline", b"%20", b"-x", "ü".as_bytes()];

/// Any mode will do: the walk is root's.
fn decorate(rng: &mut StdRng, entry: &mut fixtures::publish::Entry) {
    entry.mode(rng.random_range(0..=0o7777)).uid(rng.random_range(0..3000));
    entry.gid(*[0, 7, 70_000, 4_294_967_294].choose(rng).unwrap());
    entry
        .mtime(rng.random_range(-4_000_000_000..5_000_000_000), rng.random_range(0..1_000_000_000));
    if rng.random_bool(0.2) {
        entry.xattr("user.a", b"b").xattr("user.binary", [0, 255, 10]);
    }
}

fn bytes(rng: &mut StdRng) -> Vec<u8> {
    let len = *[0, 1, 4095, 4096, 4097, 100_000, 300_000].choose(rng).unwrap();
    let mut content = vec![0; len];
    // Half of it compresses well.
    rng.fill(&mut content[len / 2..]);
    content
}

fn tree(rng: &mut StdRng) -> TestRepo {
    let mut repo = TestRepo::new("random.test.repo");
    repo.algorithm(*[Algorithm::Sha1, Algorithm::Rmd160, Algorithm::Shake128].choose(rng).unwrap());
    let mut directories: Vec<Vec<u8>> = vec![Vec::new()];
    let mut taken = vec![];
    for _ in 0..ENTRIES {
        let parent = directories.choose(rng).unwrap().clone();
        let path = [&parent[..], b"/", NAMES.choose(rng).unwrap()].concat();
        if taken.contains(&path) {
            continue;
        }
        taken.push(path.clone());
        let data = bytes(rng);
        let special = *[0o010_000, 0o140_000].choose(rng).unwrap();
        let target = [b"../".as_slice(), NAMES.choose(rng).unwrap()].concat();
        match rng.random_range(0..12) {
            0..=3 => {
                decorate(rng, repo.dir(&path));
                directories.push(path);
            }
            4 => {
                decorate(rng, repo.nested(&path));
                directories.push(path);
            }
            5 => decorate(rng, repo.chunked(&path, data, 65_536)),
            6 => decorate(rng, repo.file(&path, data).uncompressed()),
            7 => {
                let other = [&path[..], b"-link"].concat();
                repo.hardlinks(&[&path, &other], data);
            }
            8 => {
                repo.symlink(&path, target);
            }
            // Without attributes: Linux has no user attributes on special files.
            9 => {
                repo.special(&path, special, 0).uid(7);
            }
            _ => decorate(rng, repo.file(&path, data)),
        }
    }
    repo
}

fn content(entry: &ExpectedEntry) -> Option<Vec<u8>> {
    match &entry.kind {
        Kind::File(content) => Some(content.bytes()),
        _ => None,
    }
}

fn truth(entry: &ExpectedEntry) -> TruthEntry {
    let (entry_type, target) = match &entry.kind {
        Kind::File(_) => (EntryType::File, None),
        Kind::Directory => (EntryType::Directory, None),
        Kind::Symlink(target) => (EntryType::Symlink, Some(target.clone())),
        Kind::Fifo => (EntryType::Fifo, None),
        Kind::Socket => (EntryType::Socket, None),
        Kind::CharDevice(_) => (EntryType::CharDevice, None),
        Kind::BlockDevice(_) => (EntryType::BlockDevice, None),
    };
    let sized = matches!(entry.kind, Kind::File(_) | Kind::Symlink(_));
    TruthEntry {
        path: if entry.path.is_empty() { b".".to_vec() } else { entry.path[1..].to_vec() },
        entry_type,
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        mtime_ns: entry.mtime * 1_000_000_000 + i64::from(entry.mtime_ns),
        size: sized.then_some(entry.size),
        nlink: sized.then_some(u64::from(entry.nlink)),
        rdev: None,
        target,
        sha256: content(entry).map(|content| hex::encode(sha2::Sha256::digest(content))),
        xattrs: entry.xattrs.iter().cloned().collect(),
    }
}

/// Asks in random order what a program may ask, about what is there and what is not.
fn question(
    rng: &mut StdRng,
    mount: &TestMount,
    entries: &[ExpectedEntry],
    files: &[(&[u8], Vec<u8>)],
) {
    let entry = entries.choose(rng).unwrap();
    let relative = entry.path.strip_prefix(b"/").unwrap_or_default();
    match rng.random_range(0..4) {
        0 => {
            let name = *NAMES.choose(rng).unwrap();
            let path = [&entry.path[..], b"/", name].concat();
            let expected = match entry.kind {
                Kind::Directory if entries.iter().any(|e| e.path == path) => None,
                Kind::Directory => Some(libc::ENOENT),
                _ => Some(libc::ENOTDIR),
            };
            if !matches!(entry.kind, Kind::Symlink(_)) {
                let found = std::fs::symlink_metadata(mount.path(&path[1..]));
                let errno = found.err().and_then(|error| error.raw_os_error());
                assert_eq!(errno, expected, "{}", path.escape_ascii());
            }
        }
        1 => {
            let got = get_xattr(&mount.path(relative), b"user.a");
            let expected = entry.xattrs.iter().find(|(name, _)| name == b"user.a");
            match expected {
                Some((_, value)) => assert_eq!(got.unwrap(), *value),
                None => assert!(got.is_err()),
            }
        }
        _ => {
            let Some((path, content)) = files.choose(rng) else { return };
            let file = File::open(mount.path(&path[1..])).unwrap();
            let offset = rng.random_range(0..=content.len() + 5000);
            let mut buffer = vec![0; rng.random_range(0..100_000)];
            let mut done = 0;
            while done < buffer.len() {
                match file.read_at(&mut buffer[done..], (offset + done) as u64).unwrap() {
                    0 => break,
                    n => done += n,
                }
            }
            let start = offset.min(content.len());
            let end = (start + buffer.len()).min(content.len());
            assert!(buffer[..done] == content[start..end], "{} at {offset}", path.escape_ascii());
        }
    }
}

/// Inode numbers: equal for the links of one group, and for nothing else.
fn inodes(mount: &TestMount, entries: &[ExpectedEntry]) -> BTreeMap<Vec<u8>, u64> {
    let mut owners: HashMap<u64, (Option<u32>, &[u8])> = HashMap::new();
    let mut found = BTreeMap::new();
    for entry in entries {
        let ino = mount.lstat(entry.path.strip_prefix(b"/").unwrap_or_default()).ino();
        found.insert(entry.path.clone(), ino);
        if let Some((group, other)) = owners.insert(ino, (entry.link_group, &entry.path)) {
            let path = entry.path.escape_ascii();
            assert!(
                group.is_some() && group == entry.link_group,
                "{path} and {}",
                other.escape_ascii()
            );
        }
    }
    found
}

fn check(seed: u64) {
    println!("seed {seed}");
    deadline(LIMIT, || {
        let mut rng = StdRng::seed_from_u64(seed);
        let published = tree(&mut rng).publish();
        let server = TestServer::serving(published.root());
        let base = server.base(published.fqrn());
        let spec = MountSpec::new(&client!(), published.fqrn(), &base, &published.public_key());
        let mount = spec.start();
        let entries = published.tree();
        assert_equal(&entries.iter().map(truth).collect::<Vec<_>>(), mount.root());
        let files: Vec<_> = entries
            .iter()
            .filter_map(|entry| content(entry).map(|content| (&entry.path[..], content)))
            .collect();
        for _ in 0..QUESTIONS {
            question(&mut rng, &mount, entries, &files);
        }
        let before = inodes(&mount, entries);
        assert!(mount.unmount().success());
        assert_eq!(inodes(&spec.start(), entries), before, "numbers are the same for ever");
    });
}

#[test]
fn random_trees() {
    #[expect(clippy::disallowed_methods, reason = "a knob for people, not configuration")]
    let wanted = std::env::var("CVMFS_TEST_SEED").ok();
    match wanted {
        Some(seed) => check(seed.parse().unwrap()),
        None => (0..12).for_each(check),
    }
}
