//! A live mount beside servers, proxies, caches and signals that misbehave; what `faults.rs` and
//! `large.rs` leave out: slow servers with a good one behind, nested catalogs and single chunks,
//! ways to the server, damage under a live mount, and the end of a mount that is in use.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fixtures::genuine::Genuine;
use fixtures::publish::{Object, Published, TestRepo};
use fixtures::server::{Gate, Network, Rule, TestServer};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use tests::mountinfo::MountInfo;
use tests::walk::assert_equal;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(150);
/// A silent server costs 10 s, and is asked twice at most.
const SILENCE: Duration = Duration::from_secs(25);
const FQRN: &str = "serving.test.repo";

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(5000).collect()
}

/// Pattern of an object on any server.
fn pattern(object: &Object) -> String {
    format!("*/{}", object.relative_path())
}

fn of_file(published: &Published, path: &str) -> String {
    pattern(&published.file_object(path).unwrap())
}

fn of_catalog(published: &Published, mountpoint: &str) -> String {
    pattern(&published.catalog_object(mountpoint).unwrap())
}

fn at(published: &Published, servers: &str) -> MountSpec {
    MountSpec::new(&client!(), published.fqrn(), servers, &published.public_key())
}

fn spec(published: &Published, server: &TestServer) -> MountSpec {
    at(published, &server.base(published.fqrn()))
}

/// A repository of plain files with [`content`].
fn plain(names: &[&str]) -> (Published, TestServer) {
    let mut repo = TestRepo::new(FQRN);
    for name in names {
        repo.file(format!("/{name}"), content(name));
    }
    let published = repo.publish();
    let server = TestServer::serving(published.root());
    (published, server)
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[track_caller]
fn assert_read(mount: &TestMount, name: &str) {
    let read = fs::read(mount.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(read == content(name), "{name}: wrong bytes");
}

/// Who asks in the moment of somebody else's failure may share it.
#[track_caller]
fn assert_heals(mount: &TestMount, name: &str) {
    let heals = || fs::read(mount.path(name)).is_ok_and(|read| read == content(name));
    wait_until(Duration::from_secs(1), "it heals within a second", heals).unwrap();
}

type Fault = (&'static str, fn(Rule) -> Rule);

/// Ways of a server to be slow for ever.
const SLOW: [Fault; 4] = [
    ("no-headers", |rule| rule.delay(Duration::from_secs(60))),
    ("dripping-headers", |rule| rule.header_byte_every(Duration::from_secs(1))),
    ("no-body", |rule| rule.stall_after(0)),
    ("half-a-body", |rule| rule.stall_after(30)),
];

/// Each alone and with a good server behind; all at once, because each needs a timeout.
#[test]
fn slow_servers_give_way_to_a_good_one_or_end_in_eio() {
    deadline(LIMIT, || {
        let (published, _) = plain(&SLOW.map(|(name, _)| name));
        std::thread::scope(|scope| {
            for (name, fault) in SLOW {
                let published = &published;
                scope.spawn(move || {
                    let bad = TestServer::serving(published.root());
                    let good = TestServer::serving(published.root());
                    let alone = spec(published, &bad).start();
                    let servers = [bad.base(FQRN), good.base(FQRN)].join(";");
                    let both = at(published, &servers).start();
                    bad.rule(fault(Rule::on(of_file(published, &format!("/{name}")))));
                    let path = alone.path(name);
                    let reader = std::thread::spawn(move || (fs::read(path), Instant::now()));
                    let start = Instant::now();
                    assert_read(&both, name);
                    assert!(start.elapsed() < SILENCE, "{name}: {:?}", start.elapsed());
                    let object = of_file(published, &format!("/{name}"));
                    assert_eq!(good.count(&object), 1, "{name}: the bad server was not asked");
                    let (read, end) = reader.join().unwrap();
                    assert_eq!(errno(read), Some(libc::EIO), "{name}");
                    assert!(end - start < SILENCE, "{name}: {:?}", end - start);
                    bad.clear();
                    assert_heals(&alone, name);
                });
            }
        });
    });
}

#[test]
fn a_nested_catalog_that_cannot_be_had_is_eio_and_heals() {
    let faults: [Fault; 8] = [
        ("missing", |rule| rule.status(404)),
        ("broken", |rule| rule.status(500)),
        ("flipped", |rule| rule.flip_bit(200)),
        ("cut", |rule| rule.cut_after(100)),
        ("empty", |rule| rule.body(b"")),
        ("garbage", |rule| rule.body(vec![b'x'; 4000])),
        ("longer", |rule| rule.body(vec![0; 4 << 20])),
        ("closed", Rule::close),
    ];
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        for (name, _) in faults {
            repo.nested(format!("/{name}")).mode(0o751);
            repo.file(format!("/{name}/in"), content(name));
        }
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        for (name, fault) in faults {
            server.rule(fault(Rule::on(of_catalog(&published, &format!("/{name}")))));
            // The parent's catalog knows the directory itself.
            assert_eq!(mount.lstat(name).permissions().mode(), 0o40751, "{name}");
            assert_eq!(errno(list(&mount.path(name))), Some(libc::EIO), "{name}");
            for below in ["in", "none", "none/deeper"] {
                let path = mount.path(format!("{name}/{below}"));
                assert_eq!(errno(fs::symlink_metadata(path)), Some(libc::EIO), "{name}/{below}");
            }
        }
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), faults.len());
        server.clear();
        for (name, _) in faults {
            assert_eq!(fs::read_dir(mount.path(name)).unwrap().count(), 1, "{name}");
            assert!(fs::read(mount.path(format!("{name}/in"))).unwrap() == content(name));
            let none = fs::symlink_metadata(mount.path(format!("{name}/none")));
            assert_eq!(errno(none), Some(libc::ENOENT), "{name}");
        }
    });
}

#[test]
fn one_bad_chunk_spoils_only_itself() {
    deadline(LIMIT, || {
        // Larger than the kernel's read-ahead, so that a neighbour is not fetched by it.
        const CHUNK: usize = 1 << 20;
        let content: Vec<u8> =
            (0..4 * CHUNK).map(|i| (i % 241 + i / CHUNK).to_le_bytes()[0]).collect();
        let mut repo = TestRepo::new(FQRN);
        repo.chunked("/c", content.clone(), CHUNK as u64);
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        let chunks = published.chunk_objects("/c");
        server.rule(Rule::on(pattern(&chunks[2].2)).flip_bit(77));
        let file = File::open(mount.path("c")).unwrap();
        let read = |offset: usize| {
            let mut buffer = [0; 100];
            file.read_exact_at(&mut buffer, offset as u64).map(|()| buffer)
        };
        for offset in [0, CHUNK + CHUNK / 2, 3 * CHUNK + CHUNK / 2, 4 * CHUNK - 100] {
            assert!(read(offset).unwrap() == content[offset..offset + 100], "{offset}");
        }
        for offset in [2 * CHUNK, 2 * CHUNK + CHUNK / 2] {
            assert_eq!(errno(read(offset)), Some(libc::EIO), "{offset}");
        }
        assert_eq!(errno(fs::read(mount.path("c"))), Some(libc::EIO));
        server.clear();
        // The descriptor is that of before.
        // Whoever asks at once may share the last failure, but not twice.
        let healed = read(2 * CHUNK).or_else(|_| read(2 * CHUNK)).unwrap();
        assert!(healed == content[2 * CHUNK..2 * CHUNK + 100]);
        assert!(fs::read(mount.path("c")).unwrap() == content);
    });
}

/// Connections that are accepted tell no more about a file than those that are refused.
#[test]
fn every_kind_of_dead_network_is_eio_and_heals() {
    deadline(LIMIT, || {
        std::thread::scope(|scope| {
            for network in [Network::Refusing, Network::Dropping, Network::Silent] {
                scope.spawn(move || {
                    let (published, server) = plain(&["cached", "cold"]);
                    let mount = spec(&published, &server).start();
                    assert_read(&mount, "cached");
                    server.set_network(network);
                    let start = Instant::now();
                    assert_eq!(errno(fs::read(mount.path("cold"))), Some(libc::EIO), "{network:?}");
                    assert!(start.elapsed() < SILENCE, "{network:?}: {:?}", start.elapsed());
                    let start = Instant::now();
                    assert_read(&mount, "cached");
                    let missing = fs::read(mount.path("missing"));
                    assert_eq!(errno(missing), Some(libc::ENOENT), "{network:?}");
                    assert!(start.elapsed() < Duration::from_secs(2), "{network:?} was asked");
                    server.set_network(Network::Up);
                    assert_read(&mount, "cold");
                });
            }
        });
    });
}

#[test]
fn proxies_of_the_environment_are_not_ours() {
    deadline(LIMIT, || {
        let (published, server) = plain(&["x"]);
        let trap = TestServer::empty();
        let mut spec = spec(&published, &server);
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            spec = spec.env(name, trap.url()).env(&name.to_uppercase(), trap.url());
        }
        assert_read(&spec.start(), "x");
        assert_eq!(trap.connections(), 0);
    });
}

#[test]
fn the_given_proxy_is_used_and_the_next_one_if_it_fails() {
    deadline(LIMIT, || {
        let (published, server) = plain(&["one", "two", "three", "four"]);
        let (first, second) = (TestServer::empty(), TestServer::empty());
        for proxy in [&first, &second] {
            // Nobody else knows this host, so an answer is proof of the way.
            proxy.map_host("stratum.invalid", &server);
        }
        let mount = at(&published, &format!("http://stratum.invalid/{FQRN}"))
            .arg("--proxy")
            .arg(format!("{};{}", first.url(), second.url()))
            .without_prefetch()
            .start();
        assert_read(&mount, "one");
        assert!(first.count("*") >= 4, "letters, certificate, catalog, file: {}", first.count("*"));
        assert_eq!(first.count("*"), server.count("*"));
        assert_eq!(second.connections(), 0);

        first.set_network(Network::Refusing);
        assert_read(&mount, "two");
        assert_eq!(second.count("*"), 1);
        second.set_network(Network::Refusing);
        assert_eq!(errno(fs::read(mount.path("three"))), Some(libc::EIO));
        first.set_network(Network::Up);
        assert_read(&mount, "three");

        // A proxy that answers with an error of its own is no word about the file.
        second.set_network(Network::Up);
        let proxy_error = |rule: Rule| rule.status(404).with_header("X-Squid-Error", "ERR_DNS 0");
        first.rule(proxy_error(Rule::on("*")));
        assert_read(&mount, "four");
    });
}

#[test]
fn direct_is_used_where_the_proxy_fails_and_is_in_the_list() {
    deadline(LIMIT, || {
        let (published, server) = plain(&["x"]);
        let proxy = TestServer::empty();
        proxy.set_network(Network::Refusing);
        let mount =
            spec(&published, &server).arg("--proxy").arg(format!("{};DIRECT", proxy.url())).start();
        assert_read(&mount, "x");
        assert_eq!((proxy.connections(), server.count(&of_file(&published, "/x"))), (0, 1));
    });
}

#[test]
fn a_directory_is_a_server_too() {
    deadline(LIMIT, || {
        let genuine = Genuine::gc();
        let url = format!("file://{}/@fqrn@", genuine.dir().display());
        let mount = MountSpec::new(&client!(), genuine.fqrn(), &url, &genuine.public_key()).start();
        assert_equal(&genuine.truth(), mount.root());

        let (published, server) = plain(&["gone", "flipped"]);
        let base = format!("file://{}", published.base().display());
        let mount = at(&published, &base).start();
        let both = at(&published, &format!("{base};{}", server.base(FQRN))).start();
        let [gone, flipped] =
            ["/gone", "/flipped"].map(|path| published.file_object(path).unwrap());
        let (good, aside) = (published.read(&flipped).unwrap(), published.read(&gone).unwrap());
        // The web server has what the directory has lost.
        server.rule(Rule::on(pattern(&gone)).body(aside.clone()));
        server.rule(Rule::on(pattern(&flipped)).body(good.clone()));
        published.remove(&gone).unwrap();
        published.overwrite(&flipped, &aside).unwrap();
        for name in ["gone", "flipped"] {
            assert_eq!(errno(fs::read(mount.path(name))), Some(libc::EIO), "{name}");
            assert_read(&both, name);
        }
        for object in [&gone, &flipped] {
            assert_eq!(server.count(&pattern(object)), 1);
        }
        published.overwrite(&gone, &aside).unwrap();
        published.overwrite(&flipped, &good).unwrap();
        for name in ["gone", "flipped"] {
            assert_read(&mount, name);
        }
    });
}

/// Opening a directory asks nobody; reading it does.
fn list(path: &Path) -> std::io::Result<Vec<fs::DirEntry>> {
    fs::read_dir(path)?.collect()
}

/// The file of the cache that holds an object.
fn cached(cache: &Path, object: &Object) -> PathBuf {
    let hash = object.hash.to_string();
    let (fan, rest) = hash.split_at(2);
    let directory = cache.join("v2/objects").join(fan);
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(rest);
    let found = fs::read_dir(&directory).unwrap().map(Result::unwrap).find(named);
    found.unwrap_or_else(|| panic!("{hash} is not in {}", directory.display())).path()
}

type Damage = (&'static str, fn(&Path));

/// Somebody cleans up, fills or tests the disk while the repository is mounted.
#[test]
fn a_cache_damaged_under_a_live_mount_is_mended() {
    let damages: [Damage; 7] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("emptied", |path| fs::write(path, b"").unwrap()),
        ("truncated", |path| {
            File::options().write(true).open(path).unwrap().set_len(100).unwrap();
        }),
        ("longer", |path| {
            File::options().write(true).open(path).unwrap().set_len(9000).unwrap();
        }),
        ("other", |path| fs::write(path, content("another")).unwrap()),
        ("link", |path| {
            fs::remove_file(path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        }),
        ("directory", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    deadline(LIMIT, || {
        let (published, server) = plain(&damages.map(|(name, _)| name));
        let cache = tempfile::tempdir().unwrap();
        fs::set_permissions(cache.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let spec = spec(&published, &server).cache_dir(cache.path());
        let before = spec.start();
        for (name, _) in damages {
            assert_read(&before, name);
        }
        drop(before);
        let mount = spec.start();
        for (name, damage) in damages {
            let object = published.file_object(format!("/{name}")).unwrap();
            damage(&cached(cache.path(), &object));
            server.reset_log();
            assert_read(&mount, name);
            assert_eq!(server.count(&pattern(&object)), 1, "{name}");
        }
        drop(mount);
        // All was stored again, and nothing is asked for twice.
        server.set_network(Network::Up);
        server.reset_log();
        let after = spec.start();
        for (name, _) in damages {
            assert_read(&after, name);
        }
        assert_eq!(server.count("*/data/*"), 0, "{:?}", server.requests());
    });
}

/// `rm -rf` of the cache under a live mount costs downloads, not the mount.
#[test]
fn a_removed_cache_does_not_end_the_mount() {
    deadline(LIMIT, || {
        let (published, server) = plain(&["open", "read", "new"]);
        let mount = spec(&published, &server).start();
        assert_read(&mount, "read");
        let open = File::open(mount.path("open")).unwrap();
        fs::remove_dir_all(mount.cache_dir().join("v2/objects")).unwrap();
        let mut start = [0; 100];
        open.read_exact_at(&mut start, 0).unwrap();
        assert!(start == content("open")[..100]);
        for name in ["open", "read", "new"] {
            assert_read(&mount, name);
        }
        assert_eq!(errno(fs::read(mount.path("missing"))), Some(libc::ENOENT));
    });
}

/// The descriptor that the client holds leads to the damaged file.
#[test]
fn an_object_cut_while_it_is_open_is_fetched_again() {
    deadline(LIMIT, || {
        let big: Vec<u8> = (0..3_000_000_usize).map(|i| (i % 251).to_le_bytes()[0]).collect();
        let mut repo = TestRepo::new(FQRN);
        repo.file("/big", big.clone());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        // Not from the page cache, and not tried again by the kernel.
        let mut options = File::options();
        let file = options.read(true).custom_flags(libc::O_DIRECT).open(mount.path("big")).unwrap();
        let mut buffer = vec![0; 4096];
        // The first read brings it.
        assert_eq!(file.read_at(&mut buffer, 8192).unwrap(), buffer.len());
        let object = cached(mount.cache_dir(), &published.file_object("/big").unwrap());
        File::options().write(true).open(object).unwrap().set_len(100).unwrap();
        for offset in [0, 50, 4096, 2_000_000] {
            assert_eq!(file.read_at(&mut buffer, offset as u64).unwrap(), buffer.len(), "{offset}");
            assert!(buffer == big[offset..offset + buffer.len()], "{offset}: wrong bytes");
        }
        assert!(fs::read(mount.path("big")).unwrap() == big);
    });
}

#[test]
fn empty_files_are_empty() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.file("/empty", b"");
        repo.file("/uncompressed", b"").uncompressed();
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        for name in ["empty", "uncompressed"] {
            assert_eq!(mount.lstat(name).len(), 0);
            let file = File::open(mount.path(name)).unwrap();
            for offset in [0, 1, 1 << 33] {
                assert_eq!(file.read_at(&mut [0; 10], offset).unwrap(), 0, "{name} at {offset}");
            }
        }
    });
}

/// Names of a directory, by getdents64(2) with a buffer for a few entries.
fn names_by_small_buffers(directory: &File) -> Vec<Vec<u8>> {
    let mut buffer = [0_u8; 1000];
    let mut names = Vec::new();
    loop {
        // SAFETY: the descriptor is open, the buffer has the size told.
        let filled = unsafe {
            let (descriptor, size) = (directory.as_raw_fd(), buffer.len());
            libc::syscall(libc::SYS_getdents64, descriptor, buffer.as_mut_ptr(), size)
        };
        let mut rest = &buffer[..usize::try_from(filled).expect("getdents64 works")];
        if rest.is_empty() {
            return names;
        }
        while !rest.is_empty() {
            // struct linux_dirent64: d_reclen at 16, d_name from 19.
            let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            let name = CStr::from_bytes_until_nul(&rest[19..length]).unwrap();
            names.push(name.to_bytes().to_vec());
            rest = &rest[length..];
        }
    }
}

#[test]
fn small_buffers_list_100_000_entries_once_each() {
    deadline(LIMIT, || {
        const ENTRIES: usize = 100_000;
        let mut repo = TestRepo::new(FQRN);
        repo.many_files("/many", ENTRIES, |i| (format!("f{i}"), "x"));
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        let names = names_by_small_buffers(&File::open(mount.path("many")).unwrap());
        let listed: HashSet<_> = names.iter().map(Vec::as_slice).collect();
        assert_eq!(listed.len(), names.len(), "a name was listed twice");
        let expected: Vec<_> = (0..ENTRIES).map(|i| format!("f{i}").into_bytes()).collect();
        let dots = [b".".to_vec(), b"..".to_vec()];
        assert_eq!(listed, expected.iter().chain(&dots).map(Vec::as_slice).collect());
    });
}

#[test]
fn signals_unmount_and_end_the_client_with_success() {
    deadline(LIMIT, || {
        let (published, server) = plain(&["x"]);
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut mount = spec(&published, &server).start();
            assert_read(&mount, "x");
            // Before it says so it counts as not yet usable, and a signal as a failed start.
            wait_until(Duration::from_secs(10), "word of the client", || {
                mount.log().contains("CernVM-FS: mounted")
            })
            .unwrap();
            kill(mount.pid(), signal).unwrap();
            let status = mount.wait_exit();
            assert!(status.success(), "{signal}: {status}\n{}", mount.log());
            assert_eq!(MountInfo::of(mount.root()), None, "{signal}");
        }
        // The terminal of a background mount goes away: no reason to end.
        let mount = spec(&published, &server).start();
        kill(mount.pid(), Signal::SIGHUP).unwrap();
        assert_read(&mount, "x");
        assert!(mount.unmount().success());
    });
}

/// Ways to end a mount while a reader waits for a server that never answers.
#[test]
fn a_stalled_download_does_not_keep_the_mount() {
    fn terminate(mount: &TestMount) {
        kill(mount.pid(), Signal::SIGTERM).unwrap();
    }
    fn detach(mount: &TestMount) {
        umount2(mount.root(), MntFlags::MNT_DETACH).unwrap();
    }
    deadline(LIMIT, || {
        let (published, _) = plain(&["x"]);
        std::thread::scope(|scope| {
            for (name, end, limit) in [
                ("SIGTERM", terminate as fn(&TestMount), Duration::from_secs(9)),
                ("detached", detach, SILENCE),
            ] {
                let published = &published;
                scope.spawn(move || {
                    let server = TestServer::serving(published.root());
                    let gate = Gate::new();
                    server.rule(Rule::on(of_file(published, "/x")).gate(&gate));
                    let mut mount = spec(published, &server).start();
                    let path = mount.path("x");
                    let reader = std::thread::spawn(move || fs::read(path));
                    assert!(gate.wait_held(1, Duration::from_secs(5)));
                    let start = Instant::now();
                    end(&mount);
                    wait_until(Duration::from_secs(5), "free mountpoint", || {
                        MountInfo::of(mount.root()).is_none()
                    })
                    .unwrap();
                    // Ends with an error, because nobody is left to answer.
                    let read = reader.join().unwrap();
                    assert!(read.is_err(), "{name}: {} bytes", read.unwrap().len());
                    mount.wait_exit();
                    assert!(start.elapsed() < limit, "{name}: {:?}", start.elapsed());
                });
            }
        });
    });
}
