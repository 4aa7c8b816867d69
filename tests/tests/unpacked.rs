//! Images whose layers are unpacked in a repository, used from the mount as engines do: stacked by the
//! kernel's overlay, as snapshotters and graph drivers mount them, and as the root of a container.
//!
//! The directories are those that the tools for such repositories make: `.layers/XX/DIGEST/layerfs`, each
//! layer with a catalog of its own, and `.flat/XX/DIGEST` for whole images.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use tests::apart::private_mounts;
use tests::engines::{Shell, alone};
use tests::site::stdout;
use tests::walk::get_xattr;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(150);
const SOON: Duration = Duration::from_secs(30);
/// The layers by their digests, the lower one first.
const LAYERS: [&str; 2] = [
    "/.layers/1b/1b52d57d0e2a4d2f5b8dc2d4d2c8f1f6a7b3f0c9d1e4a5b6c7d8e9f0a1b2c3d4",
    "/.layers/e7/e7a0c4f5d6b7a8c9d0e1f2a3b4c5d6e7f8a9b0c1d2e3f4a5b6c7d8e9f0a1b2c3",
];
const FLAT: &str = "/.flat/5c/5c0f2d3e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const FQRN: &str = "unpacked.test.repo";
/// So many files of the lower layer are read again and again.
const FILES: usize = 40;

/// A program that needs nothing else.
fn busybox() -> Vec<u8> {
    fs::read("/bin/busybox").expect("busybox is missing: apt-get install busybox-static")
}

fn data(number: usize) -> Vec<u8> {
    format!("file {number}\n").into_bytes().repeat(2000 + number)
}

fn link_programs(repo: &mut TestRepo, root: &str) {
    repo.file(format!("{root}/bin/busybox"), busybox()).mode(0o755);
    for name in ["sh", "cat", "ls", "echo", "rm", "mv", "chmod", "md5sum"] {
        repo.symlink(format!("{root}/bin/{name}"), "busybox");
    }
}

/// Two layers: the upper one has its own version of a file, one more, and hides two.
fn layers() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(1);
    let [lower, upper] = LAYERS.map(|layer| format!("{layer}/layerfs"));
    for layer in LAYERS {
        repo.nested(layer);
    }
    link_programs(&mut repo, &lower);
    repo.file(format!("{lower}/etc/greeting"), b"from below\n".to_vec());
    repo.file(format!("{lower}/etc/kept"), b"kept\n".to_vec()).uid(17).gid(18).mode(0o640);
    repo.file(format!("{lower}/etc/attributes"), b"a\n".to_vec()).xattr("user.a", "b");
    repo.file(format!("{lower}/d/hidden"), b"hidden\n".to_vec());
    repo.file(format!("{lower}/d/low"), b"low\n".to_vec());
    repo.file(format!("{lower}/replaced/low"), b"low\n".to_vec());
    for number in 0..FILES {
        repo.file(format!("{lower}/data/{number}"), data(number));
    }
    repo.chunked(format!("{lower}/chunks"), data(30_000), 65_536);
    repo.file(format!("{upper}/etc/greeting"), b"from above\n".to_vec());
    repo.file(format!("{upper}/d/high"), b"high\n".to_vec());
    // What takes away an entry of a layer below, and all entries of a directory.
    repo.special(format!("{upper}/d/hidden"), 0o020_000, 0);
    repo.dir(format!("{upper}/replaced")).xattr("trusted.overlay.opaque", "y");
    repo.file(format!("{upper}/replaced/high"), b"high\n".to_vec());
    repo
}

/// A kernel overlay of layers of the mount, writable in memory.
struct Overlay {
    memory: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Overlay {
    fn of(layers: &[PathBuf]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let overlay = Self { memory: scratch.path().to_owned(), _scratch: scratch };
        let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
        mount(kind, &overlay.memory, kind, flags, Some("size=64m,mode=755")).unwrap();
        for name in ["upper", "work", "root"] {
            fs::create_dir(overlay.memory.join(name)).unwrap();
        }
        let lower: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
        let memory = overlay.memory.display();
        let options =
            format!("lowerdir={},upperdir={memory}/upper,workdir={memory}/work", lower.join(":"));
        let kind = Some("overlay");
        mount(kind, &overlay.path(""), kind, flags, Some(&*options)).unwrap();
        overlay
    }

    fn path(&self, name: &str) -> PathBuf {
        self.memory.join("root").join(name)
    }

    fn upper(&self, name: &str) -> PathBuf {
        self.memory.join("upper").join(name)
    }

    fn inside(&self, script: &str) -> Command {
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg(self.path("")).args(["/bin/sh", "-euc", script]).env("PATH", "/bin");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str) -> Output {
        self.inside(script).output().unwrap()
    }

    fn end(self) {
        umount2(&self.path(""), MntFlags::empty()).unwrap();
        umount2(&self.memory, MntFlags::empty()).unwrap();
    }
}

/// A failed test leaves nothing in the way of the client's end.
impl Drop for Overlay {
    fn drop(&mut self) {
        for path in [self.path(""), self.memory.clone()] {
            // Not mounted after the orderly end.
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
    }
}

/// A program in an overlay that ends with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mount, a stack of its layers, and what must be there as long.
fn start(repo: &mut TestRepo) -> ((Published, TestServer), TestMount, Overlay) {
    let published = repo.publish();
    let server = TestServer::serving(published.root());
    let mount = MountSpec::published(&client!(), &published, &[&server]).start();
    // The topmost is named first.
    let [lower, upper] = LAYERS.map(|layer| mount.path(&layer[1..]).join("layerfs"));
    let overlay = Overlay::of(&[upper, lower]);
    ((published, server), mount, overlay)
}

#[test]
fn layers_are_stacked_and_written_over() {
    deadline(LIMIT, || {
        private_mounts();
        let (_served, mount, overlay) = start(&mut layers());
        let run = |script: &str| stdout(&overlay.run(script));
        assert_eq!(run("cat /etc/greeting /etc/kept"), "from above\nkept\n");
        assert_eq!(run("echo /d/* /replaced/*"), "/d/high /d/low /replaced/high\n");
        assert!(fs::read(overlay.path("chunks")).unwrap() == data(30_000));
        for number in 0..FILES {
            assert!(fs::read(overlay.path(&format!("data/{number}"))).unwrap() == data(number));
        }
        // Files are copied with all that is known of them, then changed; others go, or come.
        let script = "echo more >>/etc/kept; echo new >/etc/new; rm /d/low; chmod 751 /bin/busybox; \
                      mv /etc/attributes /etc/moved; mv /data /moved; cat /moved/7 /etc/kept >/both; \
                      rm -r /replaced; echo x >/replaced; /bin/busybox echo still";
        assert_eq!(run(script), "still\n");
        let kept = overlay.upper("etc/kept");
        assert_eq!(fs::read(&kept).unwrap(), b"kept\nmore\n");
        let found = kept.metadata().unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (17, 18, 0o640));
        assert_eq!(get_xattr(&overlay.upper("etc/moved"), b"user.a").unwrap(), b"b");
        assert!(overlay.upper("d/low").symlink_metadata().unwrap().file_type().is_char_device());
        assert_eq!(overlay.upper("bin/busybox").metadata().unwrap().mode() & 0o7777, 0o751);
        assert!(fs::read(overlay.upper("bin/busybox")).unwrap() == busybox());
        assert!(
            fs::read(overlay.upper("both")).unwrap() == [data(7), b"kept\nmore\n".into()].concat()
        );
        assert_eq!(run("ls /etc"), "greeting\nkept\nmoved\nnew\n");
        // Nothing of it is in the repository.
        let layer = mount.path(&LAYERS[0][1..]).join("layerfs");
        assert_eq!(fs::read(layer.join("etc/kept")).unwrap(), b"kept\n");
        assert_eq!(fs::read(layer.join("d/low")).unwrap(), b"low\n");
        assert!(!layer.join("etc/new").exists());
        overlay.end();
        assert!(mount.unmount().success());
    });
}

/// The kernel lets a mount go that only an overlay uses, and keeps what is mounted for that.
#[test]
fn a_stack_works_until_its_own_end_whatever_is_unmounted() {
    deadline(LIMIT, || {
        private_mounts();
        let (_served, mut mount, overlay) = start(&mut layers());
        assert_eq!(stdout(&overlay.run("cat /etc/greeting")), "from above\n");
        let old = mount.server();
        umount2(mount.root(), MntFlags::empty()).unwrap();
        for number in 0..FILES / 2 {
            assert!(fs::read(overlay.path(&format!("data/{number}"))).unwrap() == data(number));
        }
        kill(old, Signal::SIGKILL).unwrap();
        let process = PathBuf::from(format!("/proc/{old}"));
        wait_until(SOON, "the end of the server", || !process.exists()).unwrap();
        for number in FILES / 2..FILES {
            assert!(fs::read(overlay.path(&format!("data/{number}"))).unwrap() == data(number));
        }
        assert_eq!(stdout(&overlay.run("cat /etc/kept; ls /d")), "kept\nhigh\nlow\n");
        overlay.end();
        assert!(mount.wait_exit().success());
    });
}

/// Reads everything again and again, and tells of each round; ends with an error at the first thing that
/// is not as it was.
const USE: &str = r#"
exec 3</chunks
round=0
while [ ! -e /stop ]; do
    [ "$(cat /etc/greeting)" = "from above" ]
    sums=$(md5sum /data/*)
    [ "$sums" = "${first=$sums}" ]
    [ "$(ls /d /replaced)" = "/d:
high
low

/replaced:
high" ]
    echo $round >/rounds
    round=$((round + 1))
    read -r line <&3
    [ "${line%% *}" = file ]
done
echo good
"#;

#[test]
fn a_stack_in_use_goes_on_over_updates_and_deaths_of_the_server() {
    deadline(LIMIT, || {
        private_mounts();
        let mut repo = layers();
        let (_served, mount, overlay) = start(&mut repo);
        let mut running = Running(
            overlay.inside(USE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(),
        );
        let rounds = || {
            let text = fs::read_to_string(overlay.upper("rounds")).unwrap_or_default();
            text.trim().parse::<u32>().unwrap_or_default()
        };
        let mut goes_on = |what: &str| {
            let begun = rounds();
            wait_until(SOON, what, || {
                if let Some(status) = running.0.try_wait().unwrap() {
                    let mut said = String::new();
                    running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                    panic!("{what}: it ended with {status}: {said}");
                }
                rounds() >= begun + 3
            })
            .unwrap();
        };
        goes_on("rounds");
        // Open, mapped by nobody, and never read before.
        let mut held = File::open(overlay.path("chunks")).unwrap();
        let mut bytes = vec![0; 10];
        held.read_exact(&mut bytes).unwrap();
        for revision in 2..4 {
            let layer = format!("/.layers/aa/aa{revision}");
            repo.nested(&layer);
            repo.file(format!("{layer}/layerfs/f"), b"another image\n".to_vec());
            repo.publish();
            wait_until(SOON, "the new revision", || mount.revision() == revision).unwrap();
            goes_on("after an update");
            let old = mount.server();
            kill(old, Signal::SIGKILL).unwrap();
            wait_until(SOON, "another server", || mount.server() != old).unwrap();
            goes_on("after a death");
            // The server that is there now never heard of this before.
            let number = usize::try_from(revision).unwrap();
            assert_eq!(stdout(&overlay.run("cat /etc/kept; exec /bin/busybox true")), "kept\n");
            assert!(fs::read(overlay.path(&format!("data/{number}"))).unwrap() == data(number));
        }
        held.read_to_end(&mut bytes).unwrap();
        assert!(bytes == data(30_000));
        // A second container of the same layers begins now.
        let [lower, upper] = LAYERS.map(|layer| mount.path(&layer[1..]).join("layerfs"));
        let second = Overlay::of(&[upper, lower]);
        assert_eq!(stdout(&second.run("cat /etc/greeting; ls /")), {
            "from above\nbin\nchunks\nd\ndata\netc\nreplaced\n"
        });
        second.end();
        fs::write(overlay.path("stop"), "").unwrap();
        let mut said = String::new();
        running.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(running.0.wait().unwrap().success(), "{said}");
        assert_eq!(said, "good\n");
        drop((held, running));
        overlay.end();
        assert!(mount.unmount().success());
    });
}

/// Without a store of images, and without control groups: what is tested is the root.
const PODMAN: &str = r#"
umount -l /sys/fs/cgroup/unified 2>/dev/null || true
podman --root $W/storage --runroot $W/run --tmpdir $W/tmp --cgroup-manager cgroupfs run --rm \
    --network none --cgroups disabled --rootfs "$IMAGE:O" sh -euc '
        cat /etc/greeting; echo mine >/etc/greeting; cat /etc/greeting; rm /etc/kept; ls /etc/kept || echo gone'
"#;

#[test]
fn a_container_has_an_image_of_the_mount_as_its_root() {
    alone("a_container_has_an_image_of_the_mount_as_its_root", LIMIT, |scratch| {
        let found = Command::new("podman").arg("--version").output();
        assert!(found.is_ok(), "podman is missing: apt-get install podman crun");
        let mut repo = TestRepo::new(FQRN);
        repo.nested(FLAT);
        link_programs(&mut repo, FLAT);
        for name in ["proc", "dev", "sys", "tmp"] {
            repo.dir(format!("{FLAT}/{name}"));
        }
        repo.file(format!("{FLAT}/etc/greeting"), b"from the image\n".to_vec());
        repo.file(format!("{FLAT}/etc/kept"), b"kept\n".to_vec());
        // By the name that people know.
        repo.symlink("/registry.test/img:1", format!("..{FLAT}"));
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = MountSpec::published(&client!(), &published, &[&server]).start();
        let mut shell = Shell::default();
        shell.set("W", scratch);
        shell.set("IMAGE", mount.path(&FLAT[1..]));
        assert_eq!(shell.ok(PODMAN), "from the image\nmine\ngone");
        let image = mount.path("registry.test/img:1");
        assert_eq!(fs::read(image.join("etc/greeting")).unwrap(), b"from the image\n");
        assert_eq!(fs::read(image.join("etc/kept")).unwrap(), b"kept\n");
        assert!(mount.unmount().success());
    });
}
