//! A directory that upstream's client uses too (spec/cache.md sections 2, 8.1).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cvmfs_cache::AlienCache;
use cvmfs_core::cache::ObjectCache as _;
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};

use crate::stores::{commit, files, id_of, open_plain, read, stored};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

/// Where upstream looks for an object: the hash alone, whatever the kind.
fn upstreams_path(directory: &Path, id: &ObjectId) -> PathBuf {
    let hash = id.hash.to_string();
    directory.join(&hash[..2]).join(&hash[2..])
}

#[test]
fn what_we_store_is_what_upstream_would_have_stored() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = AlienCache::open(scratch.path()).unwrap();
    let body = stored(b"a catalog");
    for kind in [ObjectKind::Catalog, ObjectKind::Data, ObjectKind::Chunk] {
        let id = ObjectId { kind, ..id_of(&body, Compression::Zlib) };
        let object = commit(&cache, id, &body);
        let path = upstreams_path(scratch.path(), &id);
        assert_eq!(object.path(), Some(path.as_path()), "no suffix for {kind:?}");
        assert_eq!(std::fs::read(&path).unwrap(), b"a catalog");
        assert_eq!(mode(&path), 0o660);
        cache.discard(&id).unwrap();
        assert!(!path.exists());
    }
    // A cleaner took an empty directory away.
    let id = id_of(&body, Compression::Zlib);
    let path = upstreams_path(scratch.path(), &id);
    std::fs::remove_dir(path.parent().unwrap()).unwrap();
    commit(&cache, id, &body);
    assert_eq!(open_plain(&cache, &id).as_deref(), Some(&b"a catalog"[..]));
    for entry in std::fs::read_dir(scratch.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            assert_eq!(mode(&entry.path()), 0o770, "{:?}", entry.path());
        }
    }
    assert_eq!(files(&scratch.path().join("txn")), [] as [PathBuf; 0]);
}

#[test]
fn what_upstream_stored_is_served() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = AlienCache::open(scratch.path()).unwrap();
    let mut large = vec![0; 300_000];
    large[17] = 1;
    // Files may look like compressed ones when they are plain.
    for plain in [&b""[..], b"x", b"text", &stored(b"twice"), &large] {
        let body = stored(plain);
        let id = id_of(&body, Compression::Zlib);
        std::fs::write(upstreams_path(scratch.path(), &id), plain).unwrap();
        for _ in 0..2 {
            assert_eq!(open_plain(&cache, &id).as_deref(), Some(plain));
        }
    }
    let id = id_of(b"not compressed", Compression::None);
    std::fs::write(upstreams_path(scratch.path(), &id), b"not compressed").unwrap();
    assert_eq!(open_plain(&cache, &id).as_deref(), Some(&b"not compressed"[..]));
}

#[test]
fn bytes_that_are_known_to_be_wrong_are_set_aside() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = AlienCache::open(scratch.path()).unwrap();
    let body = stored(b"the right bytes");
    let zlib = id_of(&body, Compression::Zlib);
    let none = id_of(&body, Compression::None);
    let path = upstreams_path(scratch.path(), &zlib);
    let aside = scratch.path().join("quarantaine").join(zlib.hash.to_string());

    // Ours, damaged: its checksum says so.
    commit(&cache, zlib, &body);
    std::fs::write(&path, b"the wrong bytes").unwrap();
    assert_eq!(open_plain(&cache, &zlib), None);
    assert_eq!(std::fs::read(&aside).unwrap(), b"the wrong bytes");

    // Upstream's, uncompressed: the hash says so.
    std::fs::write(&path, b"the wrong bytes").unwrap();
    assert_eq!(open_plain(&cache, &none), None);
    assert!(!path.exists());

    // The other reading of the same hash, by whomever it was stored: compressed bytes must not
    // be served as plain ones.
    std::fs::write(&path, &body).unwrap();
    assert_eq!(open_plain(&cache, &zlib), None);
    commit(&cache, none, &body);
    assert_eq!(open_plain(&cache, &zlib), None);

    // Damage that nobody looked at before the object is stored again.
    commit(&cache, zlib, &body);
    std::fs::write(&path, b"the wrong bytes").unwrap();
    let object = commit(&cache, zlib, &body);
    assert_eq!(read(&object), b"the right bytes");
    assert_eq!(std::fs::read(object.path().unwrap()).unwrap(), b"the right bytes");

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(open_plain(&cache, &zlib), None);
    assert_eq!(read(&commit(&cache, zlib, &body)), b"the right bytes");
    assert_eq!(open_plain(&cache, &zlib).as_deref(), Some(&b"the right bytes"[..]));
}

/// Not a test: the process of the next one, which sees the directory read-only.
#[test]
#[ignore = "run by another test"]
fn reader_of_a_read_only_directory() {
    let Some(directory) = std::io::stdin().lines().map_while(Result::ok).next() else { return };
    let cache = AlienCache::open(&directory).unwrap();
    assert!(cache.is_read_only());
    let (there, new) = (stored(b"there"), stored(b"new"));
    let id = id_of(&there, Compression::Zlib);
    assert_eq!(open_plain(&cache, &id).as_deref(), Some(&b"there"[..]));
    let id = id_of(&new, Compression::Zlib);
    assert_eq!(open_plain(&cache, &id), None);
    assert_eq!(read(&commit(&cache, id, &new)), b"new");
    assert_eq!(open_plain(&cache, &id), None, "passed on, not kept");
    // Damaged: cannot be set aside, and is not served.
    let wrong = id_of(b"not compressed", Compression::None);
    assert_eq!(open_plain(&cache, &wrong), None);
    println!("all is well");
}

#[test]
fn a_read_only_directory_serves_what_it_has() {
    use std::io::Write as _;
    let scratch = tempfile::tempdir().unwrap();
    let there = stored(b"there");
    let id = id_of(&there, Compression::Zlib);
    commit(&AlienCache::open(scratch.path()).unwrap(), id, &there);
    let wrong = upstreams_path(scratch.path(), &id_of(b"not compressed", Compression::None));
    std::fs::write(&wrong, b"not what it was").unwrap();
    let before = files(scratch.path());

    let mount = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" || exit 77; \
                 shift; exec \"$@\"";
    let mut child = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", mount, "sh"])
        .arg(scratch.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "alien::reader_of_a_read_only_directory", "--nocapture"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // A pipe closed early is the child that failed, seen below.
    let _ = writeln!(child.stdin.take().unwrap(), "{}", scratch.path().display());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if matches!(output.status.code(), Some(1 | 77)) && !text.contains("running 1 test") {
        println!("skipped: no mounts of our own here");
        return;
    }
    assert!(output.status.success() && text.contains("all is well"), "{text}");
    assert_eq!(files(scratch.path()), before, "nothing changed");
    assert!(wrong.exists());
}
