//! Attacks of somebody who may publish in the configuration repository of a site.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use tests::{MountSpec, client, deadline};

const LIMIT: Duration = Duration::from_secs(150);
const FQRN: &str = "data.test.repo";
const NAME: &str = "config.test.repo";

/// A site with a configuration repository, which nobody has mounted, and a repository with data.
struct Site {
    data: Published,
    data_server: TestServer,
    _config: Published,
    _config_server: TestServer,
    scratch: tempfile::TempDir,
}

impl Site {
    /// `files` are those of the configuration repository; `@data@` in them is where the data are.
    fn new(files: &[(&str, &str)]) -> Self {
        let mut data = TestRepo::new(FQRN);
        data.file("/a", b"a".to_vec());
        let data = data.publish();
        let data_server = TestServer::serving(data.root());
        let mut config = TestRepo::new(NAME);
        config.file("/etc/cvmfs/README", b"configuration".to_vec());
        for (name, text) in files {
            let text = text.replace("@data@", &data_server.base(FQRN));
            config.file(format!("/etc/cvmfs/{name}"), text.into_bytes());
        }
        let config = config.publish();
        let config_server = TestServer::serving(config.root());
        let scratch = tempfile::tempdir().unwrap();
        let site =
            Self { data, data_server, _config: config, _config_server: config_server, scratch };
        site.write(
            "default.d/50-site.conf",
            &format!(
                "CVMFS_CONFIG_REPOSITORY={NAME}\nCVMFS_MOUNT_DIR={}\nCVMFS_CONFIG_REPO_REQUIRED=no\n",
                site.path("mounts").display()
            ),
        );
        site.local("CVMFS_HTTP_PROXY=DIRECT\n");
        let key = site._config.public_key().display().to_string();
        let server = site._config_server.base(NAME);
        site.write(
            &format!("config.d/{NAME}.conf"),
            &format!(
                "CVMFS_PUBLIC_KEY={key}\nCVMFS_SERVER_URL={server}\nCVMFS_HTTP_PROXY=DIRECT\n"
            ),
        );
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Writes a file of the site.
    fn write(&self, name: &str, text: &str) {
        let path = self.path("etc").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn local(&self, text: &str) {
        let cache = self.path("cache").display().to_string();
        let always =
            format!("CVMFS_CACHE_BASE={cache}\nCVMFS_MAX_RETRIES=0\nCVMFS_DNS_RETRIES=0\n");
        self.write("default.local", &(always + text));
    }

    /// Lets the site have the key of the data itself.
    fn give_key(&self) {
        let key = std::fs::read_to_string(self.data.public_key()).unwrap();
        self.write("keys/test.repo.pub", &key);
    }

    fn spec(&self) -> MountSpec {
        let files = self.path("etc").display().to_string();
        MountSpec::published(&client!(), &self.data, &[&self.data_server])
            .impatient()
            .env("CVMFS_FUSE_CONFIG_DIR", &files)
    }

    /// Reads the file with what the files say, and with nothing typed.
    fn cat(&self) -> Output {
        let mut command = client!().command();
        command.env("CVMFS_FUSE_CONFIG_DIR", self.path("etc"));
        command.args(["cat", &format!("{FQRN}:/a")]).output().unwrap()
    }
}

fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{} {} {}", output.status, text(&output.stdout), text(&output.stderr))
}

#[test]
fn h7_a_configuration_repository_kills_no_mount() {
    deadline(LIMIT, || {
        let deep = format!("[ {}x ] && A=1\n", "! ".repeat(200_000));
        let stars = format!("A={}\ncase $A in\n", "a".repeat(60_000));
        let slow = stars + &"*a*a*a*a*a*a*a*a*b) ;;\n".repeat(1000) + "esac\n";
        let functions = "f() ".repeat(15_000);
        for text in [deep, slow, functions] {
            let site = Site::new(&[("default.conf", &text)]);
            let mount = site.spec().start();
            assert_eq!(std::fs::read(mount.path("a")).unwrap(), b"a");
            let place = format!("{NAME}/etc/cvmfs/default.conf:");
            assert!(mount.log().contains(&place), "{}", mount.log());
            drop(mount);
            // Where it is required, its absence is a refusal with the reason.
            site.local("CVMFS_HTTP_PROXY=DIRECT\nCVMFS_CONFIG_REPO_REQUIRED=yes\n");
            let failure = site.spec().try_start().err().unwrap();
            assert_eq!(failure.code, Some(1), "{failure}");
            assert!(failure.stderr.contains(&place), "{failure}");
        }
    });
}

#[test]
fn h7_a_configuration_repository_does_not_switch_the_blocklist_of_the_site_off() {
    deadline(LIMIT, || {
        let site = Site::new(&[
            ("default.conf", "CVMFS_BLACKLIST=/dev/null\n"),
            (&format!("config.d/{FQRN}.conf"), "readonly CVMFS_BLACKLIST=/dev/null\n"),
        ]);
        site.write("blacklist", &format!("<{FQRN} 2\n"));
        let failure = site.spec().try_start().err().unwrap();
        assert_eq!(failure.code, Some(25), "{failure}");
        site.write("elsewhere", &format!("<{FQRN} 2\n"));
        site.write("blacklist", "");
        let elsewhere = site.path("etc/elsewhere").display().to_string();
        site.local(&format!("CVMFS_HTTP_PROXY=DIRECT\nCVMFS_BLACKLIST={elsewhere}\n"));
        let failure = site.spec().try_start().err().unwrap();
        assert_eq!(failure.code, Some(25), "{failure}");
    });
}

#[test]
fn h7_no_password_of_the_site_is_sent_to_a_server() {
    deadline(LIMIT, || {
        let site = Site::new(&[(
            &format!("config.d/{FQRN}.conf"),
            "CVMFS_SERVER_URL=\"@data@/$CVMFS_HTTP_PROXY\"\n",
        )]);
        site.give_key();
        // The proxy is dead; the other member of its group is not.
        site.local("CVMFS_HTTP_PROXY='http://site:geheim@127.0.0.1:1|DIRECT'\n");
        let output = site.cat();
        let asked = site.data_server.requests();
        assert!(!asked.is_empty(), "{}", shown(&output));
        let is_secret = |text: &str| text.contains("geheim") || text.contains("site:");
        assert!(!asked.iter().any(|request| is_secret(&request.target)), "{asked:?}");
        assert_eq!(output.stdout, b"a", "{}", shown(&output));
    });
}

#[test]
fn h7_keys_of_the_site_hold_beside_those_of_a_configuration_repository() {
    deadline(LIMIT, || {
        // All repositories of these tests have one key; this is that of somebody else.
        let key = include_str!("../../cvmfs-fuse/src/config/keys/egi.eu.pub");
        let server = "CVMFS_SERVER_URL=@data@\n";
        let named = "CVMFS_KEYS_DIR=$CVMFS_MOUNT_DIR/$CVMFS_CONFIG_REPOSITORY/etc/cvmfs/keys\n";
        let site = Site::new(&[
            ("domain.d/test.repo.conf", &format!("{server}{named}")),
            ("keys/other.pub", key),
            ("keys/broken.pub", "no key"),
        ]);
        // Only theirs: another one.
        let output = site.cat();
        assert!(!output.status.success() && output.stdout.is_empty(), "{}", shown(&output));
        site.give_key();
        let output = site.cat();
        assert_eq!(output.stdout, b"a", "{}", shown(&output));
        // A key of this machine is none of theirs, whatever they name.
        let files = site.path("etc").display().to_string();
        std::fs::rename(site.path("etc/keys"), site.path("etc/hidden")).unwrap();
        let stolen = format!("{server}CVMFS_PUBLIC_KEY={files}/hidden/test.repo.pub\n");
        let site_of_thief = Site::new(&[("domain.d/test.repo.conf", &stolen)]);
        let output = site_of_thief.cat();
        assert!(output.stdout.is_empty(), "{}", shown(&output));
    });
}
