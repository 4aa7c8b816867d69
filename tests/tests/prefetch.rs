//! Files are fetched before they are read, where reads show a pattern; and not where they do not.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, TestServer};
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
