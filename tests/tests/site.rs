//! `cvmfs_config` as checks and administrators of sites use it.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use fixtures::server::{Rule, TestServer};
use tests::apart::private_mounts;
use tests::mountinfo::MountInfo;
use tests::site::{Site, shown, stdout};
use tests::walk::get_xattr;
use tests::{client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
const CONDITION: Duration = Duration::from_secs(30);

/// Columns by name, of a table with one row.
fn columns(text: &str) -> BTreeMap<String, String> {
    let mut lines = text.lines();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (header, row) = (words(lines.next().unwrap()), words(lines.next().unwrap()));
    assert_eq!((header.len(), row.len(), lines.next()), (19, 19, None), "{text}");
    header.into_iter().zip(row).collect()
}

/// Whether there is a file whose name has a text in it, at any depth.
fn contains(directory: &Path, part: &str) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let entry = entry.unwrap();
        entry.file_name().to_str().unwrap().contains(part)
            || entry.file_type().unwrap().is_dir() && contains(&entry.path(), part)
    })
}

/// A site with its repository mounted, and nothing else.
struct Mounted {
    site: Site,
    fqrn: String,
}

impl Mounted {
    fn new() -> Self {
        private_mounts();
        let site = Site::new(client!());
        let fqrn = site.genuine.fqrn().to_owned();
        site.write("etc/default.d/50-names.conf", "CVMFS_DEFAULT_DOMAIN=test.repo\n");
        site.assert_mounted(&site.tool("mount.cvmfs", &[&fqrn, &site.m()]));
        Self { site, fqrn }
    }

    fn config(&self, words: &[&str]) -> std::process::Output {
        self.site.tool("cvmfs_config", words)
    }

    fn attribute(&self, name: &str) -> String {
        String::from_utf8(get_xattr(&self.site.path("m"), name.as_bytes()).unwrap()).unwrap()
    }

    fn is_mounted(&self) -> bool {
        MountInfo::of(&self.site.path("m")).is_some()
    }
}

#[test]
fn stat_has_upstreams_columns() {
    deadline(LIMIT, || {
        let mounted = Mounted::new();
        let fqrn = mounted.fqrn.as_str();
        let figures = columns(&stdout(&mounted.config(&["stat", fqrn])));
        let is = |column: &str, expected: &str| assert_eq!(figures[column], expected, "{column}");
        is("PID", &mounted.attribute("user.pid"));
        is("VERSION", &mounted.attribute("user.version"));
        is("REVISION", "4");
        is("EXPIRES(M)", &mounted.attribute("user.expires"));
        is("CACHEMAX(K)", &(4000 * 1024).to_string());
        is("NOIOERR", "0");
        is("HOST", &mounted.site.server.base(fqrn));
        is("PROXY", "DIRECT");
        is("ONLINE", "1");
        for column in ["MEM(K)", "NOCATALOGS", "CACHEUSE(K)", "NOFDUSE", "NOFDMAX"] {
            assert!(figures[column].parse::<u64>().unwrap() > 0, "{column}: {figures:?}");
        }
        // By its short name, and for people; of all that is mounted, with their names.
        assert_eq!(columns(&stdout(&mounted.config(&["stat", "small"])))["REVISION"], "4");
        let text = stdout(&mounted.config(&["stat", "-v", fqrn]));
        assert!(text.contains("File Catalog Revision: 4 (expires in "), "{text}");
        assert!(text.contains("(online)"), "{text}");
        let all = stdout(&mounted.config(&["stat"]));
        assert_eq!(columns(all.strip_prefix(&format!("{fqrn}:\n")).unwrap())["REVISION"], "4");
        // The server goes: what is mounted is still told of.
        mounted.site.server.rule(Rule::on("*").status(503));
        assert_eq!(columns(&stdout(&mounted.config(&["stat", fqrn])))["ONLINE"], "0");
        mounted.site.umount();
        let output = mounted.config(&["stat", fqrn]);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert_eq!(mounted.config(&["stat"]).status.code(), Some(1));
    });
}

#[test]
fn status_and_probe_tell_by_exit_code_whether_all_is_well() {
    deadline(LIMIT, || {
        let mounted = Mounted::new();
        let (fqrn, m) = (mounted.fqrn.as_str(), mounted.site.m());
        let pid = mounted.attribute("user.pid");
        let line = format!("{fqrn} mounted on {m} with pid {pid}\n");
        assert_eq!(stdout(&mounted.config(&["status"])), line);
        // Those that the site is for, by short names, too.
        mounted.site.write("etc/default.d/60-list.conf", "CVMFS_REPOSITORIES=small,absent\n");
        let output = mounted.config(&["probe"]);
        let said = String::from_utf8(output.stdout.clone()).unwrap();
        let expected = format!("Probing {m}... OK\nProbing /cvmfs/absent.test.repo... Failed!\n");
        assert_eq!((said, output.status.code()), (expected, Some(1)), "{}", shown(&output));
        assert_eq!(stdout(&mounted.config(&["probe", "small"])), format!("Probing {m}... OK\n"));
        // Parameters of each, with those that are not set unless that is not wanted.
        let all = stdout(&mounted.config(&["showconfig"]));
        assert_eq!(all.matches("CVMFS_REPOSITORY_NAME=").count(), 2, "{all}");
        let one = stdout(&mounted.config(&["showconfig", "small"]));
        assert!(one.starts_with("CVMFS_REPOSITORY_NAME=small.test.repo\n"), "{one}");
        assert!(one.contains("\nCVMFS_ALIEN_CACHE=\n"), "{one}");
        assert!(one.contains("\nCVMFS_TIMEOUT=5    # from "), "{one}");
        let sorted: Vec<_> = one.lines().skip(1).map(|l| l.split('=').next().unwrap()).collect();
        assert!(sorted.is_sorted(), "{one}");
        let short = stdout(&mounted.config(&["showconfig", "-s", "small"]));
        assert!(!short.contains("=\n") && short.contains("\nCVMFS_TIMEOUT=5 "), "{short}");
        mounted.site.write("etc/default.d/50-names.conf", "");
        let any = stdout(&mounted.config(&["showconfig", "-s", "x"]));
        assert!(any.starts_with("CVMFS_REPOSITORY_NAME=x\nCVMFS_"), "{any}");
        // What is wrong is counted: here two names without a domain.
        let output = mounted.config(&["chksetup"]);
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        mounted.site.write("etc/default.d/50-names.conf", "CVMFS_DEFAULT_DOMAIN=test.repo\n");
        let output = mounted.config(&["chksetup"]);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert!(shown(&output).contains("/absent.test.repo/.cvmfspublished"), "{}", shown(&output));
        // As if its servers had it.
        mounted.site.server.rule(Rule::on("*/absent.test.repo/.cvmfspublished").body("C"));
        let output = mounted.config(&["chksetup"]);
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
        mounted.site.write("etc/config.d/small.test.repo.local", "CVMFS_PUBLIC_KEY=/none\n");
        let output = mounted.config(&["chksetup", fqrn]);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert!(shown(&output).contains("Error: "), "{}", shown(&output));
        mounted.site.write(
            "etc/config.d/small.test.repo.local",
            "CVMFS_PUBLIC_KEY=/none\nCVMFS_TIMEOUT=soon\nCVMFS_HTTP_PROXY=squid:3128\nCVMFS_TIMOUT=1\n",
        );
        let output = mounted.config(&["chksetup"]);
        let said = String::from_utf8(output.stdout.clone()).unwrap();
        // Three of the one, nothing of the other.
        assert_eq!(output.status.code(), Some(3), "{}", shown(&output));
        assert_eq!(said.matches("Error: ").count(), 3, "{said}");
        assert_eq!(said.matches("Warning: CVMFS_TIMOUT is unknown").count(), 1, "{said}");
        mounted.site.umount();
        assert_eq!(stdout(&mounted.config(&["status"])), "");
    });
}

/// A way to nowhere: a port that nobody listens on.
fn nowhere() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{port}")
}

#[test]
fn chksetup_asks_every_server_through_every_proxy() {
    deadline(LIMIT, || {
        let site = Site::new(client!());
        let fqrn = site.genuine.fqrn().to_owned();
        let good = site.server.base(&fqrn);
        let (dead_server, dead_proxy) = (format!("{}/cvmfs/{fqrn}", nowhere()), nowhere());
        let proxy = TestServer::empty();
        proxy.map_host(&site.server.address().to_string(), &site.server);
        let checked = |more: &str| {
            let list = format!("CVMFS_REPOSITORIES={fqrn}\nCVMFS_TIMEOUT_DIRECT=2\n{more}");
            site.write("etc/default.d/60-site.conf", &list);
            let proxies = format!("CVMFS_HTTP_PROXY='{}|{dead_proxy};DIRECT'\n", proxy.url());
            site.write("etc/config.d/small.test.repo.local", &proxies);
            let output = site.tool("cvmfs_config", &["chksetup"]);
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let (code, said) = checked("");
        let expected = format!("Error: {good}/.cvmfspublished cannot be had through {dead_proxy}");
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.starts_with(&expected), "{said}");
        assert_eq!(proxy.count("*.cvmfspublished"), 1);
        // One of two servers is dead: by all three ways, and the other one by one of them.
        let both = format!("CVMFS_SERVER_URL='{good};{dead_server}'\n");
        let (code, said) = checked(&both);
        assert_eq!((code, said.matches("Error: ").count()), (Some(4), 4), "{said}");
        let of_dead = format!("Error: {dead_server}/.cvmfspublished cannot be had through ");
        for way in ["DIRECT", &dead_proxy, &proxy.url()] {
            assert!(said.contains(&format!("{of_dead}{way}: ")), "{way}: {said}");
        }
        // Who tells no order only costs time.
        assert!(!said.contains("Geo-API"), "{said}");
        let geo = format!("{both}CVMFS_USE_GEOAPI=yes\n");
        let warnings =
            |said: &str| said.matches("Warning: small.test.repo: the Geo-API of").count();
        let (code, said) = checked(&geo);
        assert_eq!((code, warnings(&said)), (Some(4), 2), "{said}");
        site.server.rule(Rule::on("*/api/v1.0/geo/*").body("2,1\n"));
        let (code, said) = checked(&geo);
        assert_eq!((code, warnings(&said)), (Some(4), 1), "{said}");
        // Nobody is waited for in vain, and not one after the other.
        site.server.rule(Rule::on("*").delay(Duration::from_secs(60)));
        let asked = Instant::now();
        let (code, said) = checked(&both);
        assert_eq!(code, Some(6), "{said}");
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    });
}

#[test]
fn chksetup_looks_at_what_a_site_needs_besides_its_files() {
    deadline(LIMIT, || {
        let site = Site::new(client!());
        let checked = |more: &str| {
            let list = format!("CVMFS_REPOSITORIES=small.test.repo\n{more}");
            site.write("etc/default.d/60-site.conf", &list);
            let output = site.tool("cvmfs_config", &["chksetup"]);
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        assert_eq!(checked(""), (Some(0), "OK\n".to_owned()));
        let (code, said) = checked("CVMFS_NFILES=1024\nCVMFS_USER=no-such-user\n");
        assert_eq!((code, said.matches("Warning: ").count()), (Some(0), 2), "{said}");
        // With the place where it is written.
        assert!(said.contains("is less than 8192") && said.contains("60-site.conf:"), "{said}");
        let (code, said) = checked("CVMFS_USYSLOG=/none/log\nCVMFS_STRICT_MOUNT=maybe\n");
        assert_eq!((code, said.matches("Error: ").count()), (Some(2), 2), "{said}");
        // A cache that cannot be one.
        site.write("etc/config.d/small.test.repo.local", "CVMFS_CACHE_BASE=/dev/null/x\n");
        let (code, said) = checked("");
        assert_eq!((code, said.matches("Error: cache: ").count()), (Some(1), 1), "{said}");
    });
}

#[test]
fn a_mount_that_hangs_keeps_nobody() {
    deadline(LIMIT, || {
        let mounted = Mounted::new();
        let fqrn = mounted.fqrn.as_str();
        let server = mounted.attribute("user.pid").parse().unwrap();
        let server = nix::unistd::Pid::from_raw(server);
        let hung = Stopped::stop(server);
        let asked = Instant::now();
        let probe = mounted.config(&["probe", fqrn, "--timeout", "3"]);
        assert!(shown(&probe).contains("... Failed!"), "{}", shown(&probe));
        assert_eq!(probe.status.code(), Some(1), "{}", shown(&probe));
        let stat = mounted.config(&["stat", fqrn]);
        assert_ne!(stat.status.code(), Some(0), "{}", shown(&stat));
        let status = mounted.config(&["status"]);
        assert!(shown(&status).contains(&mounted.site.m()), "{}", shown(&status));
        assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
        drop(hung);
        assert_eq!(
            stdout(&mounted.config(&["probe", fqrn])),
            format!("Probing {}... OK\n", mounted.site.m())
        );
        mounted.site.umount();
    });
}

/// A process that does nothing until this is dropped.
struct Stopped(nix::unistd::Pid);

impl Stopped {
    fn stop(process: nix::unistd::Pid) -> Self {
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGSTOP).unwrap();
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGCONT);
    }
}

#[test]
fn a_reload_brings_the_new_configuration_under_a_live_mount() {
    deadline(LIMIT, || {
        let mounted = Mounted::new();
        let fqrn = mounted.fqrn.as_str();
        let held = File::open(mounted.site.path("m/many/f3")).unwrap();
        let before = mounted.attribute("user.pid");
        assert_eq!(mounted.attribute("user.timeout_direct"), "10");
        mounted.site.write("etc/config.d/small.test.repo.local", "CVMFS_TIMEOUT_DIRECT=7\n");
        stdout(&mounted.config(&["reload", fqrn]));
        assert_eq!(mounted.attribute("user.timeout_direct"), "7");
        let second = mounted.attribute("user.pid");
        assert_ne!(second, before);
        mounted.site.write("etc/config.d/small.test.repo.local", "CVMFS_TIMEOUT_DIRECT=8\n");
        stdout(&mounted.config(&["reload"]));
        assert_eq!(mounted.attribute("user.timeout_direct"), "8");
        // One that cannot be right changes nothing.
        let third = mounted.attribute("user.pid");
        mounted.site.write("etc/config.d/small.test.repo.local", "CVMFS_PUBLIC_KEY=/none\n");
        let output = mounted.config(&["reload", fqrn]);
        assert_eq!(output.status.code(), Some(19), "{}", shown(&output));
        assert_eq!(
            (mounted.attribute("user.timeout_direct"), mounted.attribute("user.pid")),
            ("8".to_owned(), third)
        );
        mounted.site.write("etc/config.d/small.test.repo.local", "");
        // The cache goes, the mount stays.
        let hash = get_xattr(&mounted.site.path("m/many/f4"), b"user.hash").unwrap();
        let hash = String::from_utf8(hash).unwrap();
        std::fs::read(mounted.site.path("m/many/f4")).unwrap();
        let is_kept = || contains(&mounted.site.path("var"), &hash[2..]);
        assert!(is_kept());
        let said = stdout(&mounted.config(&["wipecache"]));
        assert!(said.contains(": wiped"), "{said}");
        assert!(!is_kept());
        assert!(mounted.is_mounted());
        assert!(!std::fs::read(mounted.site.path("m/many/f5")).unwrap().is_empty());
        assert!(held.metadata().unwrap().len() > 0);
        drop(held);
        mounted.site.umount();
    });
}

#[test]
fn mounts_are_ended_all_at_once_and_their_users_are_found() {
    deadline(LIMIT, || {
        let mounted = Mounted::new();
        let fqrn = mounted.fqrn.as_str();
        assert_eq!(stdout(&mounted.config(&["fuser", fqrn])), "");
        let held = File::open(mounted.site.path("m/many/f3")).unwrap();
        let me = format!("{}\n", std::process::id());
        assert_eq!(stdout(&mounted.config(&["fuser", fqrn])), me);
        let output = mounted.config(&["umount"]);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert!(mounted.is_mounted());
        drop(held);
        let m = mounted.site.m();
        assert_eq!(stdout(&mounted.config(&["umount", fqrn])), format!("Unmounting {m}: OK\n"));
        assert!(!mounted.is_mounted());
        stdout(&mounted.config(&["umount"]));
        // By force, also a server that does nothing any more.
        mounted.site.assert_mounted(&mounted.site.client(&["mount", fqrn, &m]));
        let server: i32 = mounted.attribute("user.pid").parse().unwrap();
        // At the first close on a connection the kernel asks whether closing is of interest, and a child
        // closes what it inherited before it can be killed.
        std::fs::read(mounted.site.path("m/many/f4")).unwrap();
        let _held = File::open(mounted.site.path("m/many/f3")).unwrap();
        let pid = nix::unistd::Pid::from_raw(server);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        assert_eq!(stdout(&mounted.config(&["killall"])), format!("Unmounting {m}: OK\n"));
        assert!(!mounted.is_mounted());
        let proc = std::path::PathBuf::from(format!("/proc/{server}"));
        wait_until(CONDITION, "end of the server", || !proc.exists()).unwrap();
        stdout(&mounted.config(&["killall"]));
    });
}
