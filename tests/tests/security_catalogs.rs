//! Catalogs and tag databases that are signed correctly and hostile all the same: what they hold up, what they may
//! take, and what stays as it is for everybody else (rows H5 and H6 of the security review).
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(200);
/// From a publication to its sight, at a TTL of one second.
const SEEN: Duration = Duration::from_secs(60);
/// Longest answer while somebody else attacks, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// One step of SQLite that takes hours: the search of a long text in a longer one.
const HOURS: &str = "instr(hex(zeroblob(4500000)), hex(zeroblob(2000000)) || 'x')";

/// Makes the values of the properties the results of a computation, which the publisher need not wait for.
fn computed_properties(computation: &str) -> String {
    let computation = computation.replace('\'', "''");
    format!(
        "CREATE TABLE copy AS SELECT key, value FROM properties; DROP TABLE properties;
         CREATE TABLE properties (key TEXT PRIMARY KEY, v TEXT, value TEXT AS (v));
         INSERT INTO properties (key, v) SELECT key, value FROM copy; DROP TABLE copy;
         PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql = replace(sql, '(v)', '(v || {computation})') WHERE name = 'properties';"
    )
}

/// Puts a row into the schema, whatever this SQLite makes of it.
fn schema_row(name: &str, sql: &str) -> String {
    format!(
        "DROP TABLE IF EXISTS {name}; PRAGMA writable_schema=ON;
         INSERT INTO sqlite_schema VALUES ('table', '{name}', '{name}', 0, '{sql}');"
    )
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Opening a directory asks nobody; reading it does.
fn list(path: &Path) -> io::Result<usize> {
    fs::read_dir(path)?.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

fn spec(published: &Published, server: &TestServer) -> MountSpec {
    MountSpec::published(&client!(), published, &[server]).impatient()
}

fn automount(server: &TestServer, repos: &[&Published]) -> MountSpec {
    for repo in repos {
        server.add_root(repo.root());
    }
    let keys: Vec<_> = repos.iter().map(|repo| repo.public_key()).collect();
    let keys: Vec<_> = keys.iter().map(PathBuf::as_path).collect();
    MountSpec::automount(&client!(), &format!("{}/@fqrn@", server.url()), &keys).impatient()
}

/// Most bytes that the server of a mount ever had resident.
fn peak(mount: &TestMount) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.server())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

fn run(words: &[&str]) -> String {
    let output = client!().command().args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn h5_catalogs_that_are_programs_are_errors_and_hold_nobody() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("programs.test.repo");
        repo.file("/good", b"good");
        let attacks = [
            ("/properties", computed_properties(HOURS)),
            ("/harmless", computed_properties("''")),
            ("/spaces", schema_row("chunks", "CREATE  VIRTUAL TABLE chunks USING fts5(offset)")),
            ("/comment", schema_row("x", "CREATE/**/VIRTUAL TABLE x USING fts4(a)")),
            (
                "/chunks",
                format!(
                    "DROP TABLE chunks; CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER,
                     size INTEGER, hash BLOB, offset INTEGER AS ({HOURS}),
                     PRIMARY KEY (md5path_1, md5path_2))"
                ),
            ),
            ("/elsewhere", format!("CREATE TABLE x (a, b AS ({HOURS}))")),
            ("/statistics", "ANALYZE".to_owned()),
        ];
        for (mountpoint, attack) in &attacks {
            repo.nested(*mountpoint);
            repo.chunked(format!("{mountpoint}/f"), b"ten bytes.", 4);
            repo.sql(mountpoint, attack.clone());
        }
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        std::thread::scope(|scope| {
            for (mountpoint, _) in attacks.iter().cycle().take(4 * attacks.len()) {
                let path = mount.path(&mountpoint[1..]);
                scope.spawn(move || {
                    assert_eq!(errno(list(&path)), Some(libc::EIO), "{mountpoint}");
                    assert_eq!(errno(fs::read(path.join("f"))), Some(libc::EIO), "{mountpoint}");
                });
            }
            let begun = Instant::now();
            assert_eq!(fs::read(mount.path("good")).unwrap(), b"good");
            assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        });
        let why = run(&["why", mount.path("properties").to_str().unwrap()]);
        assert!(why.contains("/properties") && why.contains("EIO"), "{why}");
        assert!(mount.unmount().success());
    });
}

#[test]
fn h5_an_update_that_is_a_program_is_one_failed_look() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("update.test.repo");
        repo.ttl(1);
        repo.file("/f", b"first");
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        assert_eq!(mount.revision(), 1);
        repo.sql("", computed_properties(HOURS));
        repo.publish();
        let reason = || mount.attribute("user.stale_reason");
        wait_until(SEEN, "the reason", || reason().is_some()).unwrap();
        assert!(reason().unwrap().contains("catalog"), "{:?}", reason());
        let status = run(&["status", published.fqrn()]);
        assert!(status.contains("stale since"), "{status}");
        assert_eq!((mount.revision(), fs::read(mount.path("f")).unwrap()), (1, b"first".to_vec()));
        repo.repair();
        repo.file("/f", b"third");
        repo.publish();
        wait_until(SEEN, "the revision after it", || mount.revision() == 3).unwrap();
        wait_until(SEEN, "its content", || fs::read(mount.path("f")).unwrap() == b"third").unwrap();
        assert!(mount.unmount().success());
    });
}

#[test]
fn h5_a_tag_database_that_is_a_program_is_refused_at_once() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("tags.test.repo");
        repo.file("/f", b"x");
        repo.tag("mine");
        repo.history_sql(computed_properties(HOURS));
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let failure = spec(&published, &server).arg("--tag").arg("mine").try_start().unwrap_err();
        let said = format!("{failure:?}");
        assert!(said.contains("tag database"), "{said}");
    });
}

/// Rows that are all left out: nothing is held of them, and every page of them is a turn for others.
#[test]
fn h6_rows_that_are_left_out_hold_nobody_else() {
    deadline(LIMIT, || {
        let mut hostile = TestRepo::new("hostile.test.repo");
        hostile.file("/d/good", b"x");
        hostile.file("/d/last", b"x");
        hostile.sql(
            "",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000)
             INSERT INTO catalog SELECT i, i, parent_1, parent_2, hardlinks, hash, size, mode, mtime,
             mtimens, flags, 'n' || i, symlink, uid, gid, xattr FROM catalog, n WHERE name = 'good'",
        );
        hostile.sql("", "UPDATE catalog SET rowid = 1000000 WHERE name = 'last'");
        let hostile = hostile.publish();
        let mut other = TestRepo::new("other.test.repo");
        other.file("/f", b"x");
        let other = other.publish();
        let server = TestServer::serving(other.root());
        let mount = automount(&server, &[&hostile, &other]).start();
        let (d, root) = (mount.path("hostile.test.repo/d"), mount.path("other.test.repo"));
        assert!(fs::read(root.join("f")).is_ok() && fs::symlink_metadata(&d).is_ok());
        let before = peak(&mount);
        answers_while(&root, || {
            std::thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| assert_eq!(list(&d).unwrap(), 2));
                }
            });
        });
        let grown = peak(&mount).saturating_sub(before) >> 20;
        assert!(grown < 100, "{grown} MiB");
        assert!(mount.unmount().success());
    });
}

#[test]
fn h6_a_long_directory_is_complete_in_bounded_memory_while_others_are_answered() {
    deadline(LIMIT, || {
        let rows = rows();
        let mut long = TestRepo::new("long.test.repo");
        long.many_files("/d", rows, |number| (format!("file{number:07}"), "x"));
        let long = long.publish();
        let mut other = TestRepo::new("other.test.repo");
        other.file("/f", b"x");
        let other = other.publish();
        let server = TestServer::serving(other.root());
        let mount = automount(&server, &[&long, &other]).start();
        let (d, root) = (mount.path("long.test.repo/d"), mount.path("other.test.repo"));
        assert!(fs::read(root.join("f")).is_ok() && fs::symlink_metadata(&d).is_ok());
        let before = peak(&mount);
        answers_while(&root, || {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert_eq!(list(&d).unwrap(), rows));
                }
            });
        });
        // What the kernel knows has its place in the table of inodes; rows are not kept.
        let grown = peak(&mount).saturating_sub(before);
        let bound = (64 << 20) + rows.min(200_000) * 400;
        assert!(grown < bound, "{} MiB of {}", grown >> 20, bound >> 20);
        let mut names: Vec<_> =
            fs::read_dir(&d).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), rows);
        assert!(mount.unmount().success());
    });
}

#[test]
fn h6_links_of_megabytes_are_refused_before_they_are_copied() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("links.test.repo");
        for number in 0..40 {
            repo.symlink(format!("/d/l{number}"), "target");
        }
        repo.symlink("/e/long", "target");
        repo.symlink("/e/short", "target");
        repo.file("/good", b"good");
        repo.sql("", "UPDATE catalog SET symlink = hex(zeroblob(1900000)) WHERE name LIKE 'l_' OR name LIKE 'l__'");
        repo.sql("", "UPDATE catalog SET symlink = hex(zeroblob(2500)) WHERE name = 'long'");
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        assert_eq!(fs::read(mount.path("good")).unwrap(), b"good");
        let before = peak(&mount);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(errno(list(&mount.path("d"))), Some(libc::EIO)));
            }
        });
        let grown = peak(&mount).saturating_sub(before) >> 20;
        assert!(grown < 32, "{grown} MiB");
        assert_eq!(list(&mount.path("e")).unwrap(), 1);
        assert_eq!(errno(fs::read_link(mount.path("e/long"))), Some(libc::EIO));
        assert_eq!(fs::read_link(mount.path("e/short")).unwrap(), Path::new("target"));
        assert_eq!(fs::read(mount.path("good")).unwrap(), b"good");
        assert!(mount.unmount().success());
    });
}

/// Rows of the long directory; the review had a million.
#[allow(clippy::disallowed_methods, reason = "chosen by whoever runs the test by hand")]
fn rows() -> usize {
    std::env::var("CVMFS_TEST_ROWS").map_or(120_000, |text| text.parse().unwrap())
}

/// Asks a repository for names that the kernel does not know while `attack` runs.
fn answers_while(root: &Path, attack: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut slowest, mut number) = (Duration::ZERO, 0);
            while !done.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let absent = fs::symlink_metadata(root.join(format!("absent{number}")));
                assert_eq!(errno(absent), Some(libc::ENOENT));
                slowest = slowest.max(begun.elapsed());
                number += 1;
            }
            slowest
        });
        attack();
        done.store(true, Ordering::Relaxed);
        let slowest = asking.join().unwrap();
        assert!(slowest < AT_ONCE, "an answer took {slowest:?}");
    });
}
