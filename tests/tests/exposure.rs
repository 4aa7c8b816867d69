//! Where attributes about a mount are listed, and who may read them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fixtures::genuine::{EntryType, Genuine};
use fixtures::server::TestServer;
use tests::apart::as_user;
use tests::walk::{get_xattr, list_xattrs};
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(110);

/// The names on the page for users; `user.rawlink` is not among them.
fn documented() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/attributes.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(str::to_owned).collect()
}

fn mounted(genuine: &Genuine, server: &TestServer, set: &[&str]) -> TestMount {
    let mut spec = MountSpec::genuine(&client!(), genuine, server);
    for text in set {
        spec = spec.arg("--set").arg(text);
    }
    spec.start()
}

fn names(path: &Path) -> BTreeSet<String> {
    let names = list_xattrs(path).unwrap();
    let count = names.len();
    let names: BTreeSet<_> =
        names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
    assert_eq!(names.len(), count, "a name is there twice: {names:?}");
    names
}

#[test]
fn attributes_are_listed_where_the_site_wants_them() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let documented = documented();
        let truth = genuine.truth();
        for (set, at_root, elsewhere) in [
            (&[][..], true, false),
            (&["CVMFS_MAGIC_XATTRS_VISIBILITY=rootonly"], true, false),
            (&["CVMFS_MAGIC_XATTRS_VISIBILITY=never"], false, false),
            (&["CVMFS_MAGIC_XATTRS_VISIBILITY=always"], true, true),
            (&["CVMFS_HIDE_MAGIC_XATTRS=yes"], false, false),
            (&["CVMFS_HIDE_MAGIC_XATTRS=no"], true, true),
            (&["CVMFS_MAGIC_XATTRS_VISIBILITY=never", "CVMFS_HIDE_MAGIC_XATTRS=no"], false, false),
        ] {
            let mount = mounted(&genuine, &server, set);
            for entry in &truth {
                let path = mount.path(&entry.path);
                let mut expected: BTreeSet<_> = entry
                    .xattrs
                    .keys()
                    .map(|name| String::from_utf8_lossy(name).into_owned())
                    .collect();
                let is_root = entry.path == b".";
                if if is_root { at_root } else { elsewhere } {
                    // All that can be read, and nothing else.
                    let readable = |name: &&String| get_xattr(&path, name.as_bytes()).is_ok();
                    expected.extend(documented.iter().filter(readable).cloned());
                }
                assert_eq!(names(&path), expected, "{path:?} {set:?}");
                // By name, it is there in any case.
                if matches!(entry.entry_type, EntryType::File | EntryType::Directory) {
                    assert!(get_xattr(&path, b"user.revision").is_ok(), "{path:?} {set:?}");
                }
            }
            mount.unmount();
        }
    });
}

#[test]
fn protected_attributes_are_for_their_groups() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let real = genuine.truth().iter().find_map(|entry| {
            let name = entry.xattrs.keys().find(|name| name.starts_with(b"user."))?;
            let is_open = matches!(entry.entry_type, EntryType::File) && entry.mode & 4 != 0;
            is_open.then(|| (entry.path.clone(), String::from_utf8(name.clone()).unwrap()))
        });
        let (path, real) = real.expect("a file with an attribute");
        let protected =
            ["user.host", "user.chunk_list", "user.nioerr", "user.requests", real.as_str()];
        let list = format!("CVMFS_XATTR_PROTECTED_XATTRS={}", protected.join(", "));
        let groups = "CVMFS_XATTR_PRIVILEGED_GIDS=4711,4712";
        let always = "CVMFS_MAGIC_XATTRS_VISIBILITY=always";
        let mount = mounted(&genuine, &server, &[&list, groups, always]);
        // Users cannot walk to where it is mounted.
        let root = File::open(mount.root()).unwrap();
        let file = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()))
            .join(String::from_utf8(path).unwrap().trim_start_matches('/'));
        for (uid, gid, is_allowed) in [
            (0, 0, true),
            (65534, 4711, true),
            (65534, 4712, true),
            (65534, 0, true),
            (65534, 65534, false),
            // It is the group that counts.
            (0, 4713, false),
        ] {
            as_user(uid, gid, || {
                for name in protected.into_iter().chain(["user.chunk_list~0", "user.chunk_list~?"])
                {
                    let code = get_xattr(&file, name.as_bytes()).map_err(|e| e.raw_os_error());
                    let expected = if is_allowed { None } else { Some(Some(libc::ENODATA)) };
                    assert_eq!(code.err(), expected, "{name} for {uid}:{gid}");
                }
                assert!(get_xattr(&file, b"user.fqrn").is_ok(), "{uid}:{gid}");
                let listed = names(&file);
                assert!(listed.contains("user.fqrn"));
                for name in ["user.host", "user.chunk_list", "user.nioerr", &real] {
                    assert_eq!(listed.contains(name), is_allowed, "{name} for {uid}:{gid}");
                }
            });
        }
        drop(root);
        mount.unmount();
    });
}

#[test]
fn the_root_of_an_automount_is_as_protected_as_a_repository() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let servers = format!("{}/@fqrn@", server.url());
        let key = genuine.public_key();
        let all = ["automount", "nioerr", "pid", "repositories", "timestamp_last_ioerr", "version"];
        let all = all.map(|name| format!("user.{name}"));
        let protected = ["user.pid", "user.repositories", "user.nioerr"];
        let list = format!("--set=CVMFS_XATTR_PROTECTED_XATTRS={}", protected.join(","));
        for (visibility, is_listed) in [("rootonly", true), ("never", false), ("always", true)] {
            let mount = MountSpec::automount(&client!(), &servers, &[&key])
                .arg(&list)
                .arg("--set=CVMFS_XATTR_PRIVILEGED_GIDS=4711")
                .arg(format!("--set=CVMFS_MAGIC_XATTRS_VISIBILITY={visibility}"))
                .start();
            // Users cannot walk to where it is mounted.
            let held = File::open(mount.root()).unwrap();
            let root = PathBuf::from(format!("/proc/self/fd/{}/.", held.as_raw_fd()));
            for (gid, is_allowed) in [(4711, true), (0, true), (65534, false)] {
                as_user(65534, gid, || {
                    let may = |name: &str| is_allowed || !protected.contains(&name);
                    for name in &all {
                        let code = get_xattr(&root, name.as_bytes()).map_err(|e| e.raw_os_error());
                        let expected = if may(name) { None } else { Some(Some(libc::ENODATA)) };
                        assert_eq!(code.err(), expected, "{name} for {gid}");
                    }
                    let expected = all.iter().filter(|name| is_listed && may(name));
                    let expected: BTreeSet<_> = expected.cloned().collect();
                    assert_eq!(names(&root), expected, "{visibility} for {gid}");
                });
            }
            drop(held);
            mount.unmount();
        }
    });
}
