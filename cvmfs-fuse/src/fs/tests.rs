//! [`RepoFs`] over published repositories, without a kernel.

use std::sync::Arc;

use cvmfs_core::cache::{MemoryCache, ObjectCache};
use cvmfs_core::catalog::EntryKind;
use cvmfs_core::catalog::symlink::SymlinkVariables;
use cvmfs_core::clock::SystemClock;
use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::net::{HttpTransport, ProxySpec, SelectionOptions, Timeouts, TransportOptions};
use cvmfs_core::repository::{Pin, Repository, RepositoryConfig};
use cvmfs_core::trust::MasterKeys;
use fixtures::publish::{Published, Schema, TestRepo};

use super::*;

mod damage;

pub(crate) async fn serve(published: &Published) -> RepoFs {
    let repository = open(published, Arc::new(MemoryCache::default())).await;
    RepoFs::new(repository, RepoFsOptions::default())
}

pub(super) async fn open(published: &Published, cache: Arc<dyn ObjectCache>) -> Arc<Repository> {
    let key = std::fs::read(published.public_key()).unwrap();
    let config = RepositoryConfig {
        fqrn: published.fqrn().parse().unwrap(),
        servers: vec![format!("file://{}/{}", published.root().display(), published.fqrn())],
        proxy: ProxySpec::direct(),
        keys: MasterKeys::parse([("master", key)]).unwrap(),
        blocklist: Blocklist::default(),
        pin: Pin::Latest,
        symlink_variables: SymlinkVariables::default(),
        timeouts: Timeouts::default(),
        selection: SelectionOptions::default(),
        wait_for_network: false,
        min_revision: 0,
        names: cvmfs_core::net::Names::default(),
        geo: None,
        max_servers: 0,
        external: cvmfs_core::repository::ExternalServers::default(),
        descriptors: cvmfs_core::descriptors::DescriptorBudget::default(),
        fetch_ahead: false,
        ahead_bandwidth: None,
        grace: None,
        offline_limit: None,
    };
    let transport = Arc::new(HttpTransport::new(TransportOptions::default()));
    Arc::new(Repository::open(config, transport, cache, Arc::new(SystemClock)).await.unwrap())
}

/// Takes `room` entries at a time, as a kernel with a small buffer does.
struct Page {
    room: usize,
    plus: bool,
    taken: Vec<(Vec<u8>, u64, Ino, EntryKind)>,
}

impl DirectoryReplier for Page {
    fn wants_attributes(&self) -> bool {
        self.plus
    }

    fn add(&mut self, entry: ListedEntry<'_>) -> bool {
        if self.taken.len() == self.room {
            return true;
        }
        let dots = entry.name == b"." || entry.name == b"..";
        assert_eq!(entry.entry.is_some(), self.plus && !dots);
        self.taken.push((entry.name.to_vec(), entry.offset, entry.ino, entry.kind));
        false
    }

    fn finish(&mut self) {}
}

pub(super) async fn list<V: Vfs>(
    fs: &V,
    ino: Ino,
    handle: u64,
    room: usize,
    plus: bool,
) -> Vec<(Vec<u8>, Ino)> {
    let (mut offset, mut all) = (0, Vec::new());
    loop {
        let mut page = Page { room, plus, taken: Vec::new() };
        fs.readdir(ino, handle, offset, &mut page).await.unwrap();
        let Some(last) = page.taken.last() else { return all };
        offset = last.1;
        all.extend(page.taken.into_iter().map(|(name, _, ino, _)| (name, ino)));
    }
}

#[tokio::test]
async fn listings_are_complete_whatever_the_buffer_and_agree_with_lookup() {
    let mut repo = TestRepo::new("fs.test.repo");
    repo.dir("/d");
    for number in 0..100 {
        repo.file(format!("/d/f{number}"), b"x");
    }
    repo.dir("/d/sub");
    let published = repo.publish();
    let fs = serve(&published).await;
    let d = fs.lookup(ROOT_INO, b"d").await.unwrap().attributes.ino;
    let handle = fs.opendir(d).await.unwrap();
    let whole = list(&fs, d, handle, 1000, false).await;
    assert_eq!(whole.len(), 103);
    assert_eq!(whole[0], (b".".to_vec(), d));
    assert_eq!(whole[1], (b"..".to_vec(), ROOT_INO));
    for room in [1, 2, 3, 7, 100] {
        for plus in [false, true] {
            assert_eq!(list(&fs, d, handle, room, plus).await, whole, "{room} {plus}");
        }
    }
    // A handle that a predecessor opened lists the same.
    assert_eq!(list(&fs, d, 4711, 9, false).await, whole);
    for (name, ino) in &whole[2..] {
        assert_eq!(fs.lookup(d, name).await.unwrap().attributes.ino, *ino);
    }
    let mut past = Page { room: 9, plus: false, taken: Vec::new() };
    fs.readdir(d, handle, u64::MAX, &mut past).await.unwrap();
    assert!(past.taken.is_empty());
    fs.releasedir(d, handle);
}

#[tokio::test]
async fn only_entries_that_the_kernel_took_count_as_references() {
    let mut repo = TestRepo::new("fs.test.repo");
    for number in 0..10 {
        repo.file(format!("/f{number}"), b"x");
    }
    let published = repo.publish();
    let fs = serve(&published).await;
    let handle = fs.opendir(ROOT_INO).await.unwrap();
    let mut page = Page { room: 5, plus: true, taken: Vec::new() };
    fs.readdir(ROOT_INO, handle, 0, &mut page).await.unwrap();
    // Two of the five are the dots.
    let taken: Vec<_> = page.taken[2..].iter().map(|(_, _, ino, _)| *ino).collect();
    assert_eq!(taken.len(), 3);
    for ino in taken {
        assert!(fs.getattr(ino).await.is_ok());
        fs.forget(ino, 1);
        assert!(matches!(fs.getattr(ino).await, Err(FsError::StaleInode(_))));
    }
    // The one that found no room is unknown, too.
    let mut rest = Page { room: 1, plus: false, taken: Vec::new() };
    fs.readdir(ROOT_INO, handle, 5, &mut rest).await.unwrap();
    assert!(fs.getattr(rest.taken[0].2).await.is_err());
}

#[tokio::test]
async fn reads_need_no_open_and_survive_odd_numbers() {
    let mut repo = TestRepo::new("fs.test.repo");
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    repo.chunked("/chunked", content.clone(), 4096);
    repo.file("/whole", content.clone());
    repo.file("/empty", b"");
    let published = repo.publish();
    let fs = serve(&published).await;
    for name in [b"chunked".as_slice(), b"whole"] {
        let ino = fs.lookup(ROOT_INO, name).await.unwrap().attributes.ino;
        for (offset, size) in
            [(0, 10), (4090, 20), (0, 400_000), (399_990, 100), (400_000, 1), (u64::MAX, 9), (5, 0)]
        {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
            let end = (start + usize::try_from(size).unwrap()).min(content.len());
            let read = fs.read(ino, 99, offset, size).await.unwrap();
            assert_eq!(read, &content[start..end], "{offset} {size}");
        }
        let opened = fs.open(ino, 0).await.unwrap();
        assert!(opened.keep_cache && !opened.direct_io);
        fs.release(ino, opened.handle);
    }
    let empty = fs.lookup(ROOT_INO, b"empty").await.unwrap().attributes.ino;
    fs.open(empty, 0).await.unwrap();
    assert_eq!(fs.read(empty, 0, 0, 4096).await.unwrap(), b"");
}

#[tokio::test]
async fn questions_about_the_wrong_thing_get_the_right_errno() {
    let mut repo = TestRepo::new("fs.test.repo");
    repo.dir("/d");
    repo.file("/f", b"x");
    repo.symlink("/l", "f");
    let published = repo.publish();
    let fs = serve(&published).await;
    let ino = async |name: &[u8]| fs.lookup(ROOT_INO, name).await.unwrap().attributes.ino;
    let (d, f, l) = (ino(b"d").await, ino(b"f").await, ino(b"l").await);
    let errno = |error: FsError| error.errno();
    assert_eq!(errno(fs.lookup(ROOT_INO, b"none").await.unwrap_err()), libc::ENOENT);
    assert_eq!(errno(fs.lookup(f, b"x").await.unwrap_err()), libc::ENOTDIR);
    assert_eq!(errno(fs.lookup(d, &[b'n'; 256]).await.unwrap_err()), libc::ENAMETOOLONG);
    assert_eq!(errno(fs.lookup(12345, b"x").await.unwrap_err()), libc::ESTALE);
    assert_eq!(errno(fs.opendir(f).await.unwrap_err()), libc::ENOTDIR);
    assert_eq!(errno(fs.open(d, 0).await.unwrap_err()), libc::EISDIR);
    assert_eq!(errno(fs.readlink(f).await.unwrap_err()), libc::EINVAL);
    assert_eq!(errno(fs.getxattr(f, b"user.x", 0).await.unwrap_err()), libc::ENODATA);
    assert_eq!(fs.readlink(l).await.unwrap(), b"f");
    assert_eq!(fs.listxattr(f, 0).await.unwrap(), b"");
    assert_eq!(fs.lookup(d, b"..").await.unwrap().attributes.ino, ROOT_INO);
    assert_eq!(fs.lookup(d, b".").await.unwrap().attributes.ino, d);
    assert_eq!(fs.statfs(ROOT_INO).await.unwrap().name_len, 255);
}

#[tokio::test]
async fn traffic_is_told_as_attributes() {
    let mut repo = TestRepo::new("fs.test.repo");
    repo.file("f", b"content");
    let fs = serve(&repo.publish()).await;
    let number = |name: &[u8]| -> u64 {
        let value = fs.server_attribute(ROOT_INO, name).unwrap();
        String::from_utf8(value).unwrap().parse().unwrap()
    };
    number(b"user.rx");
    assert_eq!(number(b"user.nclg"), 1);
    let before = number(b"user.ndownload");
    let f = fs.lookup(ROOT_INO, b"f").await.unwrap().attributes.ino;
    fs.open(f, 0).await.unwrap();
    assert_eq!(number(b"user.ndownload"), before + 1);
}

#[tokio::test]
async fn every_published_schema_is_read() {
    let schemas =
        (0..=7).map(|revision| (format!("2.5 revision {revision}"), Schema::v2_5(revision)));
    for (name, schema) in schemas.chain([("2.4".to_owned(), Schema::v2_4())]) {
        let mut repo = TestRepo::new("fs.test.repo");
        repo.schema(schema);
        repo.dir("/d");
        repo.file("/d/f", b"content").mtime(1_500_000_000, 7);
        repo.nested("/n");
        repo.file("/n/g", b"nested");
        repo.chunked("/chunked", vec![7; 10_000], 4096);
        repo.symlink("/l", "d/f");
        let published = repo.publish();
        let fs = serve(&published).await;
        for (path, content) in [
            ("d/f", b"content".to_vec()),
            ("n/g", b"nested".to_vec()),
            ("chunked", vec![7; 10_000]),
        ] {
            let mut ino = ROOT_INO;
            for part in path.split('/') {
                ino = fs.lookup(ino, part.as_bytes()).await.unwrap().attributes.ino;
            }
            assert_eq!(fs.read(ino, 0, 0, 65_536).await.unwrap(), content, "{name}: {path}");
        }
        let handle = fs.opendir(ROOT_INO).await.unwrap();
        assert_eq!(list(&fs, ROOT_INO, handle, 100, true).await.len(), 6, "{name}");
    }
}

#[tokio::test]
async fn what_a_catalog_does_not_count_is_zero() {
    const NAMES: &str = "chunked chunked_size chunks dir external external_file_size file_size \
                         nested regular special symlink xattr";
    for is_table in [false, true] {
        let mut repo = TestRepo::new("fs.test.repo");
        repo.schema(Schema::v2_4());
        repo.nested("/n");
        repo.file("/n/f", b"content");
        for mountpoint in ["", "/n"] {
            let statement =
                if is_table { "DELETE FROM statistics" } else { "DROP TABLE statistics" };
            repo.sql(mountpoint, statement);
        }
        let fs = serve(&repo.publish()).await;
        let zeros: String = NAMES.split_whitespace().map(|name| format!("{name},0\n")).collect();
        let n = fs.lookup(ROOT_INO, b"n").await.unwrap().attributes.ino;
        let f = fs.lookup(n, b"f").await.unwrap().attributes.ino;
        for (ino, mountpoint) in [(ROOT_INO, ""), (f, "/n")] {
            let text = |name: &'static [u8]| {
                let value = fs.getxattr(ino, name, 0);
                async { String::from_utf8(value.await.unwrap()).unwrap() }
            };
            assert_eq!(text(b"user.repo_counters").await, zeros);
            let told = text(b"user.catalog_counters").await;
            let (hash, rest) = told.split_once('\n').unwrap();
            assert!(hash.starts_with("catalog_hash: "), "{told}");
            assert_eq!(rest, format!("catalog_mountpoint: {mountpoint}\n{zeros}"));
        }
    }
}

#[tokio::test]
async fn a_bind_mountpoint_shows_the_tree_of_another_revision() {
    let mut repo = TestRepo::new("fs.test.repo");
    repo.nested("/d");
    repo.file("/d/f", b"old");
    let old = repo.publish().root_hash().to_string();
    repo.file("/d/f", b"newer");
    repo.bind("/snap", old);
    let published = repo.publish();
    let fs = serve(&published).await;
    let walk = async |path: &str| {
        let mut ino = ROOT_INO;
        for part in path.split('/') {
            ino = fs.lookup(ino, part.as_bytes()).await?.attributes.ino;
        }
        Ok::<_, FsError>(ino)
    };
    let (new, old) = (walk("d/f").await.unwrap(), walk("snap/d/f").await.unwrap());
    assert_ne!(new, old);
    assert_eq!(fs.read(new, 0, 0, 99).await.unwrap(), b"newer");
    assert_eq!(fs.read(old, 0, 0, 99).await.unwrap(), b"old");
    assert!(matches!(walk("snap/snap").await, Err(FsError::NotFound)));
    let snap = walk("snap").await.unwrap();
    let handle = fs.opendir(snap).await.unwrap();
    let names: Vec<_> =
        list(&fs, snap, handle, 9, false).await.into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, [b".".to_vec(), b"..".to_vec(), b"d".to_vec()]);
}

#[tokio::test]
async fn root_catalog_and_certificate_may_be_at_their_alternative_places() {
    let mut repo = TestRepo::new("fs.test.repo");
    repo.alternative_paths();
    repo.file("/f", b"x");
    let published = repo.publish();
    let fs = serve(&published).await;
    assert!(fs.lookup(ROOT_INO, b"f").await.is_ok());
}
