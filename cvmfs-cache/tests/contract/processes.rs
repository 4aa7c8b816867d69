//! Several processes on one directory, some of them killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cvmfs_cache::Naming;
use cvmfs_core::cache::{ObjectCache as _, ObjectMeta};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::Compression;

use crate::stores::{commit, every_directory, files, id_of, open, open_plain, proof, read, stored};

#[test]
fn a_directory_opened_again_has_its_objects() {
    every_directory(|directory, naming| {
        let body = stored(b"kept");
        let id = id_of(&body, Compression::Zlib);
        let object = commit(&open(directory, naming), id, &body);
        let path = object.path().unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o400);
        assert_eq!(std::fs::read(path).unwrap(), b"kept");

        let again = open(directory, Naming::Named);
        assert_eq!(open_plain(&again, &id).as_deref(), Some(&b"kept"[..]));
        assert_eq!(again.usage().used, 4);
    });
}

#[test]
fn what_a_dead_process_left_is_removed_and_what_a_live_one_writes_is_not() {
    every_directory(|directory, naming| {
        let cache = open(directory, naming);
        let body = stored(b"in time");
        let id = id_of(&body, Compression::Zlib);
        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(b"in ").unwrap();
        let leftover = directory.join("v2/txn/fetch-0123456789abcdef");
        std::fs::write(&leftover, b"half").unwrap();

        let _second = open(directory, naming);
        assert!(!leftover.exists());
        transaction.write(b"time").unwrap();
        transaction.commit(proof(id, &body).1).unwrap();
        assert_eq!(open_plain(&cache, &id).as_deref(), Some(&b"in time"[..]));
    });
}

/// The objects that writers in other processes store, of very different sizes.
fn shared_body(number: usize) -> Vec<u8> {
    let byte = u8::try_from(number % 251).unwrap();
    vec![byte; (number * 7919) % 200_000 + 1]
}

/// Not a test: the other process of the tests below. It reads what to do from standard input.
#[test]
#[ignore = "run by other tests"]
fn writer() {
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    let (Some(directory), Some(naming), Some(rounds)) = (lines.next(), lines.next(), lines.next())
    else {
        return; // Somebody runs all ignored tests.
    };
    let naming = if naming == "Named" { Naming::Named } else { Naming::Unnamed };
    let cache = open(Path::new(&directory), naming);
    println!("ready");
    lines.next();
    for round in 0..rounds.parse().unwrap() {
        for number in 0..50 {
            let body = shared_body(number);
            let id = id_of(&body, Compression::None);
            assert_eq!(read(&commit(&cache, id, &body)), body);
            assert!(open_plain(&cache, &id).is_none_or(|found| found == body));
            if (round + number) % 3 == 0 {
                cache.discard(&id).unwrap();
            }
            println!("stored {number}");
        }
    }
}

struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Writer {
    fn start(directory: &Path, naming: Naming, rounds: usize, umask: &str) -> Self {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", umask])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "processes::writer", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let directory = directory.display();
        writeln!(child.stdin.as_mut().unwrap(), "{directory}\n{naming:?}\n{rounds}").unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut writer = Self { child, lines };
        writer.wait_for("ready");
        writer
    }

    fn go(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap(), "go").unwrap();
    }

    /// Reads on until a line ends with `text`; the harness writes lines of its own.
    fn wait_for(&mut self, text: &str) {
        for line in self.lines.by_ref() {
            if line.unwrap().ends_with(text) {
                return;
            }
        }
        panic!("the writer ended before {text:?}");
    }

    fn finish(mut self) {
        self.lines.by_ref().for_each(drop);
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Checks that all names are those of their bytes; returns how many there are.
fn assert_all_whole(directory: &Path) -> usize {
    let objects = files(&directory.join("v2/objects"));
    for path in &objects {
        let bytes = std::fs::read(path).unwrap();
        let hash = ContentHash::of(HashAlgorithm::Sha1, &bytes).to_string();
        assert!(path.ends_with(format!("{}/{}.none", &hash[..2], &hash[2..])), "{path:?}");
    }
    objects.len()
}

#[test]
fn processes_commit_the_same_objects() {
    every_directory(|directory, naming| {
        let mut writers: Vec<_> =
            (0..3).map(|_| Writer::start(directory, naming, 4, "022")).collect();
        writers.iter_mut().for_each(Writer::go);
        writers.into_iter().for_each(Writer::finish);
        assert!(assert_all_whole(directory) > 0);
        assert_eq!(files(&directory.join("v2/txn")), [] as [&Path; 0]);
    });
}

#[test]
fn a_killed_process_leaves_no_partial_object() {
    every_directory(|directory, naming| {
        let cache = open(directory, naming);
        for number in [0, 3, 11, 20, 28, 35, 49] {
            let mut writer = Writer::start(directory, naming, 1000, "022");
            writer.go();
            writer.wait_for(&format!("stored {number}"));
            writer.kill();
            assert_all_whole(directory);
            // The next start cleans up, and every object is either there or not.
            let next = open(directory, naming);
            assert_eq!(files(&directory.join("v2/txn")), [] as [&Path; 0]);
            for number in 0..50 {
                let body = shared_body(number);
                let id = id_of(&body, Compression::None);
                assert!(open_plain(&next, &id).is_none_or(|found| found == body));
                assert_eq!(read(&commit(&cache, id, &body)), body);
            }
        }
    });
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    for (given, directories, objects, controls) in
        [(0o700, 0o700, 0o400, 0o600), (0o2770, 0o2770, 0o440, 0o660)]
    {
        every_directory(|scratch, naming| {
            let directory = scratch.join("cache");
            std::fs::create_dir(&directory).unwrap();
            std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(given)).unwrap();
            let mut writer = Writer::start(&directory, naming, 1, "777");
            writer.go();
            writer.finish();
            let root = directory.join("v2");
            for path in files(&root) {
                let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
                let is_record = path.starts_with(root.join("records"));
                let is_object =
                    path.starts_with(root.join("objects")) || path.ends_with("CACHEDIR.TAG");
                let expected = if is_object {
                    objects
                } else if is_record {
                    0o600
                } else {
                    controls
                };
                assert_eq!(mode(&path), expected, "{path:?}");
                assert_eq!(mode(path.parent().unwrap()), directories, "{path:?}");
            }
            assert!(root.join("index.sqlite").exists() && root.join("gauge").exists());
        });
    }
}
