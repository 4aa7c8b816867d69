//! Upstream's attributes, as monitoring and people read them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::{Rule, TestServer};
use tests::walk::get_xattr;
use tests::{MountSpec, client, deadline};

const LIMIT: Duration = Duration::from_secs(90);

fn text(path: &Path, name: &str) -> Option<String> {
    match get_xattr(path, name.as_bytes()) {
        Ok(value) => Some(String::from_utf8(value).unwrap()),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::ENODATA), "{name} of {path:?}: {error}");
            None
        }
    }
}

/// Everything below a directory, links not followed.
fn entries(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            entries(&path, found);
        }
        found.push(path);
    }
}

#[test]
fn the_page_of_attributes_is_true_for_every_entry() {
    deadline(LIMIT, || {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/attributes.md");
        let page = fs::read_to_string(page).unwrap();
        let rows: Vec<(String, String)> = page
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
                let name = cells.next()?.trim_end_matches('`').to_owned();
                Some((name, cells.next()?.to_owned()))
            })
            .collect();
        assert!(rows.len() > 30, "{rows:?}");
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        let root = mount.root().to_owned();
        let mut all = vec![root.clone()];
        entries(&root, &mut all);
        let mut seen = BTreeMap::<String, usize>::new();
        for path in &all {
            let found = fs::symlink_metadata(path).unwrap();
            let is_whole = text(path, "user.chunks").as_deref() == Some("1");
            for (name, of) in &rows {
                let expected = match of.as_str() {
                    "anything" => true,
                    "file" => found.is_file(),
                    "file in one piece" => found.is_file() && is_whole,
                    "link" => found.is_symlink(),
                    other => panic!("{other}"),
                };
                // Of links and special files, Linux allows users no attributes called 'user.'.
                if name.starts_with("user.") && !found.is_file() && !found.is_dir() {
                    continue;
                }
                let value = text(path, name);
                assert_eq!(value.is_some(), expected, "{name} of {path:?}: {value:?}");
                *seen.entry(name.clone()).or_default() += usize::from(value.is_some());
            }
        }
        let never: Vec<_> = rows.iter().filter(|row| seen.get(&row.0) == Some(&0)).collect();
        assert!(never.is_empty(), "{never:?}");
    });
}

#[test]
fn counters_and_keys_are_those_of_the_repository() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        let root = mount.root().to_owned();
        let mut all = Vec::new();
        entries(&root, &mut all);
        let of_all = text(&root, "user.repo_counters").unwrap();
        let is_file = |path: &&PathBuf| fs::symlink_metadata(path).unwrap().is_file();
        let files: Vec<_> = all.iter().filter(is_file).collect();
        assert!(of_all.contains(&format!("\nregular,{}\n", files.len())), "{of_all}");
        assert!(of_all.lines().is_sorted() && of_all.ends_with('\n'), "{of_all}");
        let root_hash = text(&root, "user.root_hash").unwrap();
        let own = text(&root, "user.catalog_counters").unwrap();
        assert_eq!(own, format!("catalog_hash: {root_hash}\ncatalog_mountpoint: \n{of_all}"));
        let mut nested = 0;
        for path in files {
            let told = text(path, "user.catalog_counters").unwrap();
            let at = told.lines().nth(1).unwrap().strip_prefix("catalog_mountpoint: ").unwrap();
            assert!(path.starts_with(root.join(at.trim_start_matches('/'))), "{told}");
            assert_eq!(at.is_empty(), told == own, "{told}");
            nested += usize::from(!at.is_empty());
        }
        assert!(nested > 0);
        let key = fs::read_to_string(genuine.public_key()).unwrap();
        assert_eq!(text(&root, "user.pubkeys").unwrap(), key.trim_end());
        assert_eq!(text(&root, "user.tag").unwrap(), "");
        let help = text(&root, "user.pubkeys@?").unwrap();
        assert!(help.starts_with("There are 1 pages"), "{help}");
        assert_eq!(
            text(&root, "user.pubkeys@0").unwrap(),
            format!("# page 0 of 0 to 0\n{}", key.trim_end())
        );
        assert!(text(&root, "user.pubkeys@1").unwrap().contains("no page 1"));
        assert_eq!(text(&root, "user.pubkeys~1"), None);
        mount.unmount();
    });
}

#[test]
fn the_owners_description_is_that_of_the_manifest() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        let told = text(mount.root(), "user.repo_metainfo").unwrap();
        let described: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert!(described.get("administrator").is_some(), "{told}");
        mount.unmount();
        // Nobody has it: that is told, and nothing fails.
        let server = TestServer::serving(genuine.dir());
        server.rule(Rule::on("*M").status(404));
        let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        let told = text(mount.root(), "user.repo_metainfo").unwrap();
        assert!(told.starts_with("failed to fetch metainfo: "), "{told}");
        mount.unmount();
    });
}

#[test]
fn the_last_messages_can_be_read_and_a_tag_is_told() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        let mount = spec.arg("--set=CVMFS_UID_MAP=/dev/null").arg("--tag=trunk").start();
        let before = text(mount.root(), "user.logbuffer").unwrap();
        assert_eq!(text(mount.root(), "user.tag").unwrap(), "trunk");
        assert_eq!(text(mount.root(), "user.expires").unwrap(), "never (fixed root catalog)");
        // A file whose content is gone, on the server too.
        let mut all = Vec::new();
        entries(mount.root(), &mut all);
        let is_whole = |path: &&PathBuf| {
            fs::symlink_metadata(path).unwrap().is_file()
                && fs::metadata(path).unwrap().len() > 0
                && text(path, "user.chunks").as_deref() == Some("1")
        };
        let file = all.iter().find(is_whole).unwrap();
        server.rule(Rule::on("*/data/*").status(500));
        fs::read(file).unwrap_err();
        let log = text(mount.root(), "user.logbuffer").unwrap();
        assert!(log != before && log.starts_with('['), "{before}\n{log}");
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(log.contains(name), "{name}: {log}");
        mount.unmount();
    });
}

/// The file of an object below a cache directory.
fn object(directory: &Path, hash: &str) -> Option<PathBuf> {
    let mut all = Vec::new();
    entries(directory, &mut all);
    all.into_iter().find(|path| path.to_str().unwrap().replace('/', "").contains(hash))
}

/// Changes one byte; with `sealed`, so that only reading it tells.
fn flip(file: &Path, sealed: bool) {
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    let times = fs::metadata(file).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    let opened = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    opened.read_exact_at(&mut byte, 0).unwrap();
    opened.write_all_at(&[!byte[0]], 0).unwrap();
    if sealed {
        let sealed = fs::FileTimes::new().set_modified(times.modified().unwrap());
        opened.set_times(sealed).unwrap();
    }
}

/// Reads a file without what the kernel has of it.
fn read_again(path: &Path) -> Vec<u8> {
    use std::os::fd::AsRawFd as _;
    let file = fs::File::open(path).unwrap();
    // SAFETY: the descriptor is open.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0);
    fs::read(path).unwrap()
}

#[test]
fn a_cached_copy_is_compared_with_what_was_stored() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), &genuine, &server).without_prefetch().start();
        let file = mount.path("many/f3");
        let hash = text(&file, "user.hash").unwrap();
        let lhash = || text(&file, "user.lhash").unwrap();
        assert_eq!(lhash(), "Not in cache");
        let content = fs::read(&file).unwrap();
        assert_eq!(lhash(), hash);
        for sealed in [true, false] {
            let copy = object(mount.cache_dir(), &hash).unwrap();
            flip(&copy, sealed);
            // It takes two calls to read it, and both say the same.
            assert_eq!(lhash(), "damaged", "{sealed}");
            assert_eq!(lhash(), "Not in cache", "{sealed}");
            assert_eq!(read_again(&file), content, "{sealed}");
            assert_eq!(lhash(), hash, "{sealed}");
        }
        assert_eq!(text(mount.root(), "user.lhash"), None);
        mount.unmount();
    });
}

#[test]
fn hashes_and_pieces_are_those_on_the_server() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        let mut all = Vec::new();
        entries(mount.root(), &mut all);
        let (mut whole, mut chunked) = (0, 0);
        for path in all.iter().filter(|path| fs::symlink_metadata(path).unwrap().is_file()) {
            let size = fs::metadata(path).unwrap().len();
            let list = text(path, "user.chunk_list").unwrap();
            let (head, rows) = list.split_once('\n').unwrap();
            assert_eq!(head, "hash,offset,size");
            let rows: Vec<Vec<&str>> = rows.lines().map(|row| row.split(',').collect()).collect();
            assert_eq!(text(path, "user.chunks").unwrap(), rows.len().to_string());
            let mut end = 0;
            for row in &rows {
                assert_eq!(row[1].parse::<u64>().unwrap(), end);
                end += row[2].parse::<u64>().unwrap();
                let partial = if rows.len() > 1 { "P" } else { "" };
                let (fan, rest) = row[0].split_at(2);
                let object = genuine.root().join(format!("data/{fan}/{rest}{partial}"));
                assert!(object.exists(), "{object:?} of {path:?}");
            }
            assert_eq!(end, size, "{path:?}");
            match text(path, "user.hash") {
                Some(hash) => {
                    assert_eq!(hash, rows[0][0]);
                    whole += 1;
                }
                None => chunked += 1,
            }
            assert_eq!(text(path, "user.chunk_list~?").unwrap(), "num_pages, 1");
            assert_eq!(text(path, "user.chunk_list~0").unwrap(), list);
            for name in ["user.chunk_list~1", "user.chunk_list~x", "user.hash~0", "user.none"] {
                assert_eq!(text(path, name), None, "{name}");
            }
        }
        assert!(whole > 5 && chunked > 0, "{whole} {chunked}");
        // An error is counted, and its time is told.
        let root = mount.root().to_owned();
        let errors = || text(&root, "user.nioerr").unwrap().parse::<u64>().unwrap();
        assert_eq!(
            (errors(), text(&root, "user.timestamp_last_ioerr").unwrap().as_str()),
            (0, "0")
        );
        drop(server);
        let file = all
            .iter()
            .find(|path| fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0));
        assert!(fs::read(file.unwrap()).is_err());
        assert!(errors() > 0);
        assert_ne!(text(&root, "user.timestamp_last_ioerr").unwrap(), "0");
    });
}
