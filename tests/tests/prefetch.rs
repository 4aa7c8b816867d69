//! Files are fetched before they are read, where reads show a pattern; and not where they do not.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, TestServer};
use rustix::fs::Advice;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const FQRN: &str = "prefetch.test.repo";
const LIMIT: Duration = Duration::from_secs(100);
const SOON: Duration = Duration::from_secs(30);
const DIRECTORIES: usize = 6;
const FILES: usize = 10;

fn content(name: &str) -> Vec<u8> {
    name.repeat(50).into_bytes()
}

fn name(directory: usize, file: usize) -> String {
    format!("w/d{directory}/f{file}")
}

fn tree() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(3600);
    for directory in 0..DIRECTORIES {
        for file in 0..FILES {
            let name = name(directory, file);
            repo.file(format!("/{name}"), content(&name));
        }
        // Each in a catalog of its own, which a walk has to fetch first.
        repo.nested(format!("/w/d{directory}"));
    }
    repo
}

fn mounted(published: &Published, server: &TestServer, arguments: &[&str]) -> TestMount {
    let mut spec = MountSpec::published(&client!(), published, &[server]);
    for argument in arguments {
        spec = spec.arg(argument);
    }
    spec.impatient().start()
}

/// How often the objects of a directory's files were asked for.
fn asked(published: &Published, server: &TestServer, directory: usize) -> usize {
    let object = |file| published.file_object(format!("/{}", name(directory, file))).unwrap();
    (0..FILES)
        .map(|file| {
            let path = published.object_path(&object(file));
            server.count(&format!("*/{}", path.file_name().unwrap().to_str().unwrap()))
        })
        .sum()
}

fn read(mount: &TestMount, directory: usize, file: usize) {
    let name = name(directory, file);
    assert_eq!(fs::read(mount.path(&name)).unwrap(), content(&name), "{name}");
}

/// Like a program that imports modules of a package: two of a directory, in any order.
#[test]
fn the_neighbours_of_two_files_are_fetched() {
    deadline(LIMIT, || {
        let published = tree().publish();
        let server = TestServer::serving(published.root());
        let mount = mounted(&published, &server, &[]);
        read(&mount, 0, 7);
        assert_eq!(asked(&published, &server, 0), 1, "one file says nothing");
        read(&mount, 0, 2);
        wait_until(SOON, "the others", || asked(&published, &server, 0) == FILES).unwrap();
        let here = || mount.attribute("user.prefetched").unwrap() != "0 0";
        wait_until(SOON, "they are stored", || here() && fetched(&mount) == FILES - 2).unwrap();
        server.set_network(Network::Refusing);
        for file in 0..FILES {
            read(&mount, 0, file);
        }
        assert!(fs::read(mount.path(name(1, 0))).is_err(), "nobody has read in there");
        assert_eq!(used(&mount), FILES - 2);
    });
}

/// The number of objects in an attribute about them.
fn count(mount: &TestMount, name: &str) -> usize {
    mount.attribute(name).unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn fetched(mount: &TestMount) -> usize {
    count(mount, "user.prefetched")
}

fn used(mount: &TestMount) -> usize {
    count(mount, "user.prefetch_used")
}

/// As tar, cp and rsync do it: entries in the order of the listing.
#[test]
fn a_walk_finds_the_next_directories_there() {
    deadline(LIMIT, || {
        let published = tree().publish();
        let server = TestServer::serving(published.root());
        let mount = mounted(&published, &server, &[]);
        let listed = |path: &str| {
            let entries = fs::read_dir(mount.path(path)).unwrap().map(Result::unwrap);
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let directories = listed("w");
        let read_all = |directory: &str| {
            for file in listed(&format!("w/{directory}")) {
                let name = format!("w/{directory}/{file}");
                assert_eq!(fs::read(mount.path(&name)).unwrap(), content(&name), "{name}");
            }
        };
        let number = |directory: &str| directory[1..].parse::<usize>().unwrap();
        read_all(&directories[0]);
        for directory in &directories[1..] {
            let all_asked = || asked(&published, &server, number(directory)) == FILES;
            wait_until(SOON, "the next directory", all_asked).unwrap();
        }
        let all = DIRECTORIES * FILES;
        wait_until(SOON, "all is stored", || fetched(&mount) + 2 >= all - FILES).unwrap();
        server.set_network(Network::Refusing);
        directories.iter().for_each(|directory| read_all(directory));
        for directory in 0..DIRECTORIES {
            assert_eq!(asked(&published, &server, directory), FILES, "nothing is fetched twice");
        }
    });
}

#[test]
fn the_next_chunks_of_a_file_are_fetched_for_who_reads_on() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(3600);
        let big: Vec<u8> = (0..8_u32 << 20).map(|n| (n % 253).to_le_bytes()[0]).collect();
        // No two chunks are the same object: their length is no multiple of 253.
        repo.chunked("/big", big.clone(), 1 << 20);
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let asked = |piece: usize| {
            let (_, _, object) = published.chunk_objects("/big")[piece];
            let path = published.object_path(&object);
            server.count(&format!("*/{}", path.file_name().unwrap().to_str().unwrap()))
        };
        let mount = mounted(&published, &server, &[]);
        let file = fs::File::open(mount.path("big")).unwrap();
        let mut buffer = vec![0; 1 << 20];
        for piece in 0..2_usize {
            let offset = piece << 20;
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, offset as u64).unwrap();
            assert!(buffer == big[offset..offset + (1 << 20)]);
        }
        wait_until(SOON, "chunks behind", || (2..5).all(|piece| asked(piece) == 1)).unwrap();
        drop(file);
        assert!(fs::read(mount.path("big")).unwrap() == big);
        assert!((0..8).all(|piece| asked(piece) == 1), "nothing is fetched twice");
    });
}

#[test]
fn it_can_be_switched_off() {
    deadline(LIMIT, || {
        let published = tree().publish();
        let server = TestServer::serving(published.root());
        let mount = mounted(&published, &server, &["--set=CVMFS_FUSE_PREFETCH=no"]);
        for file in 0..FILES - 1 {
            read(&mount, 0, file);
        }
        assert_eq!(fetched(&mount), 0);
        assert_eq!(asked(&published, &server, 0), FILES - 1);
    });
}

/// Tells of which files the kernel has nothing in memory. A read to find out would have some of it read.
fn on_disk_only(paths: impl Iterator<Item = PathBuf>) -> Vec<bool> {
    let options = ["--noheadings", "--raw", "--output", "PAGES"];
    let output = Command::new("fincore").args(options).args(paths).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(|pages| pages.trim() == "0").collect()
}

/// A cache that the kernel has not in memory, as after a reboot.
#[test]
fn neighbours_that_are_cached_are_read_from_disk() {
    deadline(LIMIT, || {
        let published = tree().publish();
        let server = TestServer::serving(published.root());
        // Beside the build, which is on a disk.
        let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let spec = MountSpec::published(&client!(), &published, &[&server]).cache_dir(cache.path());
        let mount = spec.clone().arg("--set=CVMFS_FUSE_PREFETCH=no").start();
        for (directory, file) in
            (0..2).flat_map(|directory| (0..FILES).map(move |f| (directory, f)))
        {
            read(&mount, directory, file);
        }
        drop(mount);
        let object = |directory, file| {
            let object = published.file_object(format!("/{}", name(directory, file))).unwrap();
            let path = published.object_path(&object);
            let name = path.file_name().unwrap();
            let fan = path.parent().unwrap().file_name().unwrap();
            cache.path().join("v2/objects").join(fan).join(name)
        };
        let objects = |directory| (0..FILES).map(move |file| object(directory, file));
        for path in (0..2).flat_map(objects) {
            let file = fs::File::open(&path).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
        let none = [true; FILES];
        assert_eq!(on_disk_only(objects(0)), none, "the tests' directory must be on a disk");
        server.set_network(Network::Refusing);
        let mount = spec.start();
        read(&mount, 0, 7);
        read(&mount, 0, 2);
        let others_are_here = || on_disk_only(objects(0)) == [false; FILES];
        wait_until(SOON, "the others are in memory", others_are_here).unwrap();
        assert_eq!(on_disk_only(objects(1)), none, "nobody has read in there");
    });
}

/// What is fetched ahead comes no faster than it may, and what is asked for is not held up by that.
#[test]
fn a_bound_of_bandwidth_holds_guesses_back_and_nothing_else() {
    deadline(LIMIT, || {
        let published = tree().publish();
        let server = TestServer::serving(published.root());
        // A byte a second: the first one may begin, the others would come after hours.
        let mount = mounted(&published, &server, &["--set=CVMFS_FUSE_PREFETCH_BANDWIDTH=1"]);
        read(&mount, 0, 0);
        read(&mount, 0, 1);
        wait_until(SOON, "one guess", || fetched(&mount) == 1).unwrap();
        for file in 0..FILES {
            read(&mount, 0, file);
        }
        assert_eq!(fetched(&mount), 1);
        assert_eq!(asked(&published, &server, 0), FILES);
    });
}

/// A module as CPython 3.11 compiles it, which does nothing but import others.
fn compiled(imports: &[&str]) -> Vec<u8> {
    let length = |len: usize| u32::try_from(len).unwrap().to_le_bytes();
    let short =
        |kind: u8, bytes: &[u8]| [&[kind, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let long = |bytes: &[u8]| [&b"s"[..], &length(bytes.len()), bytes].concat();
    // For each: LOAD_CONST 0 (the level), LOAD_CONST 1 (None), IMPORT_NAME.
    let code = (0..imports.len()).flat_map(|n| [100, 0, 100, 1, 108, u8::try_from(n).unwrap()]);
    let names = imports.iter().flat_map(|name| short(b'z', name.as_bytes()));
    let mut file = 3495_u16.to_le_bytes().to_vec();
    file.extend(b"\r\n");
    file.extend([0; 12]);
    file.push(b'c');
    file.extend([0; 20]);
    file.extend(long(&code.collect::<Vec<_>>()));
    file.extend([b')', 2, b'i', 0, 0, 0, 0, b'N']);
    file.extend([b')', u8::try_from(imports.len()).unwrap()]);
    file.extend(names);
    file.extend([b')', 0]);
    file.extend(long(b""));
    // File, name, and name with its class; the number makes each module another object.
    file.extend(
        [short(b'z', b"x.py"), short(b'z', b"x"), short(b'z', imports.concat().as_bytes())]
            .concat(),
    );
    file.extend([0; 4]);
    file.extend([long(b""), long(b"")].concat());
    file
}

/// An interpreter comes to each module only when it has run the ones before.
#[test]
fn what_a_module_imports_is_fetched_and_what_that_imports() {
    deadline(LIMIT, || {
        let files = [
            ("py/__pycache__/a.cpython-311.pyc", compiled(&["b", "fast", "missing"])),
            ("py/__pycache__/b.cpython-311.pyc", compiled(&["pkg.deep.leaf"])),
            ("py/pkg/__pycache__/__init__.cpython-311.pyc", compiled(&["pkg.sibling"])),
            ("py/pkg/__pycache__/sibling.cpython-311.pyc", compiled(&[])),
            ("py/pkg/deep/__pycache__/__init__.cpython-311.pyc", compiled(&["a", "a"])),
            ("py/pkg/deep/__pycache__/leaf.cpython-311.pyc", compiled(&["pkg"])),
            ("py/fast.cpython-311-x86_64-linux-gnu.so", b"no ELF".to_vec()),
        ];
        let others = [
            ("py/__pycache__/c.cpython-311.pyc", compiled(&["c"])),
            ("py/__pycache__/b.cpython-310.pyc", compiled(&["of", "another", "version"])),
            ("py/pkg/__pycache__/d.cpython-311.pyc", compiled(&["d"])),
            ("py/other.so", b"not imported".to_vec()),
        ];
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(3600);
        for (name, content) in files.iter().chain(&others) {
            repo.file(format!("/{name}"), content.clone());
        }
        repo.nested("/py/pkg/deep");
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = mounted(&published, &server, &[]);
        let asked = |name: &str| {
            let object = published.file_object(format!("/{name}")).unwrap();
            let path = published.object_path(&object);
            server.count(&format!("*/{}", path.file_name().unwrap().to_str().unwrap()))
        };
        let read = |(name, content): &(&str, Vec<u8>)| {
            assert!(fs::read(mount.path(name)).unwrap() == *content, "{name}");
        };
        read(&files[0]);
        let all = || fetched(&mount) == files.len() - 1;
        wait_until(SOON, "all that is imported", all).unwrap();
        server.set_network(Network::Refusing);
        files.iter().for_each(read);
        server.set_network(Network::Up);
        for (name, _) in &files {
            assert_eq!(asked(name), 1, "{name}");
        }
        for (name, _) in &others {
            assert_eq!(asked(name), 0, "nobody imports {name}");
        }
        assert_eq!(used(&mount), files.len() - 1);
    });
}

/// What no version of Python has written is a file like any other.
#[test]
fn modules_that_are_not_understood_have_neighbours() {
    deadline(LIMIT, || {
        let name = |number: usize| format!("py/__pycache__/m{number}.cpython-399.pyc");
        let content = |number| content(&name(number));
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(3600);
        (0..FILES).for_each(|number| _ = repo.file(format!("/{}", name(number)), content(number)));
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = mounted(&published, &server, &[]);
        let read = |number| assert!(fs::read(mount.path(name(number))).unwrap() == content(number));
        for number in 0..FILES {
            read(number);
            if fetched(&mount) > 0 {
                break;
            }
        }
        wait_until(SOON, "some neighbour", || fetched(&mount) > 0).unwrap();
        (0..FILES).for_each(read);
    });
}
