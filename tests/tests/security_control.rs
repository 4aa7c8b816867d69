//! Who may say what to a mount: rows H1 and H8 of the security review (docs/control-plane.md).
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, listen, send, socket,
};
use tests::apart::{Mounted, become_user, child, private_mounts, told, worker};
use tests::site::Site;
use tests::walk::get_xattr;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
const CONDITION: Duration = Duration::from_secs(30);
const FQRN: &str = "control.test.repo";
/// Every Linux has it.
const NOBODY: u32 = 65534;
/// What a server of an attacker would be.
const EVIL: &str = "http://evil.example.org";

fn repo() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(3600);
    repo.file("/file", b"content".to_vec());
    repo
}

fn spec(published: &Published, server: &TestServer) -> MountSpec {
    MountSpec::published(&client!(), published, &[server]).impatient().without_prefetch()
}

/// Runs the program; returns its exit code and all that it wrote.
fn run(arguments: &[&str]) -> (i32, String) {
    let output = client!().command().args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap(), said)
}

fn talk(mount: &Path, command: &str) -> String {
    let root = mount.to_str().unwrap();
    let words: Vec<_> = ["talk", "-i", root].into_iter().chain(command.split(' ')).collect();
    let (code, said) = run(&words);
    assert_eq!(code, 0, "{command}: {said}");
    said.trim_end().to_owned()
}

fn device(mount: &TestMount) -> String {
    format!("0:{}", mount.info().connection)
}

/// Where the address of a mount of root is.
fn control_directory(mount: &TestMount) -> PathBuf {
    Path::new("/run/cvmfs-fuse-control").join(format!("{}-{}", mount.info().connection, boot()))
}

fn boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    boot.chars().filter(char::is_ascii_hexdigit).take(16).collect()
}

/// Says one line, as a program that was made for upstream's client; empty where nobody answers.
fn raw(mut stream: UnixStream, line: &str) -> String {
    stream.set_read_timeout(Some(CONDITION)).unwrap();
    let mut said = String::new();
    let _ = stream.write_all(format!("{line}\n").as_bytes());
    let _ = stream.read_to_string(&mut said);
    said.trim_end().to_owned()
}

/// Lets this process be root in name only.
fn without_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let none = [0_u32; 6];
    // SAFETY: capset(2) reads the two structures of its third version, which live on the stack.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
    assert_eq!(done, 0, "everybody may give capabilities up");
}

/// Root of a container with the network of the host: no capability, and none of its mounts.
#[test]
#[ignore = "a worker of h1_root_that_does_not_see_a_mount_has_no_authority_over_it"]
fn root_elsewhere() {
    let Some([workspace, directory, device, hash]) = told() else { return };
    without_capabilities();
    let mut streams = vec![PathBuf::from(&workspace)];
    streams.push(Path::new(&directory).join("talk"));
    for command in [
        format!("host set {EVIL}"),
        format!("proxy set {EVIL}:3128"),
        format!("chroot {hash}"),
        "revision".to_owned(),
    ] {
        for path in &streams {
            let Ok(stream) = UnixStream::connect(path) else { continue };
            println!("heard: {}", raw(stream, &command));
        }
        let name = SocketAddr::from_abstract_name(format!("cvmfs-fuse/talk/{device}")).unwrap();
        if let Ok(stream) = UnixStream::connect_addr(&name) {
            println!("heard: {}", raw(stream, &command));
        }
    }
    // Supervisors are asked with a packet.
    let names = [
        UnixAddr::new(&Path::new(&directory).join("control")).unwrap(),
        UnixAddr::new_abstract(format!("cvmfs-fuse/{device}").as_bytes()).unwrap(),
    ];
    for name in names {
        let flags = SockFlag::SOCK_CLOEXEC;
        let asking = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        if connect(asking.as_raw_fd(), &name).is_ok() {
            let _ = send(asking.as_raw_fd(), b"upgrade", nix::sys::socket::MsgFlags::empty());
            let mut answer = [0; 4096];
            let len = nix::unistd::read(&asking, &mut answer).unwrap_or(0);
            println!("heard: {}", String::from_utf8_lossy(&answer[..len]));
        }
    }
    println!("done:");
}

#[test]
fn h1_root_that_does_not_see_a_mount_has_no_authority_over_it() {
    deadline(LIMIT, || {
        let mut repo = repo();
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        let old = mount.attribute("user.root_hash").unwrap();
        repo.file("/file", b"newer".to_vec());
        repo.publish();
        assert_eq!(talk(mount.root(), "remount sync"), "New revision applied");
        let facts =
            || ["host info", "proxy info", "revision", "pid"].map(|c| talk(mount.root(), c));
        let before = facts();
        let workspace = mount.cache_dir().join(format!("cvmfs_io.{FQRN}"));
        wait_until(CONDITION, "control socket", || workspace.exists()).unwrap();
        let directory = control_directory(&mount);
        let mut attacker = worker(
            "root_elsewhere",
            &[workspace.to_str().unwrap(), directory.to_str().unwrap(), &device(&mount), &old],
        );
        let mut refusals = 0;
        loop {
            let said = attacker.hear(":");
            // The marks of both lines end so.
            if said.is_empty() {
                break;
            }
            assert!(said.contains("the mount is not seen") || said == "\"Unseen\"", "{said}");
            refusals += 1;
        }
        // Four commands at two sockets, and one upgrade.
        assert_eq!(refusals, 9);
        assert!(attacker.finish().success());
        assert_eq!(facts(), before);
        assert_eq!(std::fs::read(mount.path("file")).unwrap(), b"newer");
        assert!(mount.unmount().success());
        assert!(!directory.exists(), "it goes with the mount");
    });
}

/// Another user who was first at every abstract name, and answers in the name of mounts.
#[test]
#[ignore = "a worker of h8_names_that_others_took_change_nothing"]
fn squatter() {
    let Some([_go]) = told() else { return };
    become_user(NOBODY, NOBODY);
    let evil = "{\"ok\":true,\"text\":\"evil\\u001b[31m\",\"data\":[{\"repository\":\"evil\u{1b}[31m\"}]}\n";
    let mut held = Vec::new();
    // Some 500 descriptors; the numbers of devices begin low.
    for minor in 20..270 {
        let name = UnixAddr::new_abstract(format!("cvmfs-fuse/0:{minor}").as_bytes()).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC;
        let packet = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        if bind(packet.as_raw_fd(), &name).is_ok() {
            listen(&packet, nix::sys::socket::Backlog::new(8).unwrap()).unwrap();
        }
        held.push(packet);
        let name = SocketAddr::from_abstract_name(format!("cvmfs-fuse/talk/0:{minor}")).unwrap();
        let Ok(listener) = UnixListener::bind_addr(&name) else { continue };
        std::thread::spawn(move || {
            while let Ok((mut peer, _)) = listener.accept() {
                let _ = peer.write_all(evil.as_bytes());
            }
        });
    }
    // Nobody may make anything where addresses are.
    let taken = std::fs::create_dir_all("/run/cvmfs-fuse-control/1-0123456789abcdef").is_ok();
    println!("ready: {taken}");
    let _ = std::io::stdin().read(&mut [0; 1]);
}

#[test]
fn h8_names_that_others_took_change_nothing() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let mut squatter = child("squatter", &["go"]);
        assert_eq!(squatter.hear("ready:"), "false");
        let mount = spec(&published, &server).start();
        let root = mount.root().to_str().unwrap();
        assert_eq!(std::fs::read(mount.path("file")).unwrap(), b"content");
        let mut said = String::new();
        for arguments in [
            &["status"][..],
            &["status", "--json"],
            &["top", "--once"],
            &["metrics"],
            &["talk", "-i", root, "revision"],
            &["upgrade", root],
            &["talk", "-i", FQRN, "host", "info"],
        ] {
            let (code, text) = run(arguments);
            // Mounts of other tests may not answer to `status`.
            assert!(code == 0 || arguments[0] == "status", "{arguments:?}: {text}");
            said.push_str(&text);
        }
        let (_, why) = run(&["why", &format!("{root}/file")]);
        assert!(why.contains("no call has failed"), "{why}");
        assert!(!said.contains("evil") && !said.contains('\x1b'), "{said}");
        assert!(said.contains(root) && said.contains(" -> "), "{said}");
        assert!(mount.unmount().success());
    });
}

/// Another user, who serves a mount and answers in its control directory, as is his right; he lies about it.
#[test]
#[ignore = "a worker of h8_what_another_users_server_says_moves_no_hand_of_root"]
fn liar() {
    let Some([directory, device]) = told() else { return };
    become_user(NOBODY, NOBODY);
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory).unwrap();
    for place in [directory.parent().unwrap(), &directory] {
        std::fs::set_permissions(place, PermissionsExt::from_mode(0o700)).unwrap();
    }
    let record = serde_json::json!({
        "version": "1\u{1b}[31m", "device": device, "mountpoint": "/etc", "mount_namespace": 0,
        "supervisor": 1, "uid": 0,
    });
    std::fs::write(directory.join("mount.json"), record.to_string()).unwrap();
    let listener = UnixListener::bind(directory.join("talk")).unwrap();
    println!("ready:");
    let status = serde_json::json!({
        "repository": FQRN, "mountpoint": "/etc", "workspace": "/root", "device": "0:1",
        "server": "http://s\u{1b}[31m\nroot.cern.ch  /cvmfs/root.cern.ch  1", "proxy": "\u{202e}p",
        "stale_since": 0, "stale_reason": "\u{9b}2J\nnothing",
    });
    let answer = serde_json::json!({"ok": true, "text": "\u{1b}]0;owned\u{7}", "data": [status]});
    while let Ok((mut peer, _)) = listener.accept() {
        let _ = peer.read(&mut [0; 4096]);
        let _ = peer.write_all(answer.to_string().as_bytes());
    }
}

#[test]
fn h8_what_another_users_server_says_moves_no_hand_of_root() {
    deadline(LIMIT, || {
        private_mounts();
        let _run = Mounted::tmpfs(Path::new("/run"), "size=2m,mode=755");
        let own = PathBuf::from(format!("/run/user/{NOBODY}"));
        std::fs::create_dir_all(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
        std::fs::set_permissions(&own, PermissionsExt::from_mode(0o700)).unwrap();
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let fuse = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data =
            format!("fd={},rootmode=40000,user_id={NOBODY},group_id={NOBODY}", fuse.as_raw_fd());
        let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV;
        nix::mount::mount(Some("cvmfs2"), &root, Some("fuse"), flags, Some(data.as_str())).unwrap();
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(root.to_str().unwrap())).unwrap();
        let device = line.split(' ').nth(2).unwrap();
        let minor = device.strip_prefix("0:").unwrap();
        let directory = own.join("cvmfs-fuse-control").join(format!("{minor}-{}", boot()));
        let mut liar = child("liar", &[directory.to_str().unwrap(), device]);
        liar.hear("ready:");
        let (_, said) = run(&["status"]);
        assert!(said.contains("as its server says, which is user 65534's"), "{said}");
        let is_harmful = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!said.contains(is_harmful), "{said:?}");
        assert!(said.lines().all(|line| !line.starts_with("root.cern.ch")), "{said}");
        let (_, said) = run(&["status", "--json"]);
        let status: serde_json::Value =
            serde_json::from_str(said.lines().find(|line| line.contains(FQRN)).unwrap()).unwrap();
        assert_eq!(status["mountpoint"], root.to_str().unwrap());
        assert_eq!(status["device"], device);
        // What root does by the name of the repository is done where the mount is seen.
        let (_, said) = run(&["bugreport"]);
        let is_harmful = |c: char| is_harmful(c) && c != '\t';
        assert!(!said.contains("/root/log") && !said.contains(is_harmful), "{said:?}");
        let (_, said) = run(&["upgrade", root.to_str().unwrap()]);
        assert!(said.contains("no supervisor of this mount can be reached"), "{said}");
        drop(liar);
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        drop(fuse);
    });
}

#[test]
fn h8_escape_sequences_of_a_peer_do_not_reach_the_terminal() {
    deadline(LIMIT, || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cvmfs_io.evil.test.repo");
        let listener = UnixListener::bind(&path).unwrap();
        let plain = "a\x1b]0;owned\x07b\u{9b}2J\u{202e}c\nd\x7f\n";
        let json =
            "{\"ok\":true,\"text\":\"a\\u001b[31m\u{9b}2J\u{202e}\",\"data\":[\"\u{85}\"]}\n";
        std::thread::spawn(move || {
            let mut answers = [plain, json, "\x1b[2J not json\n"].into_iter();
            while let (Ok((mut peer, _)), Some(answer)) = (listener.accept(), answers.next()) {
                let _ = peer.read(&mut [0; 64]);
                let _ = peer.write_all(answer.as_bytes());
            }
        });
        let socket = path.to_str().unwrap();
        for arguments in [
            &["talk", "-p", socket, "pid"][..],
            &["talk", "--json", "-p", socket, "pid"],
            &["talk", "--json", "-p", socket, "pid"],
        ] {
            let (_, said) = run(arguments);
            let is_harmful = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.is_empty() && !said.contains(is_harmful), "{said:?}");
        }
        // Names of files, which a repository chooses, in messages.
        let named = directory.path().join("x\x1b[31m\u{202e}\ny");
        for command in ["why", "umount", "upgrade", "probe"] {
            let (_, said) = run(&[command, named.to_str().unwrap()]);
            assert!(!said.contains(['\x1b', '\u{202e}']), "{command}: {said:?}");
            assert!(said.lines().all(|line| !line.starts_with('y')), "{command}: {said:?}");
        }
    });
}

#[test]
fn h1_two_mounts_of_one_repository_have_two_addresses() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let cache = tempfile::tempdir().unwrap();
        let spec = spec(&published, &server).cache_dir(cache.path());
        let (one, two) = (spec.start(), spec.start());
        assert_ne!(one.server(), two.server());
        for mount in [&one, &two] {
            assert_eq!(talk(mount.root(), "pid"), mount.server().to_string());
            assert_eq!(talk(mount.root(), "device id"), device(mount));
            let directory = control_directory(mount);
            let mode = std::fs::metadata(&directory).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o700);
            let record = std::fs::read_to_string(directory.join("mount.json")).unwrap();
            let record: serde_json::Value = serde_json::from_str(&record).unwrap();
            assert_eq!(record["device"], device(mount));
            assert_eq!(record["supervisor"], mount.pid().as_raw());
        }
        // A take-over and an upgrade keep the address; clients wait and see no error.
        let before = std::fs::metadata(control_directory(&one).join("talk")).unwrap().ino();
        let old = one.server();
        kill(old, Signal::SIGKILL).unwrap();
        let new = talk(one.root(), "pid");
        assert_ne!(new, old.to_string());
        let (code, said) = run(&["upgrade", one.root().to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        let last = talk(one.root(), "pid");
        assert_ne!(last, new);
        let after = std::fs::metadata(control_directory(&one).join("talk")).unwrap().ino();
        assert_eq!(before, after);
        assert_eq!(talk(two.root(), "pid"), two.server().to_string());
        let directories = [&one, &two].map(control_directory);
        assert!(one.unmount().success());
        assert!(two.unmount().success());
        assert!(directories.iter().all(|directory| !directory.exists()));
    });
}

/// Runs a shell in mount and pid namespaces of its own, in which `$P` is the program and `$M` a mountpoint.
fn apart(mount: &Path, script: &str) -> String {
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-ec", script])
        .env("M", mount)
        .env("P", client!().command().get_program())
        .output()
        .unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap().trim_end().to_owned()
}

#[test]
fn h1_who_sees_the_mount_in_another_namespace_may_ask() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        assert_eq!(apart(mount.root(), "$P talk -i $M revision"), "1");
        let elsewhere = tempfile::tempdir().unwrap();
        let at = elsewhere.path().display();
        // Where a container would have it; the original is covered.
        let script =
            format!("mount --bind $M {at}; umount $M; $P talk -i {at} pid; $P upgrade {at}");
        let said = apart(mount.root(), &script);
        assert!(said.contains(" -> "), "{said}");
        let workspace = mount.cache_dir().join(format!("cvmfs_io.{FQRN}"));
        let script = format!("$P talk -p {} revision", workspace.display());
        assert_eq!(apart(mount.root(), &script), "1");
        // The same process without the mount.
        let said = apart(mount.root(), &format!("umount $M; {script} || true"));
        assert!(said.contains("the mount is not seen"), "{said}");
        assert!(mount.unmount().success());
    });
}

#[test]
fn h1_chroot_takes_published_revisions_only() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        // Somebody who can add objects to a server, and cannot sign.
        let mut evil = TestRepo::new(FQRN);
        evil.file("/file", b"evil".to_vec());
        let forged = evil.publish();
        let copied = Command::new("cp")
            .args(["-rn", "--no-preserve=mode"])
            .arg(format!("{}/.", forged.base().join("data").display()))
            .arg(published.base().join("data"))
            .status();
        assert!(copied.unwrap().success());
        let hash = forged.root_hash();
        let said = talk(mount.root(), &format!("chroot {hash}"));
        assert!(said.contains("no root catalog that control.test.repo has published"), "{said}");
        assert_eq!(std::fs::read(mount.path("file")).unwrap(), b"content");
        assert_eq!(talk(mount.root(), "revision"), "1");
        assert!(mount.unmount().success());
    });
}

#[test]
fn h1_without_a_runtime_directory_the_cache_or_tmp_has_the_address() {
    deadline(LIMIT, || {
        private_mounts();
        let empty = tempfile::tempdir().unwrap();
        let _run = Mounted::read_only(empty.path(), Path::new("/run"));
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let site = tempfile::tempdir().unwrap();
        let (etc, cache) = (site.path().join("etc"), site.path().join("base/cvmfs-fuse"));
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::create_dir_all(&cache).unwrap();
        // As it is shared with a group.
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o2770)).unwrap();
        let line = format!("CVMFS_CACHE_BASE={}\n", site.path().join("base").display());
        std::fs::write(etc.join("default.local"), line).unwrap();
        let spec = spec(&published, &server).cache_dir(&cache).env("CVMFS_FUSE_CONFIG_DIR", &etc);
        let upgrade = |mount: &TestMount| {
            let mut command = client!().command();
            command.env("CVMFS_FUSE_CONFIG_DIR", &etc).arg("upgrade").arg(mount.root());
            let output = command.output().unwrap();
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
        };
        let mount = spec.start();
        let said = upgrade(&mount);
        assert!(said.contains(" -> "), "{said}\n{}", mount.log());
        let control = cache.join("control.0");
        assert_eq!(std::fs::metadata(&control).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(&control).unwrap().count(), 1);
        assert!(mount.unmount().success());
        std::fs::remove_dir(&control).unwrap();
        // A member of the group was here first: it is neither used nor believed.
        std::fs::create_dir(&control).unwrap();
        std::os::unix::fs::chown(&control, Some(NOBODY), None).unwrap();
        let mount = spec.start();
        let said = upgrade(&mount);
        assert!(said.contains(" -> "), "{said}\n{}", mount.log());
        assert_eq!(std::fs::read_dir(&control).unwrap().count(), 0);
        // SIGHUP does the same, where there is no address at all.
        let old = mount.server();
        kill(mount.pid(), Signal::SIGHUP).unwrap();
        wait_until(CONDITION, "upgrade", || mount.server() != old).unwrap();
        assert!(mount.unmount().success());
    });
}

/// A program made for upstream's client, which passes no descriptor.
#[test]
#[ignore = "a worker of h1_a_server_that_gave_root_up_believes_root_and_scripts"]
fn script() {
    let Some([socket, command]) = told() else { return };
    println!("heard: {}", raw(UnixStream::connect(socket).unwrap(), &command));
}

#[test]
fn h1_a_server_that_gave_root_up_believes_root_and_scripts() {
    deadline(LIMIT, || {
        private_mounts();
        let site = Site::new(client!());
        std::fs::set_permissions(site.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        site.write("etc/default.d/50-user.conf", "CVMFS_USER=daemon\n");
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let open = tempfile::tempdir().unwrap();
        std::fs::set_permissions(open.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let (cache, root) = (open.path().join("cache"), open.path().join("mnt"));
        std::fs::create_dir(&cache).unwrap();
        std::os::unix::fs::chown(&cache, Some(1), Some(1)).unwrap();
        std::fs::create_dir(&root).unwrap();
        let mut command = spec(&published, &server).command(&root, &cache);
        let mut supervisor =
            command.arg("-f").env("CVMFS_FUSE_CONFIG_DIR", site.path("etc")).spawn().unwrap();
        wait_until(CONDITION, "mount", || get_xattr(&root, b"user.pid").is_ok()).unwrap();
        let pid = String::from_utf8(get_xattr(&root, b"user.pid").unwrap()).unwrap();
        assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 1);
        assert_eq!(talk(&root, "pid"), pid);
        let socket = cache.join(format!("cvmfs_io.{FQRN}"));
        wait_until(CONDITION, "control socket", || socket.exists()).unwrap();
        assert_eq!(child("script", &[socket.to_str().unwrap(), "pid"]).hear("heard:"), pid);
        let (code, said) = run(&["talk", "-p", socket.to_str().unwrap(), "pid"]);
        assert_eq!((code, said.trim_end()), (0, &*pid));
        let (code, said) = run(&["upgrade", root.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        let (code, said) = run(&["umount", root.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        assert!(supervisor.wait().unwrap().success());
    });
}
