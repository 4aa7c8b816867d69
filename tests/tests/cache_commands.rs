//! `cache` and `preload` as people and scripts use them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::{Network, Rule, TestServer};
use serde_json::Value;
use tests::walk::assert_equal;
use tests::{MountSpec, client, deadline};

const LIMIT: Duration = Duration::from_secs(100);

struct Site {
    genuine: Genuine,
    server: TestServer,
    scratch: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        Self { genuine, server, scratch: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn repository(&self, arguments: &[&str]) -> Command {
        let mut command = client!().command();
        command
            .args(arguments)
            .args(["--server", &self.server.base("@fqrn@")])
            .arg("--public-key")
            .arg(self.genuine.public_key())
            .arg("--cache-dir")
            .arg(self.path("cache"));
        command
    }

    fn preload(&self, arguments: &[&str]) -> Output {
        let mut command = self.repository(&["preload"]);
        command.args(arguments).output().unwrap()
    }

    fn cache(&self, arguments: &[&str]) -> Output {
        let mut command = client!().command();
        command.arg("cache").args(arguments).arg("--cache-dir").arg(self.path("cache"));
        command.output().unwrap()
    }

    fn fqrn(&self) -> &str {
        self.genuine.fqrn()
    }

    fn spec(&self) -> MountSpec {
        MountSpec::genuine(&client!(), &self.genuine, &self.server).cache_dir(&self.path("cache"))
    }
}

fn ok(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {error}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&ok(output)).unwrap()
}

fn objects(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for fan in std::fs::read_dir(root.join("v2/objects")).unwrap() {
        for object in std::fs::read_dir(fan.unwrap().path()).unwrap() {
            found.push(object.unwrap().path());
        }
    }
    found
}

#[test]
fn a_preloaded_repository_is_mounted_without_network() {
    deadline(LIMIT, || {
        let site = Site::new();
        let report = json(&site.preload(&[site.fqrn(), "--json"]));
        assert!(report["objects"].as_u64().unwrap() > 3000, "{report}");
        assert_eq!(report["downloaded"], report["objects"]);
        assert_eq!((&report["failed"], &report["not_kept"]), (&0.into(), &0.into()));

        // Again: nothing but the letters is asked for.
        site.server.reset_log();
        let again = json(&site.preload(&[site.fqrn(), "--json"]));
        assert_eq!((&again["downloaded"], &again["objects"]), (&0.into(), &report["objects"]));
        assert_eq!(site.server.count("*/data/*"), 0);

        site.server.set_network(Network::Refusing);
        let mount = site.spec().impatient().start();
        assert_equal(&site.genuine.truth(), mount.root());
        mount.unmount();
    });
}

#[test]
fn a_preload_goes_on_where_it_failed() {
    deadline(LIMIT, || {
        let site = Site::new();
        let rule =
            site.server.rule(Rule::when(|request| request.path.contains("/data/7")).status(404));
        let output = site.preload(&[site.fqrn()]);
        assert_eq!(output.status.code(), Some(1));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.lines().count() <= 12 && told.contains("404"), "{told}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("repeat the command"));
        site.server.remove(rule);
        let report = json(&site.preload(&[site.fqrn(), "--json"]));
        let downloaded = report["downloaded"].as_u64().unwrap();
        assert!(downloaded > 50 && downloaded < 1000, "{report}");
    });
}

#[test]
fn parts_of_a_repository_are_preloaded_by_path_and_by_list() {
    deadline(LIMIT, || {
        let site = Site::new();
        let list = site.path("dirtab");
        std::fs::write(&list, "# some\n/many\n!/many/f1*\n").unwrap();
        let by_list =
            json(&site.preload(&[site.fqrn(), "--json", "--list", list.to_str().unwrap()]));
        let truth = site.genuine.truth();
        let wanted = |excluded: &[u8]| {
            let below = |path: &[u8]| path.starts_with(b"many/") && !path.starts_with(excluded);
            truth.iter().filter(|entry| below(&entry.path)).count() as u64
        };
        assert_eq!(by_list["objects"].as_u64().unwrap(), wanted(b"many/f1"));
        let by_path = json(&site.preload(&[&format!("{}:/many", site.fqrn()), "--json"]));
        assert_eq!(by_path["objects"].as_u64().unwrap(), wanted(b"no such"));
        let missing = site.preload(&[&format!("{}:/no/such", site.fqrn())]);
        assert_eq!(missing.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&missing.stderr).contains("no such file"));
    });
}

#[test]
fn what_does_not_fit_is_said_before_it_is_downloaded() {
    deadline(LIMIT, || {
        let site = Site::new();
        let output = site.preload(&[site.fqrn(), "--quota", "1M"]);
        assert_eq!(output.status.code(), Some(12));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("may hold 1.00 MiB") && told.contains("--quota"), "{told}");
    });
}

#[test]
fn an_alien_cache_is_filled_and_used_without_network_and_without_write_permission() {
    deadline(LIMIT, || {
        let site = Site::new();
        let alien = site.path("alien");
        let preloaded =
            site.preload(&[site.fqrn(), "--json", "--alien-cache", alien.to_str().unwrap()]);
        json(&preloaded);
        let crumb = std::fs::read_to_string(alien.join(format!("cvmfschecksum.{}", site.fqrn())));
        let crumb = crumb.unwrap();
        assert!(crumb.len() > 41 && crumb.as_bytes()[40] == b'T' && crumb.contains('R'), "{crumb}");
        // Upstream's names: the plain bytes under the hash alone.
        let root = std::fs::read(alien.join(&crumb[..2]).join(&crumb[2..40])).unwrap();
        assert!(root.starts_with(b"SQLite format 3\0"));
        assert!(alien.join("ff").metadata().unwrap().mode() & 0o7777 == 0o770);

        site.server.set_network(Network::Refusing);
        let spec = site.spec().impatient().cache_dir(&site.path("other"));
        let mount = spec.arg("--alien-cache").arg(&alien).start();
        assert_equal(&site.genuine.truth(), mount.root());
        mount.unmount();
    });
}

#[test]
fn info_ls_check_clean_and_wipe_under_a_live_mount() {
    deadline(LIMIT, || {
        let site = Site::new();
        let mount = site.spec().start();
        assert_equal(&site.genuine.truth(), mount.root());

        // The index is written a second later at most.
        let listed = || ok(&site.cache(&["ls", "--json"])).lines().count();
        let all = objects(&site.path("cache")).len();
        tests::wait_until(Duration::from_secs(20), "all objects are listed", || listed() == all)
            .unwrap();
        assert_eq!(ok(&site.cache(&["ls", "-n", "7"])).lines().count(), 7);
        let info = json(&site.cache(&["info", "--json"]));
        assert_eq!(info["objects"].as_u64().unwrap(), all as u64);
        assert_eq!((&info["mode"], &info["sharing"]), (&"direct".into(), &"private".into()));
        assert_eq!(info["processes"], 1, "{info}");
        assert!(info["pinned"].as_u64().unwrap() >= 1, "{info}");
        assert!(ok(&site.cache(&["info"])).contains("only this user can write"));

        let victim = objects(&site.path("cache"))
            .into_iter()
            .find(|path| path.metadata().unwrap().len() > 8)
            .unwrap();
        // A copy in its place, with seal and checksum: the mount may have the file itself open.
        let copy = site.path("copy");
        let mut copied = Command::new("cp");
        copied.args(["-a", "--preserve=xattr"]).arg(&victim).arg(&copy);
        assert!(copied.status().unwrap().success());
        let times = victim.metadata().unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&copy).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 3).unwrap();
        file.write_all_at(&[!byte[0]], 3).unwrap();
        let sealed = std::fs::FileTimes::new().set_modified(times.modified().unwrap());
        file.set_times(sealed).unwrap();
        std::fs::rename(&copy, &victim).unwrap();
        let found = site.cache(&["check"]);
        assert_eq!(found.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&found.stdout).contains("1 damaged"));
        let repaired = json(&site.cache(&["check", "--repair", "--json"]));
        assert_eq!(repaired["damaged"].as_array().unwrap().len(), 1, "{repaired}");
        assert!(!victim.exists());
        ok(&site.cache(&["check"]));

        let target = format!("{}:/many/f7", site.fqrn());
        let mut evict = site.repository(&["cache", "evict", &target]);
        assert!(ok(&evict.output().unwrap()).contains("removed 1 objects"));
        assert_eq!(evict.output().unwrap().status.code(), Some(1), "it is gone already");

        let cleaned = site.cache(&["clean", "--to", "1M", "--json"]);
        assert!(json(&cleaned)["used"].as_u64().unwrap() <= 1 << 20);
        // Pinned by the mount: the catalogs stay, and that is said.
        let all = site.cache(&["clean", "--to", "0"]);
        assert_eq!(all.status.code(), Some(12), "{all:?}");
        assert!(String::from_utf8_lossy(&all.stderr).contains("pin"));
        ok(&site.cache(&["wipe"]));
        assert_equal(&site.genuine.truth(), mount.root());
        mount.unmount();
        let nowhere = client!()
            .command()
            .args(["cache", "info", "--cache-dir", "/nonexistent/c"])
            .output()
            .unwrap();
        assert_eq!(nowhere.status.code(), Some(9));
    });
}
