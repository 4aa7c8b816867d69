//! Disks and caches that fail under real mounts: facts/behaviours.md section 3.3.
//!
//! | row of 3.3 | tested |
//! |---|---|
//! | cached object flipped, cut, emptied, deleted | `faults.rs`, `serving.rs`, `hostile_sibling.rs` |
//! | cached root catalog damaged | here |
//! | cache index damaged or missing | here; gauge: `hostile_sibling.rs` |
//! | crash with half-written object | here; with names for temporary files: `cvmfs-cache/tests/contract.rs` |
//! | kill -9 of the client | `command_line.rs`, `unprivileged.rs` |
//! | kill -9 of the cache manager | the broker: `hostile_sibling.rs`; there is no other helper |
//! | cache partition full, quota larger than it | here; filled by a sibling: `hostile_sibling.rs` |
//! | cache partition read-only or EIO | here |
//! | quota smaller than one object | here |
//! | cache on NFS or other shared directory | `shared_cache.rs`; delays of a shim: not tested |
//! | two clients, one cache, both update | here |
//! | memory | not here |
//! | descriptors | `descriptors.rs` |
//! | threads, slow user | `large.rs`: slow downloads |
//! | update while files are open, of symlinks, of listings | `updates.rs`, `many_updates.rs` |
//! | unmount while busy or hung | `serving.rs`, `chaos.rs` |
//! | reload | `command_line.rs` |
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests may die, too")]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fixtures::publish::{Object, Published, TestRepo};
use fixtures::server::{Network, Rule, TestServer};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use tests::apart::{Mounted, private_mounts};
use tests::watchdog::bounded;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(150);
const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(30);
const FQRN: &str = "cachefaults.test.repo";
const SIZE: usize = 100_000;

/// What no compression makes smaller.
fn content(name: &str) -> Vec<u8> {
    let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(131) + u64::from(byte));
    let mut bytes = vec![0; SIZE];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

struct Scene {
    published: Published,
    server: TestServer,
    scratch: tempfile::TempDir,
}

impl Scene {
    fn new(names: &[String]) -> Self {
        let mut repo = TestRepo::new(FQRN);
        for name in names {
            repo.file(format!("/{name}"), content(name));
        }
        repo.nested("/nested");
        repo.file("/nested/file", b"nested".to_vec());
        Self::of(repo.publish())
    }

    fn of(published: Published) -> Self {
        let server = TestServer::serving(published.root());
        let scratch = tempfile::tempdir().unwrap();
        let scene = Self { published, server, scratch };
        for directory in [scene.cache(), scene.disk()] {
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).unwrap();
        }
        scene
    }

    fn cache(&self) -> PathBuf {
        self.scratch.path().join("cache")
    }

    /// Where something is mounted.
    fn disk(&self) -> PathBuf {
        self.scratch.path().join("disk")
    }

    fn spec(&self, cache: &Path) -> MountSpec {
        MountSpec::published(&client!(), &self.published, &[&self.server])
            .impatient()
            .without_prefetch()
            .cache_dir(cache)
    }

    fn object(&self, name: &str) -> Object {
        self.published.file_object(format!("/{name}")).unwrap()
    }

    fn cached(&self, cache: &Path, name: &str) -> PathBuf {
        place(cache, &self.object(name).hash.to_string(), "")
    }
}

fn place(cache: &Path, hash: &str, kind: &str) -> PathBuf {
    let (fan, rest) = hash.split_at(2);
    cache.join("v2/objects").join(fan).join(format!("{rest}{kind}"))
}

#[track_caller]
fn assert_read(mount: &TestMount, name: &str) {
    let path = mount.path(name);
    let read = bounded(PATIENCE, move || fs::read(path));
    let read = read.unwrap_or_else(|| panic!("{name} hangs\n{}", mount.log()));
    let read = read.unwrap_or_else(|error| panic!("{name}: {error}\n{}", mount.log()));
    assert!(read == content(name), "{name}: wrong bytes\n{}", mount.log());
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|found| found.is_dir()) {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn objects(cache: &Path) -> Vec<PathBuf> {
    files_below(&cache.join("v2/objects"))
}

fn stored(cache: &Path) -> u64 {
    let sizes = objects(cache).into_iter().filter_map(|path| path.metadata().ok());
    sizes.map(|found| found.len()).sum()
}

#[test]
fn a_second_mount_asks_for_manifest_and_whitelist_alone() {
    deadline(LIMIT, || {
        let names = names("f", 5);
        let scene = Scene::new(&names);
        for round in 0..2 {
            scene.server.reset_log();
            let mount = scene.spec(&scene.cache()).start();
            names.iter().for_each(|name| assert_read(&mount, name));
            assert_eq!(fs::read(mount.path("nested/file")).unwrap(), b"nested");
            let data = scene.server.count("*/data/*");
            assert_eq!(data > 0, round == 0, "{:?}", scene.server.requests());
        }
        let asked: Vec<_> =
            scene.server.requests().into_iter().map(|request| request.path).collect();
        assert_eq!(asked.len(), 2, "{asked:?}");
        for letter in [".cvmfspublished", ".cvmfswhitelist"] {
            assert!(asked.iter().any(|path| path.ends_with(letter)), "{asked:?}");
        }
    });
}

/// Bytes of a disk that lies: also with the time of before, which nothing in a private cache but
/// `SQLite` could notice.
#[test]
fn a_damaged_catalog_is_fetched_again() {
    deadline(LIMIT, || {
        let names = names("f", 3);
        let scene = Scene::new(&names);
        drop(scene.spec(&scene.cache()).start());
        let hash = scene.published.root_hash().to_string();
        let catalog = place(&scene.cache(), &hash, "C");
        for resealed in [false, true] {
            for (from, to) in [(100, 4000), (0, 100), (0, 20_000)] {
                let found = catalog.metadata().unwrap();
                let length = usize::try_from(found.len()).unwrap();
                let file = File::options().write(true).open(&catalog).unwrap();
                file.write_all_at(&vec![0xa5; to.min(length) - from], from as u64).unwrap();
                if resealed {
                    let time = TimeSpec::new(found.mtime(), found.mtime_nsec());
                    let flags = UtimensatFlags::FollowSymlink;
                    utimensat(nix::fcntl::AT_FDCWD, &catalog, &time, &time, flags).unwrap();
                }
                let mount = scene.spec(&scene.cache()).start();
                names.iter().for_each(|name| assert_read(&mount, name));
                assert_eq!(fs::read_dir(mount.root()).unwrap().count(), names.len() + 1);
                drop(mount);
            }
        }
    });
}

#[test]
fn without_its_index_a_cache_works_and_keeps_its_quota() {
    const QUOTA: u64 = 1 << 20;
    let damages: [fn(&Path); 4] = [
        |index| fs::write(index, b"bla").unwrap(),
        |index| fs::write(index, b"bla".repeat(10_000)).unwrap(),
        |index| fs::remove_file(index).unwrap(),
        |index| {
            fs::write(index, b"").unwrap();
            fs::write(index.with_file_name("gauge"), b"").unwrap();
        },
    ];
    deadline(LIMIT, || {
        let names = names("f", 25);
        for damage in damages {
            let scene = Scene::new(&names);
            let cache = scene.cache();
            let spec = scene.spec(&cache);
            // More than the quota that comes.
            let large = spec.clone().arg("--quota=100M").start();
            names.iter().for_each(|name| assert_read(&large, name));
            drop(large);
            assert!(stored(&cache) > 2 * QUOTA);
            damage(&cache.join("v2/index.sqlite"));
            let mount = spec.arg(format!("--quota={QUOTA}")).start();
            names.iter().for_each(|name| assert_read(&mount, name));
            wait_until(SOON, "kept quota", || stored(&cache) <= QUOTA).unwrap();
            // Not by storing nothing any more.
            wait_until(SOON, "stored object", || {
                let number = names.iter().find(|name| !scene.cached(&cache, name).exists());
                let second = scene.spec(&cache).arg(format!("--quota={QUOTA}")).start();
                assert_read(&second, number.unwrap());
                scene.cached(&cache, number.unwrap()).exists()
            })
            .unwrap();
            assert!(stored(&cache) <= QUOTA);
        }
    });
}

#[test]
fn fifty_deaths_amid_downloads_leave_nothing_half() {
    const DEATHS: usize = 50;
    deadline(LIMIT, || {
        let names = names("f", 60);
        let scene = Scene::new(&names);
        let cache = scene.cache();
        let right: HashSet<_> = names.iter().map(|name| content(name)).collect();
        // Slow enough that every death finds many under way.
        scene.server.rule(Rule::on("*/data/*").bytes_per_second(1_000_000));
        let mut died_amid = 0;
        for death in 0..DEATHS {
            let leftover = cache.join("v2/txn/fetch-0123456789abcdef");
            if death > 0 {
                fs::write(&leftover, b"half").unwrap();
            }
            let mount = scene.spec(&cache).start();
            assert_eq!(files_below(&cache.join("v2/txn")), [] as [&Path; 0], "death {death}");
            let readers: Vec<_> = (0..8)
                .map(|reader| {
                    let path = mount.path(&names[(death * 7 + reader * 11) % names.len()]);
                    std::thread::spawn(move || fs::read(path))
                })
                .collect();
            let seen = scene.server.count("*/data/*");
            // From none to several more requests, then the end, wherever they are.
            let _ = scene.server.wait_for("*/data/*", seen + death % 5, SOON / 100);
            kill(mount.pid(), Signal::SIGKILL).unwrap();
            for reader in readers {
                match reader.join().unwrap() {
                    Ok(read) => assert!(right.contains(&read), "wrong bytes"),
                    Err(_) => died_amid += 1,
                }
            }
            drop(mount);
            for path in objects(&cache) {
                let found = path.metadata().unwrap();
                assert_eq!(u64::try_from(found.mtime()), Ok(found.len()), "{path:?}");
                if found.len() == SIZE as u64 {
                    assert!(right.contains(&fs::read(&path).unwrap()), "{path:?}");
                }
            }
        }
        assert!(died_amid >= DEATHS / 2, "only {died_amid} reads were interrupted");
        scene.server.clear();
        let mount = scene.spec(&cache).start();
        names.iter().for_each(|name| assert_read(&mount, name));
        assert!(names.iter().all(|name| scene.cached(&cache, name).exists()));
        println!("{DEATHS} deaths, {died_amid} reads interrupted");
    });
}

fn fill(path: &Path) {
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
}

#[test]
fn a_full_partition_costs_one_warning_and_heals() {
    private_mounts();
    deadline(LIMIT, || {
        let names = names("f", 30);
        let scene = Scene::new(&names);
        let disk = scene.disk();
        let _disk = Mounted::tmpfs(&disk, "size=2m,mode=700");
        let mount = scene.spec(&disk).arg("--quota=100M").start();
        assert!(mount.log().contains("quota is larger than the partition"), "{}", mount.log());
        let (first, rest) = names.split_at(5);
        first.iter().for_each(|name| assert_read(&mount, name));
        assert!(stored(&disk) > 4 * SIZE as u64, "nothing was cached");
        let full = disk.join("full");
        // What can be evicted goes first.
        let (second, rest) = rest.split_at(10);
        for name in second {
            fill(&full);
            assert_read(&mount, name);
        }
        let fails = || mount.log().matches("the cache fails").count();
        // Now nothing can be evicted any more.
        for object in objects(&disk) {
            fs::remove_file(object).unwrap();
            fill(&full);
        }
        let before = fails();
        let (third, rest) = rest.split_at(5);
        for name in third {
            assert_read(&mount, name);
        }
        assert!(fails() <= before + 1 && fails() > 0, "{}", mount.log());
        let missing = fs::metadata(mount.path("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        // A new mount on a full disk, too.
        let full_mount = scene.spec(&disk).start();
        names.iter().for_each(|name| assert_read(&full_mount, name));
        drop(full_mount);

        fs::remove_file(&full).unwrap();
        for name in rest {
            assert_read(&mount, name);
        }
        assert!(scene.cached(&disk, &rest[0]).exists(), "{}", mount.log());
        assert!(mount.log().contains("the cache works again"), "{}", mount.log());
        // Beyond its size the partition never goes, whatever the quota says.
        assert!(rest.len() * SIZE < 2 << 20 && stored(&disk) < 2 << 20);
        assert!(mount.unmount().success());
    });
}

#[test]
fn a_read_only_volume_is_used_for_what_it_has() {
    private_mounts();
    deadline(LIMIT, || {
        let names = names("f", 6);
        let scene = Scene::new(&names);
        let (warm, cold) = names.split_at(3);
        let mount = scene.spec(&scene.cache()).start();
        warm.iter().for_each(|name| assert_read(&mount, name));
        drop(mount);
        let disk = scene.disk();
        let _volume = Mounted::read_only(&scene.cache(), &disk);
        let written = fs::write(disk.join("x"), b"").unwrap_err();
        assert_eq!(written.raw_os_error(), Some(libc::EROFS));
        let before = objects(&scene.cache()).len();
        scene.server.reset_log();
        let mount = scene.spec(&disk).start();
        warm.iter().for_each(|name| assert_read(&mount, name));
        assert_eq!(scene.server.count("*/data/*"), 0, "{:?}", scene.server.requests());
        cold.iter().for_each(|name| assert_read(&mount, name));
        assert_eq!(scene.server.count("*/data/*"), cold.len());
        assert!(mount.log().contains("the cache can only be read"), "{}", mount.log());
        assert_eq!(objects(&scene.cache()).len(), before);
        // And without a server what it has is still there.
        scene.server.set_network(Network::Refusing);
        warm.iter().for_each(|name| assert_read(&mount, name));
        assert!(mount.unmount().success());
    });
}

/// A file system of 32 MB in a file; `None` where there are no loop devices.
struct Ext4<'a>(&'a Path);

impl<'a> Ext4<'a> {
    fn on(image: &Path, path: &'a Path) -> Option<Self> {
        File::create(image).unwrap().set_len(32 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image).status();
        assert!(made.unwrap().success());
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(image).arg(path).output();
        let mounted = mounted.unwrap();
        if !mounted.status.success() {
            println!("NOT TESTED, no loop device: {}", String::from_utf8_lossy(&mounted.stderr));
            return None;
        }
        fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
        Some(Self(path))
    }

    /// Lets every access to the disk fail with EIO, as if it had been pulled out.
    fn pull_out(&self) {
        /// `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        const WITHOUT_FLUSH: u32 = 2;
        let flags = WITHOUT_FLUSH;
        let directory = File::open(self.0).unwrap();
        // SAFETY: the request reads one number, which lives here.
        let result = unsafe { libc::ioctl(directory.as_raw_fd(), SHUTDOWN, &raw const flags) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    /// Turns read-only at once, as after an error, although files are open for writing.
    fn abort(&self) {
        let aborted = Command::new("mount").args(["-o", "remount,abort"]).arg(self.0).status();
        // It says whether it liked that; what counts is that nothing can be written any more.
        let _ = aborted.unwrap();
        assert!(fs::write(self.0.join("x"), b"x").is_err(), "still writable");
    }
}

impl Drop for Ext4<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_disk_that_turns_read_only_or_is_pulled_out_is_survived() {
    private_mounts();
    deadline(LIMIT, || {
        let names = names("f", 9);
        for what in ["read-only", "pulled out"] {
            let scene = Scene::new(&names);
            let disk = scene.disk();
            let Some(ext4) = Ext4::on(&scene.scratch.path().join("image"), &disk) else { return };
            let earlier = scene.spec(&disk).start();
            let (warm, cold) = names.split_at(4);
            warm.iter().for_each(|name| assert_read(&earlier, name));
            drop(earlier);
            let mount = scene.spec(&disk).start();
            assert_read(&mount, &warm[0]);
            match what {
                "read-only" => ext4.abort(),
                _ => ext4.pull_out(),
            }
            for name in cold.iter().chain(warm) {
                assert_read(&mount, name);
            }
            let missing = fs::metadata(mount.path("missing")).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound, "{what}");
            assert_eq!(
                mount.log().matches("the cache fails").count(),
                1,
                "{what}: {}",
                mount.log()
            );
            if what == "read-only" {
                scene.server.set_network(Network::Refusing);
                // Not read by this mount before.
                assert_read(&mount, &warm[0]);
                scene.server.set_network(Network::Up);
                let next = scene.spec(&disk).start();
                scene.server.reset_log();
                warm.iter().for_each(|name| assert_read(&next, name));
                assert_eq!(scene.server.count("*/data/*"), 0, "{what}: cached ones are used");
                cold.iter().for_each(|name| assert_read(&next, name));
            }
            drop(mount);
        }
    });
}

#[test]
fn a_deleted_cache_is_made_again_under_a_live_mount() {
    deadline(LIMIT, || {
        let names = names("f", 8);
        let scene = Scene::new(&names);
        let cache = scene.cache();
        let mount = scene.spec(&cache).start();
        for (part, wiped) in [("objects", "v2/objects"), ("v2", "v2"), ("all", "")] {
            assert_read(&mount, &names[0]);
            fs::remove_dir_all(cache.join(wiped)).unwrap();
            let name = match part {
                "objects" => &names[1],
                "v2" => &names[2],
                _ => &names[3],
            };
            for name in [&names[0], name] {
                assert_read(&mount, name);
            }
            assert!(scene.cached(&cache, name).exists(), "{part}: not cached\n{}", mount.log());
            assert_eq!(cache.metadata().unwrap().mode() & 0o7777, 0o700, "{part}");
        }
        assert!(!mount.log().contains("the cache fails"), "{}", mount.log());
        drop(mount);
        let mount = scene.spec(&cache).start();
        names.iter().for_each(|name| assert_read(&mount, name));
    });
}

#[test]
fn what_is_larger_than_the_quota_is_streamed() {
    const QUOTA: u64 = 1 << 20;
    deadline(LIMIT, || {
        let mut large = vec![0; 40 << 20];
        StdRng::seed_from_u64(1).fill_bytes(&mut large);
        let mut repo = TestRepo::new(FQRN);
        repo.file("/large", large.clone());
        repo.file("/small", content("small"));
        let scene = Scene::of(repo.publish());
        let cache = scene.cache();
        let mount = scene.spec(&cache).arg("--quota=1M").start();
        assert_read(&mount, "small");
        assert!(fs::read(mount.path("large")).unwrap() == large, "wrong bytes");
        assert!(stored(&cache) <= QUOTA);
        assert!(!scene.cached(&cache, "large").exists());
        let object = scene.object("large");
        assert_eq!(scene.server.count(&format!("*/{}", object.relative_path())), 1);
        // It pushed nobody out.
        assert!(scene.cached(&cache, "small").exists());
        assert!(!mount.log().contains("the cache fails"), "{}", mount.log());
    });
}

#[test]
fn two_clients_of_one_cache_end_on_the_newest_of_twenty_revisions() {
    const REVISIONS: u64 = 20;
    deadline(LIMIT, || {
        let text = |number: u64| format!("revision {number}").repeat(1000).into_bytes();
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(1);
        repo.file("/f", text(1));
        let scene = Scene::of(repo.publish());
        let mounts = [(); 2].map(|()| scene.spec(&scene.cache()).start());
        for number in 2..=REVISIONS {
            repo.file("/f", text(number));
            repo.publish();
            // Now the one is first, now the other, now some are left out.
            let first = &mounts[usize::try_from(number % 2).unwrap()];
            wait_until(SOON, "next revision", || first.revision() >= number - 1).unwrap();
        }
        for mount in &mounts {
            wait_until(SOON, "newest revision", || mount.revision() == REVISIONS).unwrap();
            wait_until(SOON, "newest content", || {
                let read = fs::read(mount.path("f")).unwrap();
                let whole = (1..=REVISIONS).any(|number| read == text(number));
                assert!(whole, "a mixture");
                read == text(REVISIONS)
            })
            .unwrap();
            assert!(!mount.log().contains("the cache fails"), "{}", mount.log());
        }
    });
}
