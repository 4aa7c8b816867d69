//! Parameters in the files of a site, as a mount shows that they take effect.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fixtures::name_server::NameServer;
use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Gate, Network, Rule, TestServer};
use tests::{MountSpec, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(150);
const FQRN: &str = "parameters.test.repo";

/// A repository, its server, and the files of a site that mounts it.
struct Site {
    published: Published,
    server: TestServer,
    scratch: tempfile::TempDir,
}

impl Site {
    fn of(repo: &mut TestRepo) -> Self {
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        Self { published, server, scratch: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn local(&self, text: &str) {
        std::fs::create_dir_all(self.path("etc")).unwrap();
        std::fs::write(self.path("etc/default.local"), text).unwrap();
    }

    fn spec(&self) -> MountSpec {
        let files = self.path("etc").display().to_string();
        MountSpec::published(&client!(), &self.published, &[&self.server])
            .impatient()
            .env("CVMFS_FUSE_CONFIG_DIR", &files)
    }
}

#[test]
fn a_configuration_repository_that_is_required_must_be_there() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.file("/a", b"a".to_vec());
        let site = Site::of(&mut repo);
        std::fs::create_dir_all(site.path("etc/default.d")).unwrap();
        std::fs::write(
            site.path("etc/default.d/50-site.conf"),
            format!(
                "CVMFS_CONFIG_REPOSITORY=config.test.repo\nCVMFS_MOUNT_DIR={}\n",
                site.path("mounts").display()
            ),
        )
        .unwrap();
        site.local("CVMFS_CONFIG_REPO_REQUIRED=yes\n");
        let failure = site.spec().try_start().err().unwrap();
        assert_eq!(failure.code, Some(1), "{failure}");
        for part in ["config.test.repo", "required", "CVMFS_CONFIG_REPO_REQUIRED=no"] {
            assert!(failure.stderr.contains(part), "{part}: {failure}");
        }
        site.local("CVMFS_CONFIG_REPO_REQUIRED=no\n");
        let mount = site.spec().start();
        assert_eq!(std::fs::read(mount.path("a")).unwrap(), b"a");
        let said = mount.log();
        assert!(said.contains("config.test.repo"), "{said}");
        drop(mount);
        site.local("CVMFS_CONFIG_REPO_REQUIRED=yes\n");
        std::fs::create_dir_all(site.path("mounts/config.test.repo/etc/cvmfs")).unwrap();
        let mount = site.spec().start();
        assert_eq!(std::fs::read(mount.path("a")).unwrap(), b"a");
    });
}

#[test]
fn variables_of_the_files_choose_where_links_lead() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.file("/sites/T2/conf", b"of T2".to_vec());
        repo.file("/sites/none/conf", b"of nobody".to_vec());
        repo.symlink("/site", "sites/$(SITE_LOCAL_NAME:-none)");
        repo.symlink("/name", "$(CVMFS_FQRN)/$(CVMFS_TIMEOUT)");
        let site = Site::of(&mut repo);
        site.local("CVMFS_TIMEOUT=7\n");
        let read = |mount: &tests::TestMount| std::fs::read(mount.path("site/conf")).unwrap();
        let mount = site.spec().start();
        assert_eq!(read(&mount), b"of nobody");
        let name = std::fs::read_link(mount.path("name")).unwrap();
        assert_eq!(name.to_str().unwrap(), format!("{FQRN}/7"));
        drop(mount);
        site.local("export SITE_LOCAL_NAME=T2\n");
        assert_eq!(read(&site.spec().start()), b"of T2");
        // What is typed counts more, and the environment not at all.
        let typed = site.spec().arg("--symlink-variable=SITE_LOCAL_NAME=none").start();
        assert_eq!(read(&typed), b"of nobody");
        let outside = site.spec().env("SITE_LOCAL_NAME", "none").start();
        assert_eq!(read(&outside), b"of T2");
    });
}

#[test]
fn a_new_revision_is_seen_within_the_longest_time_between_looks() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(3600);
        repo.file("/a", b"old".to_vec());
        let site = Site::of(&mut repo);
        site.local("CVMFS_MAX_TTL=1\n");
        let mount = site.spec().start();
        assert_eq!(mount.revision(), 1);
        repo.file("/a", b"new".to_vec());
        repo.publish();
        wait_until(Duration::from_secs(100), "the new revision", || mount.revision() == 2).unwrap();
        assert_eq!(std::fs::read(mount.path("a")).unwrap(), b"new");
    });
}

/// Passes connections to `port` of `::1` on to the same port of 127.0.0.1, and counts them.
fn relay(to: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, to.port())).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    // Both ends with the test process.
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let near = near?;
            counted.fetch_add(1, Ordering::SeqCst);
            let far = TcpStream::connect(to)?;
            let (back, forth) = ((far.try_clone()?, near.try_clone()?), (near, far));
            for (from, to) in [back, forth] {
                std::thread::spawn(move || copy(from, to));
            }
        }
        Ok::<(), io::Error>(())
    });
    count
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&buffer[..read])?;
    }
}

#[test]
fn a_proxy_with_both_kinds_of_addresses_is_asked_by_the_preferred_one() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.file("/a", b"a".to_vec());
        let site = Site::of(&mut repo);
        let proxy = TestServer::empty();
        let by_six = relay(proxy.address());
        let names = NameServer::start();
        names.set("proxy.test", &["127.0.0.1", "::1"]);
        let port = proxy.address().port();
        let seen = |family: &str| {
            site.local(&format!(
                "CVMFS_IPFAMILY_PREFER={family}\nCVMFS_HTTP_PROXY=http://proxy.test:{port}\n\
                 CVMFS_DNS_SERVER={}\n",
                names.address()
            ));
            proxy.reset_log();
            let mount = site.spec().start();
            assert_eq!(std::fs::read(mount.path("a")).unwrap(), b"a");
            assert!(!proxy.requests().is_empty());
            by_six.swap(0, Ordering::SeqCst)
        };
        assert_eq!(seen("4"), 0);
        assert!(seen("6") > 0);
        // A preference is no demand.
        names.set("proxy.test", &["127.0.0.1"]);
        assert_eq!(seen("6"), 0);
        names.set("proxy.test", &["::1"]);
        assert!(seen("4") > 0);
    });
}

#[test]
fn connections_are_reused_and_do_not_grow_with_the_readers() {
    /// Transfers of one user from one server at the same time: three quarters of all.
    const MOST: usize = 48;
    /// More than that, and each with a file of its own.
    const READERS: usize = 150;
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        for number in 0..READERS {
            repo.file(format!("/{number}"), format!("content {number}").into_bytes());
        }
        for number in 0..READERS {
            repo.file(format!("/later/{number}"), format!("later {number}").into_bytes());
        }
        let site = Site::of(&mut repo);
        let mount = site.spec().without_prefetch().start();
        let read = |name: &str| std::fs::read(mount.path(name)).unwrap();
        let gate = Gate::new();
        let held = site.server.rule(Rule::on("*/data/*").gate(&gate));
        let opened = |before| usize::try_from(site.server.connections() - before).unwrap();
        let before = site.server.connections();
        std::thread::scope(|scope| {
            for number in 0..READERS {
                let read = &read;
                scope.spawn(move || {
                    assert_eq!(read(&number.to_string()), format!("content {number}").as_bytes());
                });
            }
            let is_full = gate.wait_held(MOST, Duration::from_secs(60));
            // All the others had come by then, if they came.
            let more = || gate.held() > MOST || opened(before) > MOST;
            let is_bounded = wait_until(Duration::from_secs(1), "one more", more).is_err();
            let (held, opened) = (gate.held(), opened(before));
            gate.release();
            assert!(is_full && is_bounded, "{held} requests in {opened} connections");
        });
        // Not all of them are kept.
        let opened_in_all = opened(before);
        assert!(opened_in_all < READERS, "{opened_in_all} connections for {READERS} readers");
        site.server.remove(held);
        let before = site.server.connections();
        for number in 0..READERS {
            assert_eq!(read(&format!("later/{number}")), format!("later {number}").as_bytes());
        }
        let opened = opened(before);
        assert!(opened <= 2, "{opened} connections for one reader of {READERS} files");
    });
}

#[test]
fn an_automounter_says_once_what_is_wrong_with_the_files() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.file("/a", b"a".to_vec());
        let site = Site::of(&mut repo);
        site.local("CVMFS_TIMOUT=7\n");
        let servers = site.server.base(FQRN).replace(FQRN, "@fqrn@");
        let files = site.path("etc").display().to_string();
        let key = site.published.public_key();
        let mount = MountSpec::automount(&client!(), &servers, &[&key])
            .impatient()
            .env("CVMFS_FUSE_CONFIG_DIR", &files)
            .start();
        let count = || mount.log().matches("CVMFS_TIMOUT").count();
        let before = count();
        assert!(before > 0, "{}", mount.log());
        // Each opening reads the files again.
        assert_eq!(std::fs::read(mount.path(format!("{FQRN}/a"))).unwrap(), b"a");
        assert!(std::fs::read(mount.path("other.test.repo/a")).is_err());
        assert_eq!(count(), before, "{}", mount.log());
    });
}

/// Nobody has mounted it, and we read it all the same: with all checks, and from the cache later.
#[test]
fn a_configuration_repository_is_read_without_a_mount() {
    deadline(LIMIT, || {
        let mut data = TestRepo::new(FQRN);
        data.file("/a", b"a".to_vec());
        let data = data.publish();
        let data_server = TestServer::serving(data.root());
        let mut config = TestRepo::new("config.test.repo");
        config.file(
            format!("/etc/cvmfs/config.d/{FQRN}.conf"),
            format!(
                "CVMFS_SERVER_URL='{}'\nCVMFS_CACHE_BASE=/nowhere\n. ../common.conf\n\
                 CVMFS_KEYS_DIR=$CVMFS_MOUNT_DIR/$CVMFS_CONFIG_REPOSITORY/etc/cvmfs/keys\n",
                data_server.base(FQRN)
            )
            .into_bytes(),
        );
        config
            .file("/etc/cvmfs/common.conf", b"CVMFS_TIMEOUT_DIRECT=7\n. ../../outside\n".to_vec());
        let key = std::fs::read(data.public_key()).unwrap();
        config.file("/etc/cvmfs/keys/data.pub", key);
        config.file("/outside", b"CVMFS_TIMEOUT_DIRECT=8\n".to_vec());
        let config = config.publish();
        let config_server = TestServer::serving(config.root());
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let write = |name: &str, text: String| {
            std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            std::fs::write(path(name), text).unwrap();
        };
        let place = path("mounts").display().to_string();
        write(
            "etc/default.d/50-site.conf",
            format!(
                "CVMFS_CONFIG_REPOSITORY=config.test.repo\nCVMFS_MOUNT_DIR={place}\n\
                 CVMFS_CONFIG_REPO_REQUIRED=yes\n"
            ),
        );
        let local = |cache: &str| {
            let cache = path(cache).display().to_string();
            let text = format!("CVMFS_HTTP_PROXY=DIRECT\nCVMFS_CACHE_BASE={cache}\n");
            write("etc/default.local", format!("{text}CVMFS_MAX_RETRIES=0\nCVMFS_DNS_RETRIES=0\n"));
        };
        local("cache");
        let (name, key) = ("config.test.repo", config.public_key().display().to_string());
        let server = config_server.base(name);
        let text = format!("CVMFS_PUBLIC_KEY={key}\nCVMFS_SERVER_URL={server}\n");
        write(&format!("etc/config.d/{name}.conf"), text);
        let run = |words: &[&str]| {
            let mut command = client!().command();
            command.env("CVMFS_FUSE_CONFIG_DIR", path("etc")).env("TMPDIR", path("tmp"));
            command.args(words).output().unwrap()
        };
        std::fs::create_dir(path("tmp")).unwrap();
        let shown = |output: &std::process::Output| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            format!("{} {} {}", output.status, text(&output.stdout), text(&output.stderr))
        };
        let target = format!("{FQRN}:/a");
        let output = run(&["cat", &target]);
        assert_eq!(output.stdout, b"a", "{}", shown(&output));
        for refused in ["CVMFS_CACHE_BASE is not for", "is outside of"] {
            assert!(shown(&output).contains(refused), "{refused}: {}", shown(&output));
        }
        let all = shown(&run(&["config", "show", FQRN]));
        let origin = format!("{place}/config.test.repo/etc/cvmfs/config.d/../common.conf:1");
        assert!(all.contains(&format!("CVMFS_TIMEOUT_DIRECT=7    # from {origin}")), "{all}");
        // Later without its server; and never, where it was not read before.
        config_server.set_network(Network::Refusing);
        let output = run(&["cat", &target]);
        assert_eq!(output.stdout, b"a", "{}", shown(&output));
        local("empty");
        let output = run(&["cat", &target]);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        for part in ["config.test.repo is required", "not mounted", "CVMFS_CONFIG_REPO_REQUIRED=no"]
        {
            assert!(shown(&output).contains(part), "{part}: {}", shown(&output));
        }
        // What was copied is not left behind.
        let is_ours = |name: &str| name.starts_with("cvmfs-config-");
        let left = std::fs::read_dir(path("tmp")).unwrap();
        assert!(
            left.into_iter().all(|entry| !is_ours(entry.unwrap().file_name().to_str().unwrap()))
        );
    });
}

#[test]
fn a_configuration_repository_blocks_revisions() {
    deadline(LIMIT, || {
        let mut data = TestRepo::new(FQRN);
        data.file("/a", b"a".to_vec());
        let site = Site::of(&mut data);
        let name = "config.test.repo";
        let mut config = TestRepo::new(name);
        config.file("/etc/cvmfs/lists/bad", format!("# why\n<{FQRN} 2\n").into_bytes());
        config.symlink("/etc/cvmfs/blacklist", "lists/bad");
        let config = config.publish();
        let config_server = TestServer::serving(config.root());
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(site.path(name).parent().unwrap()).unwrap();
            std::fs::write(site.path(name), text).unwrap();
        };
        let place = site.path("mounts").display().to_string();
        let wanted = format!("CVMFS_CONFIG_REPOSITORY={name}\nCVMFS_MOUNT_DIR={place}\n");
        write("etc/default.d/50-site.conf", &wanted);
        let (key, base) = (config.public_key().display().to_string(), config_server.base(name));
        let where_it_is = format!("CVMFS_PUBLIC_KEY={key}\nCVMFS_SERVER_URL={base}\n");
        write(&format!("etc/config.d/{name}.conf"), &where_it_is);
        let cache = site.path("cache").display().to_string();
        site.local(&format!("CVMFS_HTTP_PROXY=DIRECT\nCVMFS_CACHE_BASE={cache}\n"));
        // Nobody has mounted it.
        let failure = site.spec().try_start().err().unwrap();
        assert_eq!(failure.code, Some(25), "{failure}");
        // Also where only the cache has it.
        config_server.set_network(Network::Refusing);
        let failure = site.spec().try_start().err().unwrap();
        assert_eq!(failure.code, Some(25), "{failure}");
        data.file("/a", b"b".to_vec());
        data.publish();
        let mount = site.spec().start();
        assert_eq!(std::fs::read(mount.path("a")).unwrap(), b"b");
        let remount = || {
            let root = mount.root().to_str().unwrap();
            let words = ["talk", "-i", root, "remount", "sync"];
            client!().command().args(words).output().unwrap()
        };
        // It is looked at again before each update, here where somebody has mounted it since.
        let mounted = format!("mounts/{name}/etc/cvmfs/blacklist");
        write(&mounted, &format!("<{FQRN} 4\n"));
        data.file("/a", b"c".to_vec());
        data.publish();
        let said = remount();
        assert_eq!(mount.revision(), 2, "{said:?}");
        write(&mounted, "");
        let said = remount();
        assert_eq!(mount.revision(), 3, "{said:?}");
        drop(mount);
        // What cannot be read may forbid anything.
        std::fs::remove_file(site.path(&mounted)).unwrap();
        std::fs::create_dir(site.path(&mounted)).unwrap();
        let failure = site.spec().try_start().err().unwrap();
        assert_eq!(failure.code, Some(15), "{failure}");
    });
}
