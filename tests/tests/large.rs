//! Large things: a directory of 100,000 entries, files over 4 GiB, files in many chunks; and slow
//! downloads beside them.

#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use fixtures::publish::TestRepo;
use fixtures::server::{Gate, Rule, TestServer};
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(120);
const ENTRIES: usize = 100_000;

fn mount(repo: &mut TestRepo) -> (fixtures::publish::Published, TestServer, TestMount) {
    let published = repo.publish();
    let server = TestServer::serving(published.root());
    let spec = MountSpec::new(
        &client!(),
        published.fqrn(),
        &server.base(published.fqrn()),
        &published.public_key(),
    );
    let mount = spec.start();
    (published, server, mount)
}

#[test]
fn a_directory_of_100_000_entries_lists_each_once() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("large.test.repo");
        repo.many_files("/many", ENTRIES, |i| (format!("f{i}"), "x"));
        let (_published, _server, mount) = mount(&mut repo);
        let mut names = HashSet::new();
        let mut inodes = HashSet::new();
        for entry in std::fs::read_dir(mount.path("many")).unwrap() {
            let entry = entry.unwrap();
            assert!(names.insert(entry.file_name()), "{:?} twice", entry.file_name());
            inodes.insert(std::os::unix::fs::DirEntryExt::ino(&entry));
        }
        assert_eq!((names.len(), inodes.len()), (ENTRIES, ENTRIES));
        assert_eq!(std::fs::read(mount.path("many/f99999")).unwrap(), b"x");
    });
}

#[test]
fn a_file_over_4_gib_is_read_at_every_offset_from_the_chunks_touched() {
    deadline(LIMIT, || {
        const BLOCK: usize = 1 << 20;
        let block: Vec<u8> = (0..BLOCK).map(|i| (i % 251).to_le_bytes()[0]).collect();
        let size = (5u64 << 30) + 12_345;
        let mut repo = TestRepo::new("large.test.repo");
        repo.repeated("/huge", block.clone(), size);
        let (_published, server, mount) = mount(&mut repo);
        let file = File::open(mount.path("huge")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size);
        assert_eq!(server.count("*/data/*P"), 0, "open alone fetches no chunk");
        for offset in [0, 1, (4 << 30) - 7, 4 << 30, (4 << 30) + 99_999, size - 20, size - 1, size]
        {
            let mut buffer = [0; 20];
            let n = file.read_at(&mut buffer, offset).unwrap();
            assert_eq!(n as u64, (size - offset).min(20), "{offset}");
            for (i, byte) in buffer[..n].iter().enumerate() {
                let at = usize::try_from((offset + i as u64) % BLOCK as u64).unwrap();
                assert_eq!(*byte, block[at], "{offset}+{i}");
            }
        }
        assert!(server.count("*/data/*P") <= 2, "one repeated chunk and the last one");
    });
}

#[test]
fn random_access_fetches_only_the_chunks_touched() {
    deadline(LIMIT, || {
        const CHUNK: usize = 4 << 20;
        // Each chunk differs from the others.
        let content: Vec<u8> =
            (0..10 * CHUNK).map(|i| (i % 249 + i / CHUNK).to_le_bytes()[0]).collect();
        let mut repo = TestRepo::new("large.test.repo");
        repo.chunked("/c", content.clone(), CHUNK as u64);
        let (_published, server, mount) = mount(&mut repo);
        let file = File::open(mount.path("c")).unwrap();
        let mut byte = [0];
        for chunk in [7, 2] {
            // In the middle of a chunk, so that read-ahead of the kernel does not leave it.
            let at = chunk * CHUNK + CHUNK / 2;
            file.read_exact_at(&mut byte, at as u64).unwrap();
            assert_eq!(byte[0], content[at]);
        }
        assert_eq!(server.count("*/data/*P"), 2);
        assert_eq!(std::fs::read(mount.path("c")).unwrap(), content);
        assert_eq!(server.count("*/data/*P"), 10);
    });
}

/// More stalled downloads than the client has threads for the kernel.
#[test]
fn slow_downloads_hold_up_nobody_else() {
    deadline(LIMIT, || {
        const SLOW: usize = 40;
        let mut repo = TestRepo::new("large.test.repo");
        repo.file("/warm", b"warm");
        repo.dir("/slow");
        for i in 0..SLOW {
            repo.file(format!("/slow/{i}"), format!("slow {i}").into_bytes());
        }
        let (published, server, mount) = mount(&mut repo);
        assert_eq!(std::fs::read(mount.path("warm")).unwrap(), b"warm");
        let gate = Gate::new();
        for i in 0..SLOW {
            let object = published.file_object(format!("/slow/{i}")).unwrap();
            let path = published.object_path(&object);
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            server.rule(Rule::on(format!("*/{name}")).gate(&gate));
        }
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..SLOW)
                .map(|i| {
                    let path = mount.path(format!("slow/{i}"));
                    scope.spawn(move || std::fs::read(path).unwrap())
                })
                .collect();
            assert!(gate.wait_held(SLOW, Duration::from_secs(5)), "{} of {SLOW}", gate.held());
            // All of them wait for the server; what is here, is here.
            assert_eq!(std::fs::read(mount.path("warm")).unwrap(), b"warm");
            assert_eq!(std::fs::read_dir(mount.path("slow")).unwrap().count(), SLOW);
            assert!(mount.path("nothing").symlink_metadata().is_err());
            assert_eq!(gate.held(), SLOW, "nobody had to give up");
            gate.release();
            for (i, reader) in readers.into_iter().enumerate() {
                assert_eq!(reader.join().unwrap(), format!("slow {i}").into_bytes());
            }
        });
    });
}

#[test]
fn twenty_readers_of_one_file_make_one_request() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("large.test.repo");
        repo.file("/one", b"content of one");
        let (published, server, mount) = mount(&mut repo);
        let object = published.file_object("/one").unwrap();
        let name = published.object_path(&object);
        let pattern = format!("*/{}", name.file_name().unwrap().to_str().unwrap());
        let gate = Gate::new();
        server.rule(Rule::on(pattern.clone()).gate(&gate));
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..20)
                .map(|_| scope.spawn(|| std::fs::read(mount.path("one")).unwrap()))
                .collect();
            assert!(gate.wait_held(1, Duration::from_secs(5)));
            gate.release();
            for reader in readers {
                assert_eq!(reader.join().unwrap(), b"content of one");
            }
        });
        assert_eq!(server.count(&pattern), 1);
    });
}
