//! Another container on the same cache volume that wishes us ill (row T18 of facts/behaviours.md).
//!
//! The first half is direct mode: a mount of root and a sibling of another user share a directory
//! by their group. Its members are trusted not to *forge* (`cvmfs-cache/src/sharing.rs`): who makes
//! a file with seal and checksum of wrong bytes is believed. All else must cost time at most: right
//! bytes, or EIO where the network fails too; no hang; nothing outside of the directory is
//! touched. The second half is a broker, where nobody is trusted.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests may die, too; workers talk to the test"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cvmfs_cache::DiskCache;
use cvmfs_core::cache::ObjectCache as _;
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, TestServer};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod, utimensat};
use nix::unistd::{Gid, Uid, mkfifo, setfsgid, setfsuid};
use tests::apart::{Mounted, Worker, child, private_mounts, share_directory, told};
use tests::walk::{Walk, get_xattr, walk};
use tests::watchdog::bounded;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
/// No read takes longer, whatever the sibling does.
const PATIENCE: Duration = Duration::from_secs(15);
const FQRN: &str = "hostile.test.repo";
const GROUP: u32 = 5001;
const SIBLING: u32 = 1002;
const SIZE: usize = 5000;
/// Read by an earlier mount: the target of attacks, and a bystander.
const WARM: [&str; 3] = ["target", "bystander", "another"];
/// Read after the attack for the first time.
const COLD: [&str; 2] = ["cold", "colder"];

/// Files for tests that need a new one for each attempt.
const SPARE: usize = 100;

fn spare(number: usize) -> String {
    format!("spare{number}")
}

/// All of one size, so that nothing but the bytes tells them apart.
fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(SIZE).collect()
}

/// Runs something with the file rights of the sibling.
fn as_sibling<T>(act: impl FnOnce() -> T) -> T {
    setfsgid(Gid::from_raw(GROUP));
    setfsuid(Uid::from_raw(SIBLING));
    let result = act();
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    result
}

struct Scene {
    scratch: tempfile::TempDir,
    server: TestServer,
    published: Published,
    quota: &'static str,
}

impl Scene {
    /// A cache with [`WARM`] in it, and outside of it what nobody may touch.
    fn new() -> Self {
        let mut repo = TestRepo::new(FQRN);
        for name in WARM.iter().chain(&COLD) {
            repo.file(format!("/{name}"), content(name));
        }
        for number in 0..SPARE {
            let name = spare(number);
            repo.file(format!("/{name}"), content(&name));
        }
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o711)).unwrap();
        share_directory(&scratch.path().join("cache"), GROUP);
        let scene = Self { scratch, server, published, quota: "100M" };
        let mount = scene.mount();
        for name in WARM {
            scene.assert_right(&mount, name, "before");
        }
        drop(mount);
        let outside = scene.outside();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), b"precious").unwrap();
        // Where a link to it would lead to other bytes with seal and checksum.
        let trap = outside.join("trap");
        let copied = Command::new("cp").arg("-a").arg(scene.root()).arg(&trap).status();
        assert!(copied.unwrap().success());
        let [target, another] = ["target", "another"]
            .map(|name| trap.join(scene.object(name).strip_prefix(scene.root()).unwrap()));
        assert!(fs::read(&target).unwrap() == content("target"));
        fs::remove_file(&target).unwrap();
        let copied = Command::new("cp").arg("-a").args([&another, &target]).status();
        assert!(copied.unwrap().success());
        // Nothing but its own caution keeps a client, or the sibling, from writing there.
        let open = ["find", "-type", "d", "-exec", "chmod", "a+rwx", "{}", "+"];
        let opened = Command::new(open[0]).arg(&outside).args(&open[1..]).status();
        assert!(opened.unwrap().success());
        fs::set_permissions(scene.precious(), PermissionsExt::from_mode(0o666)).unwrap();
        scene
    }

    fn cache(&self) -> PathBuf {
        self.scratch.path().join("cache")
    }

    fn root(&self) -> PathBuf {
        self.cache().join("v2")
    }

    fn outside(&self) -> PathBuf {
        self.scratch.path().join("outside")
    }

    fn precious(&self) -> PathBuf {
        self.outside().join("precious")
    }

    fn spec(&self) -> MountSpec {
        MountSpec::published(&client!(), &self.published, &[&self.server])
            .impatient()
            .cache_dir(&self.cache())
            .arg(format!("--quota={}", self.quota))
    }

    fn mount(&self) -> TestMount {
        self.spec().start()
    }

    /// What this user remembers of the repository.
    fn record(&self) -> PathBuf {
        let records = fs::read_dir(self.root().join("records")).unwrap().flatten();
        let is_record = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.contains(FQRN) && !name.ends_with(".lock") && !name.ends_with(".new")
        };
        records.map(|entry| entry.path()).find(is_record).expect("a mount remembers its letters")
    }

    /// The file of the cache that holds a file of the repository.
    fn object(&self, name: &str) -> PathBuf {
        let hash = self.published.file_object(format!("/{name}")).unwrap().hash.to_string();
        let (fan, rest) = hash.split_at(2);
        self.root().join("objects").join(fan).join(rest)
    }

    #[track_caller]
    fn assert_right(&self, mount: &TestMount, name: &str, attack: &str) {
        let path = mount.path(name);
        let read = bounded(PATIENCE, move || fs::read(path));
        let read = read.unwrap_or_else(|| panic!("{attack}: {name} hangs\n{}", mount.log()));
        let read =
            read.unwrap_or_else(|error| panic!("{attack}: {name}: {error}\n{}", mount.log()));
        assert!(read == content(name), "{attack}: wrong bytes in {name}\n{}", mount.log());
    }

    /// Right bytes or EIO.
    #[track_caller]
    fn assert_not_wrong(&self, mount: &TestMount, name: &str, attack: &str) {
        let path = mount.path(name);
        match bounded(PATIENCE, move || fs::read(path)) {
            None => panic!("{attack}: {name} hangs\n{}", mount.log()),
            Some(Ok(read)) => assert!(read == content(name), "{attack}: wrong bytes in {name}"),
            Some(Err(error)) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{attack}"),
        }
    }
}

/// What a sibling does, and whether the cache can still be mounted after it.
type Attack = (&'static str, fn(&Scene));

/// Attacks under a live mount, then with a new one, and both without a network.
fn survives(attacks: &[Attack]) {
    deadline(LIMIT, || {
        let shadow = fs::read("/etc/shadow").unwrap();
        for (name, attack) in attacks {
            let scene = Scene::new();
            let live = scene.mount();
            let before = outside(&scene);
            attack(&scene);
            for file in ["target", "bystander", COLD[0], "target"] {
                scene.assert_right(&live, file, name);
            }
            // Again from the start, with what the first mount made of it.
            attack(&scene);
            match scene.spec().try_start() {
                Ok(mount) => {
                    for file in ["target", "another", COLD[1]] {
                        scene.assert_right(&mount, file, name);
                    }
                }
                // "Cache directory": it is not one any more. Never anything else.
                Err(failure) => assert_eq!(failure.code, Some(9), "{name}: {failure}"),
            }
            attack(&scene);
            scene.server.set_network(Network::Refusing);
            for file in ["another", COLD[1], "target"] {
                scene.assert_not_wrong(&live, file, name);
            }
            assert_eq!(before, outside(&scene), "{name}: something outside was touched");
            assert!(live.unmount().success(), "{name}");
        }
        assert!(fs::read("/etc/shadow").unwrap() == shadow);
    });
}

fn outside(scene: &Scene) -> Walk {
    walk(&scene.outside())
}

/// Puts something in the place of the target, whatever is there.
fn replace(scene: &Scene, make: impl FnOnce(&Path)) {
    as_sibling(|| {
        let path = scene.object("target");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        remove(&path);
        make(&path);
    });
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Sets the time that says that a file of this size is whole.
fn seal(path: &Path, size: usize) {
    let time = nix::sys::time::TimeSpec::new(i64::try_from(size).unwrap(), 0);
    let follow = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, follow).unwrap();
}

/// Makes a file with seal and checksum that is right in all but its name: what a member of the
/// group could do, and is trusted not to.
fn forge(scene: &Scene, path: &Path) {
    let trap = scene.outside().join("trap");
    let target = scene.object("target");
    let whole = trap.join(target.strip_prefix(scene.root()).unwrap());
    remove(path);
    assert!(Command::new("cp").arg("-a").arg(whole).arg(path).status().unwrap().success());
}

const CHECKSUM: &str = "user.cvmfs-fuse.blake3";

fn set_checksum(path: &Path, checksum: &[u8]) {
    let value: String = checksum.iter().map(|byte| format!("{byte:02x}")).collect();
    let set = Command::new("setfattr")
        .args(["-n", CHECKSUM, "-v", &format!("0x{value}")])
        .arg(path)
        .status()
        .expect("apt-get install attr");
    assert!(set.success());
}

/// Without this the attacks with forged files would show nothing.
#[test]
fn a_forged_object_is_believed_in_direct_mode() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        forge(&scene, &scene.object("target"));
        let mount = scene.mount();
        assert!(fs::read(mount.path("target")).unwrap() == content("another"));
    });
}

#[test]
fn bytes_in_place_of_an_object() {
    survives(&[
        ("other bytes", |scene| {
            replace(scene, |path| fs::write(path, b"something else").unwrap());
        }),
        ("nothing", |scene| replace(scene, |path| fs::write(path, b"").unwrap())),
        ("other bytes, sealed", |scene| {
            replace(scene, |path| {
                fs::write(path, content("evil")).unwrap();
                seal(path, SIZE);
            });
        }),
        ("other bytes, sealed, with the checksum of before", |scene| {
            let checksum = get_xattr(&scene.object("another"), CHECKSUM.as_bytes());
            let checksum = checksum.unwrap_or(vec![7; 32]);
            replace(scene, |path| fs::write(path, content("evil")).unwrap());
            let path = scene.object("target");
            set_checksum(&path, &checksum);
            seal(&path, SIZE);
        }),
        ("removed", |scene| replace(scene, |_| ())),
        ("a hard link to a whole object", |scene| {
            let decoy = scene.cache().join("decoy");
            forge(scene, &decoy);
            replace(scene, |_| ());
            fs::hard_link(decoy, scene.object("target")).unwrap();
        }),
        ("a whole object of a user outside of the group", |scene| {
            replace(scene, |_| ());
            forge(scene, &scene.object("target"));
            chown(scene.object("target"), Some(4711), Some(4711)).unwrap();
        }),
        ("a whole object that everybody can write", |scene| {
            replace(scene, |_| ());
            forge(scene, &scene.object("target"));
            let everybody = PermissionsExt::from_mode(0o666);
            fs::set_permissions(scene.object("target"), everybody).unwrap();
        }),
        ("everything removed", |scene| {
            as_sibling(|| {
                for entry in fs::read_dir(scene.cache()).unwrap() {
                    let _ = fs::remove_dir_all(entry.unwrap().path());
                }
            });
            remove(&scene.root());
        }),
    ]);
}

#[test]
fn other_things_in_place_of_an_object() {
    survives(&[
        ("a link to /etc/shadow", |scene| {
            replace(scene, |path| symlink("/etc/shadow", path).unwrap());
        }),
        ("a link to a sealed file outside", |scene| {
            let trap = scene
                .outside()
                .join("trap")
                .join(scene.object("target").strip_prefix(scene.root()).unwrap());
            replace(scene, |path| symlink(trap, path).unwrap());
        }),
        ("a link to itself", |scene| {
            replace(scene, |path| symlink(path.file_name().unwrap(), path).unwrap());
        }),
        ("a fifo", |scene| {
            replace(scene, |path| mkfifo(path, Mode::from_bits_truncate(0o666)).unwrap());
        }),
        ("a socket", |scene| {
            // Longer paths have no socket.
            let short = scene.cache().join("s");
            remove(&short);
            drop(UnixListener::bind(&short).unwrap());
            replace(scene, |path| fs::rename(short, path).unwrap());
        }),
        ("a directory", |scene| replace(scene, |path| fs::create_dir(path).unwrap())),
        ("a full directory", |scene| {
            replace(scene, |path| {
                fs::create_dir(path).unwrap();
                fs::write(path.join("in"), b"in").unwrap();
            });
        }),
        ("an endless device", |scene| {
            replace(scene, |_| ());
            let everybody = Mode::from_bits_truncate(0o666);
            mknod(&scene.object("target"), SFlag::S_IFCHR, everybody, makedev(1, 5)).unwrap();
        }),
        ("a block device", |scene| {
            replace(scene, |_| ());
            let everybody = Mode::from_bits_truncate(0o666);
            // Of no driver: opening it must not do anything.
            mknod(&scene.object("target"), SFlag::S_IFBLK, everybody, makedev(60, 0)).unwrap();
        }),
    ]);
}

/// Moves a directory of the cache away and puts a link to one outside in its place.
fn link_outside(scene: &Scene, name: &str) {
    as_sibling(|| {
        let path = scene.root().join(name);
        let _ = fs::rename(&path, scene.cache().join(format!("away-{}", name.replace('/', "-"))));
        remove(&path);
        symlink(scene.outside().join("trap").join(name), path).unwrap();
    });
}

#[test]
fn directories_that_lead_outside() {
    survives(&[
        ("objects", |scene| link_outside(scene, "objects")),
        ("the directory of the target", |scene| {
            let parent = scene.object("target").parent().unwrap().to_owned();
            let name = parent.strip_prefix(scene.root()).unwrap();
            link_outside(scene, name.to_str().unwrap());
        }),
        ("txn", |scene| link_outside(scene, "txn")),
        ("records", |scene| link_outside(scene, "records")),
        ("sessions", |scene| link_outside(scene, "sessions")),
        ("quarantine", |scene| {
            link_outside(scene, "quarantine");
            replace(scene, |path| fs::write(path, b"to be set aside").unwrap());
        }),
        ("all", |scene| {
            as_sibling(|| {
                let _ = fs::rename(scene.root(), scene.cache().join("away"));
                remove(&scene.root());
                symlink(scene.outside().join("trap"), scene.root()).unwrap();
            });
        }),
    ]);
}

#[test]
fn files_in_place_of_directories() {
    fn file(scene: &Scene, name: &str) {
        as_sibling(|| {
            remove(&scene.root().join(name));
            fs::write(scene.root().join(name), b"no directory").unwrap();
        });
    }
    survives(&[
        ("objects", |scene| file(scene, "objects")),
        ("txn", |scene| file(scene, "txn")),
        ("records", |scene| file(scene, "records")),
        ("sessions", |scene| file(scene, "sessions")),
        ("v2", |scene| {
            remove(&scene.root());
            fs::write(scene.root(), b"no directory").unwrap();
        }),
    ]);
}

fn replace_control(scene: &Scene, name: &str, make: impl FnOnce(&Path)) {
    as_sibling(|| {
        let path = scene.root().join(name);
        remove(&path);
        make(&path);
    });
}

const CONTROLS: [&str; 6] =
    ["gauge", "evict.lock", "scan.lock", "index.sqlite", "index.sqlite-journal", "CACHEDIR.TAG"];

#[test]
fn control_files_that_are_something_else() {
    fn all(scene: &Scene, make: impl Fn(&Path)) {
        for name in CONTROLS {
            replace_control(scene, name, &make);
        }
    }
    survives(&[
        ("links to a file outside", |scene| {
            all(scene, |path| symlink(scene.precious(), path).unwrap());
        }),
        ("fifos", |scene| {
            all(scene, |path| mkfifo(path, Mode::from_bits_truncate(0o666)).unwrap());
        }),
        ("directories", |scene| all(scene, |path| fs::create_dir(path).unwrap())),
        ("garbage", |scene| all(scene, |path| fs::write(path, [0xfe; 9000]).unwrap())),
        ("sparse and huge", |scene| {
            all(scene, |path| File::create(path).unwrap().set_len(1 << 40).unwrap());
        }),
        ("just below absurd", |scene| {
            let bytes = (1_u64 << 59).to_le_bytes().repeat(512);
            replace_control(scene, "gauge", |path| fs::write(path, bytes).unwrap());
        }),
        ("nothing stored at all", |scene| {
            replace_control(scene, "gauge", |path| fs::write(path, [0; 4096]).unwrap());
        }),
    ]);
}

fn forge_record(scene: &Scene) {
    // Made of public letters, so it needs no right to read ours.
    let record = scene.record();
    let own = fs::read_to_string(&record).unwrap();
    let forged = own.replace("\"revision\":1", "\"revision\":9223372036854775808");
    assert!(forged != own || own.contains("9223372036854775808"), "{own}");
    as_sibling(|| {
        remove(&record);
        fs::write(&record, forged).unwrap();
        fs::set_permissions(&record, PermissionsExt::from_mode(0o666)).unwrap();
    });
}

/// What another user says of revisions keeps nobody from those of the server.
#[test]
fn a_forged_record_is_not_believed() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        forge_record(&scene);
        let mount = scene.mount();
        let reason = mount.attribute("user.stale_reason");
        assert_eq!((mount.attribute("user.stale_since"), reason), (None, None));
        scene.assert_right(&mount, "target", "forged record");
    });
}

#[test]
fn records_of_another_user() {
    survives(&[
        ("a revision of 2^63", |scene| {
            forge_record(scene);
        }),
        ("links", |scene| {
            as_sibling(|| {
                for entry in fs::read_dir(scene.root().join("records")).unwrap() {
                    let path = entry.unwrap().path();
                    remove(&path);
                    symlink(scene.precious(), &path).unwrap();
                }
            });
        }),
        ("temporary names taken by links", |scene| {
            as_sibling(|| {
                for entry in fs::read_dir(scene.root().join("records")).unwrap() {
                    let mut path = entry.unwrap().path().into_os_string();
                    path.push(".new");
                    let _ = symlink(scene.precious(), path);
                }
            });
        }),
    ]);
}

#[test]
fn forged_rows_of_the_index_lead_nowhere() {
    deadline(LIMIT, || {
        let mut scene = Scene::new();
        // So small that everything stored pushes something out.
        scene.quota = "40K";
        let before = outside(&scene);
        let index = rusqlite::Connection::open(scene.root().join("index.sqlite")).unwrap();
        let up = "../".repeat(9);
        let precious = scene.precious();
        let precious = precious.to_str().unwrap();
        for name in [
            "../../../outside/precious".to_owned(),
            "00/../../../../outside/precious".to_owned(),
            format!("ab/{up}{precious}"),
            precious.to_owned(),
            format!("/{precious}"),
            String::new(),
            "..".to_owned(),
            "00/..".to_owned(),
            format!("00/{}/../../../../outside/precious", "0".repeat(38)),
            "gauge".to_owned(),
        ] {
            let columns = "INSERT INTO objects (name, size, used, volatile, label)";
            let row = format!("{columns} VALUES (?1, 9223372036854775807, -1, 1, '')");
            index.execute(&row, [name]).unwrap();
        }
        drop(index);
        let mount = scene.mount();
        for _ in 0..3 {
            for name in WARM.iter().chain(&COLD) {
                scene.assert_right(&mount, name, "forged rows");
            }
        }
        let index = scene.root().join("index.sqlite");
        // They are victims like others, and go without anything being removed for them.
        wait_until(Duration::from_secs(30), "end of the forged rows", || {
            let index = rusqlite::Connection::open(&index).unwrap();
            let rows = index.query_row("SELECT count(*) FROM objects WHERE used < 0", [], |row| {
                row.get::<_, i64>(0)
            });
            rows.is_ok_and(|rows| rows == 0)
        })
        .unwrap();
        drop(mount);
        assert_eq!(before, outside(&scene));
    });
}

/// A gauge of lies is no reason never to keep anything again.
#[test]
fn a_gauge_that_lies_is_put_right() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        let mount = scene.mount();
        // Not in time for the count that every new index gets.
        let index = scene.root().join("index.sqlite");
        wait_until(Duration::from_secs(30), "first count", || {
            let index = rusqlite::Connection::open(&index).unwrap();
            let due = "SELECT value FROM state WHERE key = 'count_due'";
            index.query_row(due, [], |row| row.get::<_, i64>(0)).is_ok_and(|due| due == 0)
        })
        .unwrap();
        let lie = (1_u64 << 40).to_le_bytes().repeat(512);
        fs::write(scene.root().join("gauge"), lie).unwrap();
        for name in WARM {
            scene.assert_right(&mount, name, "gauge");
        }
        // A count finds the truth, a directory after the other, once there is no room.
        let mut kept = (0..SPARE).map(|number| {
            let name = spare(number);
            scene.assert_right(&mount, &name, "gauge");
            scene.object(&name).exists()
        });
        let _ = kept.next();
        wait_until(Duration::from_secs(60), "a gauge without lies", || {
            let gauge = fs::read(scene.root().join("gauge")).unwrap();
            gauge.as_chunks::<8>().0.iter().all(|word| u64::from_le_bytes(*word) < 1 << 40)
        })
        .unwrap();
        wait_until(Duration::from_secs(60), "kept object", || {
            kept.next().expect("one of a hundred attempts succeeds")
        })
        .unwrap();
    });
}

/// The policy of direct mode: who forges seal and checksum is believed. Once the bytes change, the
/// time of change moves, which nobody can set back, and the next open of the file looks again,
/// also in a process that has looked before. (A live mount keeps what it has open.)
#[test]
fn a_change_through_a_kept_descriptor_is_found_at_the_next_open() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        let path = scene.object("target");
        let checksum = get_xattr(&path, CHECKSUM.as_bytes()).expect("objects have a checksum");
        replace(&scene, |path| fs::write(path, content("target")).unwrap());
        let kept = as_sibling(|| File::options().write(true).open(&path)).unwrap();
        set_checksum(&path, &checksum);
        seal(&path, SIZE);

        let object = scene.published.file_object("/target").unwrap();
        let asked = || scene.server.count(&format!("*/{}", object.relative_path()));
        scene.server.reset_log();
        let first = scene.mount();
        scene.assert_right(&first, "target", "before the change");
        assert_eq!(asked(), 0, "the file of the sibling is right, and used");
        let cache = DiskCache::open(scene.cache()).unwrap();
        let id = ObjectId {
            hash: object.hash.to_string().parse().unwrap(),
            kind: ObjectKind::Data,
            compression: Compression::Zlib,
        };
        let open = || cache.open(&id).unwrap().map(|object| object.read_all(1 << 20).unwrap());
        for _ in 0..2 {
            assert!(open().unwrap() == content("target"));
        }

        kept.write_all_at(&content("evil"), 0).unwrap();
        seal(&path, SIZE);
        assert!(open().is_none(), "it was verified before it changed");
        // Set aside by that; put back for those who have not seen it.
        let aside = fs::read_dir(scene.root().join("quarantine")).unwrap().next().unwrap().unwrap();
        fs::rename(aside.path(), &path).unwrap();
        let second = scene.mount();
        scene.assert_right(&second, "target", "changed");
        assert_eq!(asked(), 1);
        // The mended object is not the sibling's any more.
        kept.write_all_at(&content("worse"), 0).unwrap();
        assert!(open().unwrap() == content("target"));
        scene.assert_right(&scene.mount(), "target", "changed again");
        assert_eq!(asked(), 1);
    });
}

#[test]
fn a_file_that_grows_for_ever() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        let mount = scene.mount();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let path = scene.object("target");
            replace(&scene, |path| fs::write(path, content("evil")).unwrap());
            seal(&path, SIZE);
            let mut file = File::options().append(true).open(&path).unwrap();
            let stop = &stop;
            scope.spawn(move || {
                let piece = [b'x'; 64];
                while !stop.load(Ordering::Relaxed) && file.metadata().unwrap().len() < 1 << 28 {
                    file.write_all(&piece).unwrap();
                }
            });
            for _ in 0..5 {
                scene.assert_right(&mount, "target", "grows");
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

/// Not a test: takes all locks there are, and a session in which everything is pinned.
#[test]
#[ignore = "run by other tests"]
fn holder() {
    let Some([root]) = told() else { return };
    let root = Path::new(&root);
    let mut held = Vec::new();
    let mut hold = |path: PathBuf| {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        if let Ok(lock) = Flock::lock(file.unwrap(), FlockArg::LockExclusiveNonblock) {
            held.push(lock);
        }
    };
    for name in ["gauge", "evict.lock", "scan.lock"] {
        hold(root.join(name));
    }
    for directory in ["records", "sessions"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            hold(entry.unwrap().path());
        }
    }
    let mut pins = String::new();
    for fan in fs::read_dir(root.join("objects")).unwrap() {
        let fan = fan.unwrap();
        for object in fs::read_dir(fan.path()).unwrap() {
            let (fan, object) = (fan.file_name(), object.unwrap().file_name());
            pins.push_str(&format!("{}/{}\n", fan.display(), object.display()));
        }
    }
    let session = root.join("sessions/00000000deadbeef");
    fs::write(&session, pins).unwrap();
    hold(session);
    let index = rusqlite::Connection::open(root.join("index.sqlite")).unwrap();
    index.execute_batch("BEGIN EXCLUSIVE").unwrap();
    println!("locks are held");
    std::io::stdin().lines().next();
}

#[test]
fn a_stopped_process_with_all_locks_stops_nobody() {
    deadline(LIMIT, || {
        let mut scene = Scene::new();
        // Nothing fits, and nothing can be evicted.
        scene.quota = "20K";
        let live = scene.mount();
        let mut holder = child("holder", &[scene.root().to_str().unwrap()]);
        holder.hear("locks are held");
        holder.signal(Signal::SIGSTOP);
        for name in WARM.iter().chain(&COLD) {
            scene.assert_right(&live, name, "stopped");
        }
        let mount = scene.mount();
        for name in WARM.iter().chain(&COLD) {
            scene.assert_right(&mount, name, "stopped");
        }
        assert!(mount.unmount().success());
        holder.signal(Signal::SIGKILL);
        drop(holder);
        for name in WARM {
            scene.assert_right(&live, name, "let go");
        }
        assert!(live.unmount().success());
    });
}

#[test]
fn a_disk_filled_by_the_sibling() {
    private_mounts();
    deadline(LIMIT, || {
        let scene = Scene::new();
        let before = outside(&scene);
        let cache = scene.cache();
        let _disk = Mounted::tmpfs(&cache, &format!("size=4m,mode=2770,gid={GROUP}"));
        let live = scene.mount();
        scene.assert_right(&live, "target", "empty disk");
        let full = cache.join("full");
        as_sibling(|| {
            let mut file = File::create(&full).unwrap();
            while file.write_all(&[1; 4096]).is_ok() {}
        });
        for name in WARM.iter().chain(&COLD) {
            scene.assert_right(&live, name, "full disk");
        }
        let second = scene.mount();
        for name in WARM.iter().chain(&COLD) {
            scene.assert_right(&second, name, "full disk");
        }
        as_sibling(|| fs::remove_file(&full)).unwrap();
        assert!(second.unmount().success());
        let third = scene.mount();
        scene.assert_right(&third, COLD[0], "space again");
        assert!(scene.object(COLD[0]).exists(), "not cached again");
        drop((live, third));
        assert_eq!(before, outside(&scene));
    });
}

#[path = "hostile_sibling/broker.rs"]
mod broker;
