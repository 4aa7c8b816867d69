//! The command line against the truth, and where scripts and people are less careful; the contract
//! of each subcommand is in `command_line.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fixtures::genuine::{EntryType, Genuine, TruthEntry};
use fixtures::server::{Network, Rule, TestServer};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{major, minor};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::Digest as _;
use tests::mountinfo::MountInfo;
use tests::{client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(100);
/// Debian's nobody and nogroup.
const NOBODY: u32 = 65534;

/// A genuine repository on a server, and a place for caches and mounts.
struct Site {
    genuine: Genuine,
    server: TestServer,
    scratch: tempfile::TempDir,
}

impl Site {
    fn new(genuine: Genuine) -> Self {
        let server = TestServer::serving(genuine.dir());
        Self { genuine, server, scratch: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = client!().command();
        command
            .arg(subcommand)
            .args(["--server", &format!("{}/@fqrn@", self.server.url())])
            .arg("--public-key")
            .arg(self.genuine.public_key())
            .arg("--cache-dir")
            .arg(self.path("cache"));
        command
    }

    /// `FQRN:/PATH` of an entry of the truth.
    fn target(&self, path: &[u8]) -> OsString {
        let path: &[u8] = if path == b"." { b"" } else { path };
        OsString::from_vec([self.genuine.fqrn().as_bytes(), b":/", path].concat())
    }

    fn targets<'a>(&self, entries: impl IntoIterator<Item = &'a TruthEntry>) -> Vec<OsString> {
        entries.into_iter().map(|entry| self.target(&entry.path)).collect()
    }

    fn mount(&self, name: &str) -> Output {
        fs::create_dir_all(self.path(name)).unwrap();
        self.command("mount").arg(self.genuine.fqrn()).arg(self.path(name)).output().unwrap()
    }
}

/// A failed test leaves nothing mounted.
impl Drop for Site {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.scratch.path()).into_iter().flatten().flatten() {
            if MountInfo::of(&entry.path()).is_some() {
                let _ = client!().command().args(["umount", "--lazy"]).arg(entry.path()).output();
            }
        }
    }
}

fn umount(mountpoint: &Path) -> Output {
    client!().command().arg("umount").arg(mountpoint).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
}

/// The command failed, and its last line says so as scripts expect it.
#[track_caller]
fn assert_failure(output: &Output, code: i32, part: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    // What takes more than two seconds is told first, as progress.
    let is_message =
        |line: &&str| line.starts_with("cvmfs-fuse: ") && !line.contains(": contacting ");
    let messages: Vec<_> = said.lines().filter(is_message).collect();
    assert_eq!(messages.len(), 1, "one message: {said}");
    assert_eq!(said.lines().last(), Some(messages[0]), "nothing after the message");
    assert!(messages[0].contains(part), "no {part:?} in {said}");
    let (_, end) = messages[0].rsplit_once(&format!(" ({code} - ")).expect("the code stands last");
    assert!(end.ends_with(')') && end.len() > 2, "{said}");
}

fn json_bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        other => hex::decode(other["hex"].as_str().unwrap()).unwrap(),
    }
}

fn json_xattrs(object: &Value) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let pairs = object["xattrs"].as_array().unwrap().iter();
    pairs.map(|pair| (json_bytes(&pair["name"]), json_bytes(&pair["value"]))).collect()
}

/// What `stat --json` says of an entry differs from the truth in these.
fn differences(object: &Value, truth: &TruthEntry) -> Vec<&'static str> {
    let kind = match truth.entry_type {
        EntryType::Directory => "directory",
        EntryType::File => "file",
        EntryType::Symlink => "symlink",
        EntryType::Fifo => "fifo",
        EntryType::Socket => "socket",
        EntryType::CharDevice => "character device",
        EntryType::BlockDevice => "block device",
    };
    let number = |name: &str| object[name].as_i64().unwrap();
    let path = if truth.path == b"." { b"/".to_vec() } else { [b"/", &truth.path[..]].concat() };
    let rdev = |n: u64| serde_json::json!({ "major": major(n), "minor": minor(n) });
    let nanoseconds = object["mtime_ns"].as_i64().unwrap_or_default();
    [
        ("path", json_bytes(&object["path"]) == path),
        ("kind", object["kind"] == kind),
        ("mode", object["mode"] == format!("{:04o}", truth.mode)),
        ("uid", number("uid") == i64::from(truth.uid)),
        ("gid", number("gid") == i64::from(truth.gid)),
        ("mtime", number("mtime") * 1_000_000_000 + nanoseconds == truth.mtime_ns),
        ("size", truth.size.is_none_or(|size| object["size"] == size)),
        ("nlink", truth.nlink.is_none_or(|nlink| object["nlink"] == nlink)),
        ("rdev", truth.rdev.is_none_or(|n| object["rdev"] == rdev(n))),
        ("target", truth.target.as_ref().is_none_or(|t| json_bytes(&object["target"]) == *t)),
        ("xattrs", json_xattrs(object) == truth.xattrs),
    ]
    .into_iter()
    .filter_map(|(name, equal)| (!equal).then_some(name))
    .collect()
}

#[test]
fn stat_tells_the_truth_of_every_entry() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::small());
        let truth = site.genuine.truth();
        let output =
            site.command("stat").arg("--json").args(site.targets(&truth)).output().unwrap();
        assert_success(&output);
        let objects: Vec<Value> =
            text(&output.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(objects.len(), truth.len(), "one line each");
        for (object, entry) in objects.iter().zip(&truth) {
            assert_eq!(differences(object, entry), [""; 0], "{object}\n{entry:?}");
        }
    });
}

#[test]
fn cat_prints_every_file_of_the_truth() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::small());
        let truth = site.genuine.truth();
        let files: Vec<_> =
            truth.iter().filter(|entry| entry.entry_type == EntryType::File).collect();
        let output =
            site.command("cat").args(site.targets(files.iter().copied())).output().unwrap();
        assert_success(&output);
        let mut rest = output.stdout.as_slice();
        for file in files {
            let size = usize::try_from(file.size.unwrap()).unwrap();
            let (content, after) = rest.split_at_checked(size).expect("all is printed");
            let digest = hex::encode(sha2::Sha256::digest(content));
            assert_eq!(Some(digest), file.sha256, "{}", text(&file.path));
            rest = after;
        }
        assert!(rest.is_empty(), "{} bytes too much", rest.len());
    });
}

#[test]
fn ls_lists_every_directory_of_the_truth() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::small());
        let mut listings: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for entry in site.genuine.truth() {
            if entry.entry_type == EntryType::Directory {
                listings.entry(entry.path.clone()).or_default();
            }
            if entry.path != b"." {
                let slash = entry.path.iter().rposition(|&byte| byte == b'/');
                let (parent, name) = match slash {
                    Some(at) => (entry.path[..at].to_vec(), entry.path[at + 1..].to_vec()),
                    None => (b".".to_vec(), entry.path.clone()),
                };
                listings.entry(parent).or_default().insert(name);
            }
        }
        let directories: Vec<_> = listings.keys().map(|path| site.target(path)).collect();
        let output = site.command("ls").args(&directories).output().unwrap();
        assert_success(&output);
        let mut expected = Vec::new();
        for (at, (directory, names)) in directories.iter().zip(listings.values()).enumerate() {
            expected.extend_from_slice(if at == 0 { b"" } else { b"\n" });
            expected.extend_from_slice(directory.as_bytes());
            expected.extend_from_slice(b":\n");
            // Sorted by bytes, raw because this is a pipe.
            for name in names {
                expected.extend_from_slice(name);
                expected.push(b'\n');
            }
        }
        if output.stdout != expected {
            let lines =
                |bytes: &[u8]| -> Vec<String> { text(bytes).lines().map(str::to_owned).collect() };
            let (got, want) = (lines(&output.stdout), lines(&expected));
            let at = got.iter().zip(&want).position(|(got, want)| got != want);
            panic!("line {at:?}: {:?}, not {:?}", at.map(|i| &got[i]), at.map(|i| &want[i]));
        }
    });
}

#[test]
fn what_is_missing_does_not_stop_the_rest() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::small());
        let targets: Vec<_> = ["hello.txt", "none", "nested", "one-byte", "hello.txt/below"]
            .map(|path| site.target(path.as_bytes()))
            .to_vec();
        let run = |subcommand: &str| site.command(subcommand).args(&targets).output().unwrap();
        let cat = run("cat");
        assert_eq!(cat.status.code(), Some(1));
        assert!(cat.stdout.starts_with(b"hello cvmfs\n") && cat.stdout.len() == 13);
        let said = text(&cat.stderr);
        for (part, why) in
            [("/none", "no such file"), ("/nested", "directory"), ("/below", "not a directory")]
        {
            let line = said.lines().find(|line| line.contains(part)).unwrap_or_default();
            assert!(line.contains(why) && line.ends_with("(1 - unknown error)"), "{part}: {said}");
        }
        assert_eq!(said.lines().count(), 3, "{said}");
        for subcommand in ["ls", "stat"] {
            let output = run(subcommand);
            assert_eq!(output.status.code(), Some(1), "{subcommand}");
            assert_eq!(text(&output.stderr).lines().count(), 2, "{subcommand}");
            assert!(text(&output.stdout).contains("/one-byte"), "{subcommand}");
        }
    });
}

/// `cvmfs-fuse cat ... | head -c 1`: no message, no panic.
#[test]
fn a_reader_that_leaves_is_no_error() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::small());
        for (subcommand, path) in [("cat", "big-chunked.bin"), ("ls", "many")] {
            let mut command = site.command(subcommand);
            command.args(vec![site.target(path.as_bytes()); 20]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(text(&output.stderr), "", "{subcommand}");
            assert!(output.status.success(), "{subcommand}: {}", output.status);
        }
    });
}

#[test]
fn content_that_fails_its_check_is_not_printed() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::small());
        let target = site.target(b"random.bin");
        let stat = site.command("stat").arg("--json").arg(&target).output().unwrap();
        let object: Value = serde_json::from_slice(&stat.stdout).unwrap();
        let hash = object["hash"].as_str().unwrap();
        let pattern = format!("*/data/{}/{}*", &hash[..2], &hash[2..]);
        site.server.rule(Rule::on(pattern.clone()).flip_bit(1000));
        let cat = site.command("cat").arg(&target).output().unwrap();
        assert!(site.server.count(&pattern) > 0);
        assert!(!cat.status.success() && cat.stdout.is_empty(), "{} bytes", cat.stdout.len());
        assert!(text(&cat.stderr).contains("/random.bin"), "{}", text(&cat.stderr));
        site.server.clear();
        assert_success(&site.command("cat").arg(&target).output().unwrap());
    });
}

#[test]
fn snapshots_by_tag_and_hash_are_other_trees() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::small());
        let root = site.target(b".");
        let stat = |flags: &[&str]| -> Value {
            let output =
                site.command("stat").args(flags).arg("--json").arg(&root).output().unwrap();
            assert_success(&output);
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let (newest, first) = (stat(&[]), stat(&["--tag", "first"]));
        assert_eq!(newest["revision"], site.genuine.revision());
        assert!(first["revision"].as_u64() < newest["revision"].as_u64(), "{first}");
        let hash = first["catalog"]["hash"].as_str().unwrap();
        assert_eq!(stat(&["--root-hash", hash])["catalog"], first["catalog"]);
    });
}

#[test]
fn wrong_command_lines_end_with_2_and_say_how() {
    for line in
        ["", "frob", "mount", "mount --nope a.b.c /m", "umount", "ls", "cat --long x", "demo a b"]
    {
        let output = client!().command().args(line.split_whitespace()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(said.contains("Usage:") && output.stdout.is_empty(), "{line}: {said}");
    }
    for (line, part) in [
        ("ls atlas", "atlas.cern.ch"),
        ("cat x.example.org:/a", "give --server URL and --public-key FILE"),
        ("stat cms.cern.ch:/ --server ftp://x", "only http://"),
    ] {
        let output = client!().command().args(line.split_whitespace()).output().unwrap();
        assert_failure(&output, 2, part);
    }
    let version = client!().command().arg("--version").output().unwrap();
    assert!(text(&version.stdout).starts_with("cvmfs-fuse "), "{}", text(&version.stdout));
}

#[test]
fn each_help_has_examples() {
    for subcommand in ["mount", "umount", "ls", "cat", "stat", "demo"] {
        let shown = client!().command().args([subcommand, "--help"]).output().unwrap();
        assert_success(&shown);
        let help = text(&shown.stdout);
        let (_, examples) = help.split_once("Examples:\n").expect("examples have a headline");
        assert!(examples.contains(&format!("cvmfs-fuse {subcommand}")), "{help}");
    }
}

#[test]
fn without_a_server_every_command_says_so_with_16() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::gc());
        site.server.set_network(Network::Refusing);
        fs::create_dir(site.path("m")).unwrap();
        for subcommand in ["ls", "cat", "stat"] {
            let output = site.command(subcommand).arg(site.target(b"hello.txt")).output().unwrap();
            assert_failure(&output, 16, "--server");
            assert!(output.stdout.is_empty());
        }
        let output = site.mount("m");
        assert_failure(&output, 16, "--server");
        let said = text(&output.stderr);
        let errors = said.lines().filter(|line| !line.contains(": contacting ")).count();
        assert!(said.contains(&site.server.url()) && errors == 1, "{said}");
        assert_eq!(MountInfo::of(&site.path("m")), None);
    });
}

#[test]
fn places_that_cannot_be_mounted_on() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::gc());
        fs::write(site.path("file"), b"").unwrap();
        fs::create_dir(site.path("full")).unwrap();
        fs::write(site.path("full/below"), b"below").unwrap();
        let mount = |path: &Path| {
            site.command("mount").arg(site.genuine.fqrn()).arg(path).output().unwrap()
        };
        assert_failure(&mount(&site.path("none")), 3, "mkdir -p");
        assert_failure(&mount(&site.path("file")), 3, "not a directory");
        assert!(!site.path("none").exists(), "nothing is made behind the user's back");

        // What is below a mount is back after it.
        assert_success(&mount(&site.path("full")));
        assert!(!site.path("full/below").exists());
        let other = Genuine::none();
        site.server.add_root(other.dir());
        let mut second = client!().command();
        second
            .arg("mount")
            .arg(other.fqrn())
            .arg(site.path("full"))
            .args(["--server", &site.server.base(other.fqrn())])
            .arg("--public-key")
            .arg(other.public_key())
            .arg("--cache-dir")
            .arg(site.path("cache"));
        assert_failure(&second.output().unwrap(), 21, "umount --lazy");
        assert_success(&umount(&site.path("full")));
        assert_eq!(fs::read(site.path("full/below")).unwrap(), b"below");
    });
}

#[test]
fn umount_refuses_what_is_not_ours() {
    deadline(LIMIT, || {
        let scratch = tempfile::tempdir().unwrap();
        assert_failure(&umount(scratch.path()), 1, "not mounted");
        assert_failure(&umount(&scratch.path().join("none")), 1, "No such file");
        assert_failure(&umount(Path::new("/proc")), 1, "type proc");
        assert!(Path::new("/proc/self").exists());
    });
}

/// Two mounts of one repository share a cache, and neither disturbs the other.
#[test]
fn one_repository_on_two_directories_with_one_cache() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::gc());
        for name in ["m1", "m2"] {
            assert_success(&site.mount(name));
        }
        let names = |name: &str| fs::read_dir(site.path(name)).unwrap().count();
        assert_eq!(names("m1"), names("m2"));
        assert!(names("m1") > 0);
        assert_success(&umount(&site.path("m1")));
        assert_eq!(names("m1"), 0);
        assert!(names("m2") > 0);
        assert_success(&umount(&site.path("m2")));
        let log = site.path("cache/log").join(format!("{}.log", site.genuine.fqrn()));
        assert!(log.is_file(), "the background process has a log");
    });
}

/// A mount in the background holds neither the directory it was started in nor a pipe.
#[test]
fn a_background_mount_lets_go_of_its_caller() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::gc());
        let start = site.path("start");
        fs::create_dir(&start).unwrap();
        fs::create_dir(site.path("m")).unwrap();
        // A relative mountpoint; output() waits until nobody holds the pipes any more.
        let mut command = site.command("mount");
        command.current_dir(&start).arg(site.genuine.fqrn()).arg("../m");
        assert_success(&command.output().unwrap());
        let pid = tests::walk::get_xattr(&site.path("m"), b"user.pid").unwrap();
        let process = Path::new("/proc").join(text(&pid));
        assert_eq!(fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));
        assert_success(&umount(&site.path("m")));
        // A zombie has ended; who reaps it is not up to us.
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "umount waits for the server: {stat}");
    });
}

#[test]
fn a_user_has_the_cache_where_xdg_says() {
    deadline(LIMIT, || {
        let site = Site::new(Genuine::small());
        // The key is below a directory of ours, which a user may not enter.
        let key = site.path("key");
        fs::copy(site.genuine.public_key(), &key).unwrap();
        fs::set_permissions(
            site.scratch.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let [home, xdg] = ["home", "xdg"].map(|name| {
            fs::create_dir(site.path(name)).unwrap();
            chown(site.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
            site.path(name)
        });
        let run = |variables: &[(&str, &OsStr)]| {
            let mut command = client!().command();
            command
                .arg("cat")
                .arg(site.target(b"hello.txt"))
                .args(["--server", &site.server.base(site.genuine.fqrn())])
                .arg("--public-key")
                .arg(&key)
                .env_clear()
                .envs(variables.iter().copied())
                .uid(NOBODY)
                .gid(NOBODY)
                .current_dir("/");
            command.output().unwrap()
        };
        let (home_variable, xdg_variable) =
            (("HOME", home.as_os_str()), ("XDG_CACHE_HOME", xdg.as_os_str()));
        for (variables, place) in [
            (&[home_variable, xdg_variable][..], xdg.join("cvmfs-fuse")),
            (&[home_variable], home.join(".cache/cvmfs-fuse")),
        ] {
            let output = run(variables);
            assert_success(&output);
            assert_eq!(output.stdout, b"hello cvmfs\n");
            let made = fs::metadata(place.join("v2")).unwrap();
            assert_eq!((made.uid(), made.mode() & 0o077), (NOBODY, 0), "{}", place.display());
        }
        assert!(!home.join("cvmfs-fuse").exists());
        assert_failure(&run(&[]), 9, "--cache-dir");
        // A relative path is invalid and ignored, as the XDG specification says.
        assert_failure(&run(&[("XDG_CACHE_HOME", OsStr::new("relative"))]), 9, "--cache-dir");
    });
}

/// Names in a directory.
fn left_in(directory: &Path) -> Vec<OsString> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn the_demo_ends_with_ctrl_c_and_leaves_nothing() {
    deadline(LIMIT, || {
        let scratch = tempfile::tempdir().unwrap();
        // Without a directory it takes a temporary one.
        let once =
            client!().command().args(["demo", "--once"]).env("TMPDIR", scratch.path()).output();
        assert_success(&once.unwrap());
        assert_eq!(left_in(scratch.path()), [""; 0]);

        let mut child = client!()
            .command()
            .arg("demo")
            .env("TMPDIR", scratch.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut shown = String::new();
        let mut stdout = child.stdout.take().unwrap();
        let mut piece = [0; 4096];
        while !shown.contains("Ctrl-C unmounts") {
            let n = stdout.read(&mut piece).unwrap();
            assert_ne!(n, 0, "{shown}");
            shown.push_str(&text(&piece[..n]));
        }
        let mounted = || fs::read_to_string("/proc/self/mountinfo").unwrap();
        let place = scratch.path().to_str().unwrap();
        assert!(mounted().contains(place), "{shown}");
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        let start = Instant::now();
        let mut status = None;
        wait_until(Duration::from_secs(15), "end of the demo", || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .unwrap();
        assert!(status.unwrap().success(), "{status:?} after {:?}", start.elapsed());
        assert!(!mounted().contains(place));
        assert_eq!(left_in(scratch.path()), [""; 0]);
    });
}
