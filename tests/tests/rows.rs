//! Rows of correctly signed catalogs that cannot be right (facts/behaviours.md section 4), through
//! one real mount: each is left out, refused or mended as ARCHITECTURE.md says, and at the end
//! everything else still works.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use fixtures::publish::{TestRepo, path_columns};
use fixtures::server::TestServer;
use tests::{MountSpec, client, deadline, walk};

const LIMIT: Duration = Duration::from_secs(100);
const CONTENT: &[u8] = b"ten bytes.";

/// What a user sees of a row.
enum Rule {
    /// Not listed; `stat` fails with this errno.
    Skipped(i32),
    /// Listed and statted; open or read fails with EIO.
    Unreadable,
    /// As if nothing were wrong.
    Fine,
}

fn set(name: &str, assignment: &str) -> String {
    format!("UPDATE catalog SET {assignment} WHERE name = '{name}'")
}

fn of_chunks(name: &str, action: &str, condition: &str) -> String {
    format!(
        "{action} WHERE {condition} AND md5path_1 = (SELECT md5path_1 FROM catalog WHERE name = '{name}')"
    )
}

/// Name, statement, what must be seen.
fn cases() -> Vec<(&'static str, String, Rule)> {
    use Rule::{Fine, Skipped, Unreadable};
    let chunk = "UPDATE chunks SET";
    vec![
        ("untouched", "SELECT 1".to_owned(), Fine),
        ("size-negative", set("size-negative", "size = -1"), Skipped(libc::EIO)),
        ("size-absurd", set("size-absurd", "size = 9223372036854775807"), Skipped(libc::EIO)),
        ("size-larger", set("size-larger", "size = 100"), Unreadable),
        ("size-smaller", set("size-smaller", "size = 3"), Unreadable),
        ("hash-missing", set("hash-missing", "hash = NULL"), Unreadable),
        ("hash-short", set("hash-short", "hash = x'01020304'"), Unreadable),
        ("hash-null", set("hash-null", "hash = zeroblob(20)"), Unreadable),
        ("hash-unknown", set("hash-unknown", "hash = randomblob(20)"), Unreadable),
        ("algorithm-unknown", set("algorithm-unknown", "flags = flags | 1792"), Unreadable),
        ("algorithm-other", set("algorithm-other", "flags = flags | 512"), Unreadable),
        ("compression-unknown", set("compression-unknown", "flags = flags | 14336"), Unreadable),
        ("compression-other", set("compression-other", "flags = flags | 2048"), Unreadable),
        ("external", set("external", "flags = flags | 128"), Unreadable),
        ("chunks-none", set("chunks-none", "flags = flags | 64"), Unreadable),
        ("chunks-gap", of_chunks("chunks-gap", "DELETE FROM chunks", "offset = 4"), Unreadable),
        (
            "chunks-overlap",
            of_chunks("chunks-overlap", &format!("{chunk} size = 6"), "offset = 0"),
            Unreadable,
        ),
        (
            "chunks-negative",
            of_chunks("chunks-negative", &format!("{chunk} size = -4"), "offset = 0"),
            Unreadable,
        ),
        (
            "chunks-hash",
            of_chunks("chunks-hash", &format!("{chunk} hash = x'00'"), "offset = 4"),
            Unreadable,
        ),
        ("chunks-sum", set("chunks-sum", "size = 11"), Unreadable),
        ("directory-mode", set("directory-mode", "mode = 16877"), Skipped(libc::EIO)),
        ("no-type", set("no-type", "mode = 420"), Skipped(libc::EIO)),
        ("text-mode", set("text-mode", "mode = 'rwxr-xr-x'"), Skipped(libc::EIO)),
        ("uid-negative", set("uid-negative", "uid = -1"), Skipped(libc::EIO)),
        ("renamed", set("renamed", "name = 'other name'"), Skipped(libc::ENOENT)),
        ("no-name", set("no-name", "name = NULL"), Skipped(libc::ENOENT)),
        ("links-none", set("links-none", "hardlinks = 0"), Fine),
        ("attributes-broken", set("attributes-broken", "xattr = x'FF0102'"), Fine),
        ("nanoseconds-broken", set("nanoseconds-broken", "mtimens = -5"), Fine),
    ]
}

/// Names that no directory can hold, with the digest that belongs to them.
const BAD_NAMES: [&[u8]; 5] = [b".", b"..", b"a/b", b"nu\0l", &[b'n'; 300]];

/// Nested catalogs that cannot be used: mountpoint, where the statement runs, statement.
const NESTED: [(&str, &str, &str); 11] = [
    ("/n-view", "/n-view", "CREATE VIEW v AS SELECT 1"),
    ("/n-trigger", "/n-trigger", "CREATE TRIGGER t INSERT ON catalog BEGIN SELECT 1; END"),
    ("/n-generated", "/n-generated", "ALTER TABLE catalog ADD COLUMN g INTEGER AS (1)"),
    ("/n-unindexed", "/n-unindexed", "DROP INDEX idx_catalog_parent"),
    // Without a key a name could be there twice.
    (
        "/n-keyless",
        "/n-keyless",
        "CREATE TABLE copy AS SELECT * FROM catalog; DROP TABLE catalog; ALTER TABLE copy RENAME TO catalog; \
         CREATE INDEX idx_catalog_parent ON catalog (parent_1, parent_2)",
    ),
    ("/n-schema", "/n-schema", "UPDATE properties SET value = '3.0' WHERE key = 'schema'"),
    ("/n-column", "/n-column", "ALTER TABLE catalog DROP COLUMN symlink"),
    ("/n-place", "/n-place", "UPDATE properties SET value = '/n-view' WHERE key = 'root_prefix'"),
    ("/n-rootless", "/n-rootless", "DELETE FROM catalog WHERE flags & 32"),
    ("/n-hash", "", "UPDATE nested_catalogs SET sha1 = 'no hash' WHERE path = '/n-hash'"),
    (
        "/n-absent",
        "",
        "UPDATE nested_catalogs SET sha1 = '00112233445566778899aabbccddeeff00112233' WHERE path = '/n-absent'",
    ),
];

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn names(directory: &Path) -> Vec<OsString> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn hostile_rows() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("rows.test.repo");
        repo.dir("/h");
        repo.dir("/names");
        repo.file("/names/good", CONTENT);
        repo.file("/good", CONTENT);
        for (name, statement, _) in cases() {
            let path = format!("/h/{name}");
            if name.starts_with("chunks-") && name != "chunks-none" {
                repo.chunked(path, CONTENT, 4);
            } else if name == "external" {
                // Of its own: what other files have is cached, wherever a row says that it is.
                repo.file(path, b"elsewhere".to_vec());
            } else {
                repo.file(path, CONTENT);
            }
            repo.sql("", statement);
        }
        for bad in BAD_NAMES {
            let (first, second) = path_columns(&[b"/names/", bad].concat());
            let hex: String = bad.iter().map(|byte| format!("{byte:02x}")).collect();
            repo.sql(
                "",
                format!(
                    "INSERT INTO catalog SELECT {first}, {second}, parent_1, parent_2, hardlinks, hash, \
                     size, mode, mtime, mtimens, flags, CAST(x'{hex}' AS TEXT), symlink, uid, gid, xattr \
                     FROM catalog WHERE name = 'good' AND parent_1 = {}",
                    path_columns(b"/names").0
                ),
            );
        }
        for (mountpoint, place, statement) in NESTED {
            repo.nested(mountpoint);
            repo.file(format!("{mountpoint}/f"), CONTENT);
            repo.sql(place, statement);
        }
        repo.nested("/n-garbage");
        repo.catalog_bytes("/n-garbage", b"this is no database".to_vec());
        repo.symlink("/long", "target");
        repo.sql("", "UPDATE catalog SET symlink = hex(zeroblob(2500)) WHERE name = 'long'");
        repo.symlink("/secret", "$(AWS_SECRET_ACCESS_KEY)-$(CVMFS_FQRN)");
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let base = server.base(published.fqrn());
        let mount = MountSpec::new(&client!(), published.fqrn(), &base, &published.public_key())
            .env("AWS_SECRET_ACCESS_KEY", "hunter2")
            .start();

        let listed: BTreeSet<_> = names(&mount.path("h")).into_iter().collect();
        for (name, _, rule) in cases() {
            let path = mount.path(format!("h/{name}"));
            let stat = std::fs::symlink_metadata(&path);
            match rule {
                Rule::Skipped(expected) => {
                    assert!(!listed.contains(&OsString::from(name)), "{name} is listed");
                    assert_eq!(errno(stat), Some(expected), "stat of {name}");
                }
                Rule::Unreadable => {
                    assert!(listed.contains(&OsString::from(name)), "{name} is not listed");
                    assert!(stat.is_ok(), "stat of {name}");
                    assert_eq!(errno(std::fs::read(&path)), Some(libc::EIO), "read of {name}");
                }
                Rule::Fine => {
                    assert!(listed.contains(&OsString::from(name)), "{name} is not listed");
                    assert!(stat.unwrap().nlink() >= 1, "{name}");
                    assert_eq!(std::fs::read(&path).unwrap(), CONTENT, "{name}");
                    assert_eq!(walk::xattrs(&path).unwrap().len(), 0, "{name}");
                }
            }
        }
        assert_eq!(names(&mount.path("names")), ["good"]);
        let long = OsString::from_vec(vec![b'n'; 300]);
        let lookup = std::fs::symlink_metadata(mount.path("names").join(long));
        assert_eq!(errno(lookup), Some(libc::ENAMETOOLONG));

        for mountpoint in NESTED.iter().map(|(mountpoint, ..)| *mountpoint).chain(["/n-garbage"]) {
            let path = mount.path(&mountpoint[1..]);
            assert!(std::fs::symlink_metadata(&path).unwrap().is_dir(), "{mountpoint}");
            assert_eq!(errno(list(&path)), Some(libc::EIO), "listing of {mountpoint}");
            assert_eq!(errno(std::fs::read(path.join("f"))), Some(libc::EIO), "below {mountpoint}");
        }
        assert_eq!(errno(std::fs::read_link(mount.path("long"))), Some(libc::EIO));
        let target = std::fs::read_link(mount.path("secret")).unwrap();
        assert_eq!(target, Path::new("-rows.test.repo"), "only listed variables are expanded");

        assert_eq!(std::fs::read(mount.path("good")).unwrap(), CONTENT);
        assert!(names(mount.root()).len() > NESTED.len());
        assert!(mount.unmount().success());
    });
}

/// Opening a directory asks nobody; reading it does.
fn list(path: &Path) -> std::io::Result<Vec<std::fs::DirEntry>> {
    std::fs::read_dir(path)?.collect()
}
