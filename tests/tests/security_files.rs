//! Attacks on what processes of root make, open, rename and give away by path, where another user prepared the
//! place; and on what they leave behind.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{
    MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, lchown, symlink,
};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use tests::apart::as_user;
use tests::site::shown;
use tests::watchdog::bounded;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(150);
/// No read takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Who attacks.
const ATTACKER: u32 = 1002;

/// A directory that everybody can write to, as `/tmp`, with a precious file of root beside it.
struct Ground {
    scratch: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let ground = Self { scratch };
        fs::create_dir(ground.tmp()).unwrap();
        fs::set_permissions(ground.tmp(), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::write(ground.precious(), "precious").unwrap();
        fs::set_permissions(ground.precious(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(ground.outside()).unwrap();
        ground
    }

    fn tmp(&self) -> PathBuf {
        self.scratch.path().join("tmp")
    }

    fn precious(&self) -> PathBuf {
        self.scratch.path().join("precious")
    }

    /// A directory of root, where nothing is to appear.
    fn outside(&self) -> PathBuf {
        self.scratch.path().join("outside")
    }

    #[track_caller]
    fn assert_untouched(&self, attack: &str) {
        assert_eq!(fs::read(self.precious()).unwrap(), b"precious", "{attack}");
        let found = self.precious().metadata().unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 0, 0o600), "{attack}");
        let inside: Vec<_> = fs::read_dir(self.outside()).unwrap().flatten().collect();
        assert!(inside.is_empty(), "{attack}: {inside:?}");
    }

    /// A link of the attacker.
    fn link(&self, target: &Path, name: &str) -> PathBuf {
        let link = self.tmp().join(name);
        symlink(target, &link).unwrap();
        lchown(&link, Some(ATTACKER), Some(ATTACKER)).unwrap();
        link
    }

    /// A file of the attacker, who keeps it open.
    fn bait(&self, name: &str) -> (PathBuf, File) {
        let path = self.tmp().join(name);
        let file = File::options().read(true).append(true).create(true).open(&path).unwrap();
        chown(&path, Some(ATTACKER), Some(ATTACKER)).unwrap();
        (path, file)
    }
}

fn read_all(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Nothing there yet, or a pipe.
    let _ = file.read_to_end(&mut bytes);
    bytes
}

#[test]
fn h3_debug_logs_of_root_in_tmp_go_to_no_file_of_others() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let ground = Ground::new();
        let hard = ground.tmp().join("hard.log");
        fs::hard_link(ground.precious(), &hard).unwrap();
        let soft = ground.link(&ground.precious(), "soft.log");
        let through = ground.link(&ground.outside(), "through").join("x.log");
        let (bait, kept) = ground.bait("bait.log");
        let theirs = ground.tmp().join("theirs");
        fs::create_dir(&theirs).unwrap();
        chown(&theirs, Some(ATTACKER), None).unwrap();
        let pipe = ground.tmp().join("pipe.log");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        chown(&pipe, Some(ATTACKER), None).unwrap();
        let mut open = File::options();
        let reader = open.read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
        for path in [hard, soft, through, bait, theirs.join("x.log"), pipe] {
            for parameter in ["CVMFS_DEBUGLOG", "CVMFS_USYSLOG"] {
                let mount = MountSpec::genuine(&client!(), &genuine, &server)
                    .arg(format!("--set={parameter}={}", path.display()))
                    .start();
                assert!(mount.root().join("hello.txt").exists(), "a log is no reason not to mount");
                assert!(mount.log().contains("a log cannot be opened"), "{path:?} {}", mount.log());
                drop(mount);
                ground.assert_untouched(&format!("{parameter} {path:?}"));
            }
        }
        assert_eq!(read_all(&kept), b"", "the attacker reads the log of root");
        assert_eq!(read_all(&reader), b"");
        assert_eq!(fs::read_dir(theirs).unwrap().count(), 0);
        // A name that nobody has taken is as good as anywhere.
        let free = ground.tmp().join("free.log");
        let mount = MountSpec::genuine(&client!(), &genuine, &server)
            .arg(format!("--set=CVMFS_DEBUGLOG={}", free.display()))
            .start();
        drop(mount);
        assert!(free.metadata().unwrap().len() > 0);
        assert_eq!(free.metadata().unwrap().mode() & 0o7777, 0o640);
    });
}

#[test]
fn h3_a_report_replaces_what_others_prepared_under_its_name() {
    deadline(LIMIT, || {
        let ground = Ground::new();
        let report =
            |path: &Path| client!().command().args(["bugreport", "-o"]).arg(path).output().unwrap();
        let hard = ground.tmp().join("hard");
        fs::hard_link(ground.precious(), &hard).unwrap();
        let soft = ground.link(&ground.precious(), "soft");
        let (bait, kept) = ground.bait("bait");
        for path in [&hard, &soft, &bait] {
            let output = report(path);
            assert!(output.status.success(), "{}", shown(&output));
            ground.assert_untouched(&format!("{path:?}"));
            let found = path.symlink_metadata().unwrap();
            assert!(found.is_file() && found.len() > 0);
            assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600));
        }
        assert_eq!(read_all(&kept), b"", "the attacker reads the report of root");
        let through = ground.link(&ground.outside(), "through");
        let output = report(&through.join("x"));
        assert!(!output.status.success());
        assert!(shown(&output).contains("symbolic link of user 1002"), "{}", shown(&output));
        ground.assert_untouched("through a link");
    });
}

#[test]
fn h3_an_alien_cache_gives_nothing_away_that_others_put_there() {
    deadline(LIMIT, || {
        let ground = Ground::new();
        let prepared = |name: &str| {
            let directory = ground.tmp().join(name);
            fs::create_dir(&directory).unwrap();
            chown(&directory, Some(ATTACKER), None).unwrap();
            directory
        };
        let (marker, links) = (prepared("marker"), prepared("links"));
        fs::hard_link(ground.precious(), marker.join(".cvmfscache")).unwrap();
        for name in ["00", "txn"] {
            symlink(ground.outside(), links.join(name)).unwrap();
        }
        symlink(ground.precious(), links.join("ff")).unwrap();
        let make = |directory: &Path| -> Output {
            let mut command = Command::new(client!().command().get_program());
            std::os::unix::process::CommandExt::arg0(&mut command, "cvmfs2");
            command.arg("__MK_ALIEN_CACHE__").arg(directory).args(["1002", "1002"]);
            command.output().unwrap()
        };
        for directory in [marker, links] {
            // Whether it succeeds is no matter.
            let _ = make(&directory);
            ground.assert_untouched("alien cache");
        }
        assert_eq!(ground.outside().metadata().unwrap().uid(), 0);
        let good = ground.tmp().join("good");
        let output = make(&good);
        assert!(output.status.success(), "{}", shown(&output));
        for name in ["", "00", "ff", "txn", ".cvmfscache"] {
            let found = good.join(name).metadata().unwrap();
            let mode = if found.is_dir() { 0o770 } else { 0o660 };
            assert_eq!((found.uid(), found.mode() & 0o7777), (1002, mode), "{name}");
        }
    });
}

const FQRN: &str = "swapped.test.repo";

/// A cache of root in a directory of the attacker, who can rename it.
struct Swapped {
    ground: Ground,
    server: TestServer,
    published: Published,
}

impl Swapped {
    fn new() -> Self {
        let mut repo = TestRepo::new(FQRN);
        for number in 0..20 {
            repo.file(format!("/file{number}"), format!("content {number}").into_bytes());
            repo.nested(format!("/nested{number}"));
            repo.file(format!("/nested{number}/in"), format!("inner {number}").into_bytes());
        }
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let ground = Ground::new();
        fs::create_dir(ground.tmp().join("home")).unwrap();
        chown(ground.tmp().join("home"), Some(ATTACKER), None).unwrap();
        Self { ground, server, published }
    }

    fn cache(&self) -> PathBuf {
        self.ground.tmp().join("home/cache")
    }

    fn spec(&self) -> MountSpec {
        MountSpec::published(&client!(), &self.published, &[&self.server])
            .impatient()
            .without_prefetch()
            .cache_dir(&self.cache())
    }

    #[track_caller]
    fn assert_reads(&self, mount: &TestMount, number: usize, attack: &str) {
        for (path, expected) in [
            (format!("file{number}"), format!("content {number}")),
            (format!("nested{number}/in"), format!("inner {number}")),
        ] {
            let path = mount.path(path);
            let read = bounded(PATIENCE, move || fs::read(path));
            let read = read.unwrap_or_else(|| panic!("{attack}: hangs\n{}", mount.log()));
            let read = read.unwrap_or_else(|error| panic!("{attack}: {error}\n{}", mount.log()));
            assert_eq!(String::from_utf8_lossy(&read), expected, "{attack}");
        }
    }
}

/// What the attacker puts in the place of the cache.
type Swap = (&'static str, fn(&Swapped));

const SWAPS: [Swap; 9] = [
    ("nothing", |_| {}),
    ("a link to a directory of root", |scene| {
        symlink(scene.ground.outside(), scene.cache()).unwrap();
    }),
    ("a link to a file of root", |scene| symlink(scene.ground.precious(), scene.cache()).unwrap()),
    ("a link to itself", |scene| symlink("cache", scene.cache()).unwrap()),
    ("a file", |scene| fs::write(scene.cache(), "x").unwrap()),
    ("a pipe", |scene| {
        nix::unistd::mkfifo(&scene.cache(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }),
    ("a directory for all", |scene| {
        fs::create_dir(scene.cache()).unwrap();
        fs::set_permissions(scene.cache(), fs::Permissions::from_mode(0o777)).unwrap();
    }),
    ("a directory whose v2 is a link", |scene| {
        fs::create_dir(scene.cache()).unwrap();
        symlink(scene.ground.outside(), scene.cache().join("v2")).unwrap();
    }),
    ("a directory with a v2 of their own", |scene| {
        fs::create_dir_all(scene.cache().join("v2/objects")).unwrap();
        fs::create_dir(scene.cache().join("v2/records")).unwrap();
    }),
];

#[test]
fn a_cache_directory_that_is_exchanged_leads_root_nowhere() {
    deadline(LIMIT, || {
        for (number, (attack, swap)) in SWAPS.iter().enumerate() {
            let scene = Swapped::new();
            let live = scene.spec().start();
            scene.assert_reads(&live, 0, "before");
            let away = scene.cache().with_file_name("away");
            as_user(ATTACKER, ATTACKER, || {
                fs::rename(scene.cache(), &away).unwrap();
                swap(&scene);
            });
            scene.assert_reads(&live, 0, attack);
            scene.assert_reads(&live, number + 1, attack);
            // A new mount uses it as far as it is safe, or says what is wrong with it.
            match scene.spec().try_start() {
                Ok(mount) => scene.assert_reads(&mount, number + 2, attack),
                Err(failure) => assert_eq!(failure.code, Some(9), "{attack}: {failure}"),
            }
            scene.assert_reads(&live, number + 3, attack);
            assert!(live.unmount().success(), "{attack}");
            scene.ground.assert_untouched(attack);
        }
    });
}

/// The name is exchanged all the time, so that it is in each moment between a look and a use.
#[test]
fn a_cache_directory_that_is_exchanged_all_the_time_serves_no_wrong_bytes() {
    deadline(LIMIT, || {
        let scene = Swapped::new();
        // Where the attacker would like catalogs and index to be opened: the same names, other bytes.
        drop(scene.spec().start());
        let trap = scene.cache().with_file_name("trap");
        let copied = Command::new("cp").arg("-a").args([scene.cache(), trap.clone()]).status();
        assert!(copied.unwrap().success());
        for fan in fs::read_dir(trap.join("v2/objects")).unwrap().flatten() {
            for object in fs::read_dir(fan.path()).unwrap().flatten() {
                fs::set_permissions(object.path(), fs::Permissions::from_mode(0o600)).unwrap();
                fs::write(object.path(), b"SQLite format 3\0 and no more").unwrap();
            }
        }
        let given = Command::new("chown").args(["-R", "1002"]).arg(&trap).status();
        assert!(given.unwrap().success());
        let live = scene.spec().start();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, other) = (scene.cache(), &trap);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    as_user(ATTACKER, ATTACKER, || {
                        let cwd = nix::fcntl::AT_FDCWD;
                        let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                        nix::fcntl::renameat2(cwd, &one, cwd, other, exchange).unwrap();
                    });
                }
            });
            for number in 0..20 {
                scene.assert_reads(&live, number, "exchanged");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(live.unmount().success());
        scene.ground.assert_untouched("exchanged");
    });
}

/// Root's index is a database that is opened by name.
#[test]
fn an_index_in_a_directory_that_is_exchanged_is_written_nowhere_else() {
    deadline(LIMIT, || {
        let scene = Swapped::new();
        let live = scene.spec().start();
        scene.assert_reads(&live, 0, "before");
        let away = scene.cache().with_file_name("away");
        as_user(ATTACKER, ATTACKER, || {
            fs::rename(scene.cache(), &away).unwrap();
            fs::create_dir(scene.cache()).unwrap();
            symlink(scene.ground.outside(), scene.cache().join("v2")).unwrap();
        });
        for number in 1..10 {
            scene.assert_reads(&live, number, "exchanged");
        }
        // The uses of these objects are written down in the directory that was opened.
        wait_until(PATIENCE, "rows in the index that was opened", || {
            let index = rusqlite::Connection::open(away.join("v2/index.sqlite")).unwrap();
            let count = index.query_row("SELECT count(*) FROM objects", [], |row| row.get(0));
            count.is_ok_and(|count: i64| count >= 9)
        })
        .unwrap();
        assert!(live.unmount().success());
        scene.ground.assert_untouched("index");
    });
}

/// A lock of another user keeps nobody from remembering the revision.
#[test]
fn a_lock_of_a_record_that_somebody_else_made_is_not_waited_for() {
    deadline(LIMIT, || {
        let scene = Swapped::new();
        fs::remove_dir(scene.cache().parent().unwrap()).unwrap();
        tests::apart::share_directory(&scene.cache(), ATTACKER);
        drop(scene.spec().start());
        let records = scene.cache().join("v2/records");
        let mut held = Vec::new();
        as_user(ATTACKER, ATTACKER, || {
            for entry in fs::read_dir(&records).unwrap().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|ending| ending == "lock") {
                    fs::remove_file(&path).unwrap();
                    let file = File::options().write(true).create_new(true).open(&path).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
                    let kind = nix::fcntl::FlockArg::LockExclusive;
                    held.push(nix::fcntl::Flock::lock(file, kind).unwrap());
                }
            }
        });
        assert!(!held.is_empty());
        let mount = scene.spec().start();
        scene.assert_reads(&mount, 0, "held lock");
        let owners: Vec<_> = fs::read_dir(&records)
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "lock"))
            .map(|entry| {
                (entry.metadata().unwrap().uid(), entry.metadata().unwrap().mode() & 0o7777)
            })
            .collect();
        assert!(owners.contains(&(0, 0o600)), "{owners:?}");
        drop(mount);
        drop(held);
    });
}

/// Only root sees whether the memory of a process can be dumped: then it belongs to its user in /proc.
const MEMORY: &str = r#"
set -eu
umount -alt fuse 2>/dev/null || true
mount -t tmpfs -o mode=755,dev tmpfs "$STAGE"
mknod -m 666 "$STAGE/fuse" c 10 229
mount --bind "$STAGE/fuse" /dev/fuse
cd "$STAGE"
mkdir m cache
chown 65534:65534 m cache
chmod 700 cache
cp "$CLIENT" client
cp "$KEY" key
ulimit -c unlimited
U="setpriv --reuid 65534 --regid 65534 --clear-groups"
trap 'umount -l "$STAGE/m" 2>/dev/null || true' EXIT
for words in "" "--set=CVMFS_FUSE_CORE_DUMPS=yes"; do
    $U timeout 30 ./client mount small.test.repo $STAGE/m --server $SERVER --public-key key \
        --cache-dir $STAGE/cache --proxy DIRECT $words >/dev/null
    server=$($U getfattr --only-values -n user.pid m)
    supervisor=$(awk '$1 == "PPid:" { print $2 }' /proc/$server/status)
    for process in $server $supervisor; do
        echo "$(stat -c %u /proc/$process/mem) $(awk '/^Max core/ { print $5 }' /proc/$process/limits)"
    done
    $U timeout 20 ./client umount "$STAGE/m"
done
"#;

#[test]
fn core_dumps_are_made_only_where_a_site_wants_them() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let stage = tempfile::tempdir().unwrap();
        let output = Command::new("timeout")
            .args([
                "--kill-after=5",
                "80",
                "unshare",
                "--mount",
                "sh",
                "-c",
                tests::apart::WITHOUT_COPIES,
                "sh",
                "bash",
                "-c",
                MEMORY,
            ])
            .env("STAGE", stage.path())
            .env("CLIENT", client!().command().get_program())
            .env("KEY", genuine.public_key())
            .env("SERVER", server.base(genuine.fqrn()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", shown(&output));
        assert_eq!(said, "0 0\n0 0\n65534 unlimited\n65534 unlimited\n", "{}", shown(&output));
    });
}

/// Calls that decide by path what is made, and whose it is.
const BY_PATH: [&str; 11] = [
    "set_permissions(",
    "fs::chown(",
    "fs::lchown(",
    "chownat(",
    "fs::chmod(",
    "chmodat(",
    "fs::create_dir(",
    "fs::create_dir_all(",
    "DirBuilder",
    "UnixListener::bind(",
    "fs::write(",
];

/// Where they are right, and why.
const ALLOWED: [(&str, &str); 5] = [
    ("cvmfs-cache/src/safe_path.rs", "the one place for it"),
    ("cvmfs-fuse/src/config/chain/distant.rs", "in a new directory of mode 0700"),
    ("cvmfs-fuse/src/demo/mod.rs", "in a new directory of mode 0700"),
    ("cvmfs-fuse/src/container/mountroot.rs", "in a file system that was mounted just now"),
    ("cvmfs-fuse/src/fuse/session.rs", "a file of the kernel"),
];

#[test]
fn h3_modes_and_owners_are_set_on_descriptors_only() {
    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("trials") {
                sources(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs")
                // Tests, too.
                && !path.ends_with("tests.rs")
                && !path.ends_with("hostile.rs")
            {
                found.push(path);
            }
        }
    }
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for name in ["cvmfs-core/src", "cvmfs-cache/src", "cvmfs-fuse/src"] {
        sources(&base.join(name), &mut files);
    }
    assert!(files.len() > 100, "{files:?}");
    let mut wrong = Vec::new();
    for path in files {
        let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
        if ALLOWED.iter().any(|(allowed, _)| *allowed == name) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            let is_of_the_kernel = line.contains("\"/proc/") || line.contains("(&path, \"1\")");
            let is_of_a_descriptor = line.contains("AtFlags::EMPTY_PATH");
            let is_comment = line.trim_start().starts_with("//");
            let is_right = is_comment || is_of_the_kernel || is_of_a_descriptor;
            if !is_right && BY_PATH.iter().any(|call| line.contains(call)) {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "use cvmfs_cache::safe_path:\n{}", wrong.join("\n"));
}
