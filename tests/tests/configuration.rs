//! The files of a site, and the names of upstream's tools, as scripts use them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::apart::private_mounts;
use tests::site::{Site, shown, stdout};
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn the_files_of_a_site_are_enough_to_mount() {
    deadline(LIMIT, || {
        let site = Site::new(client!());
        let fqrn = site.genuine.fqrn().to_owned();
        site.assert_mounted(&site.client(&["mount", &fqrn, &site.m()]));
        assert!(std::fs::read_dir(site.path("var/cvmfs-fuse")).unwrap().count() > 1);
        site.umount();
        // What is typed counts more.
        let fresh = site.path("fresh").display().to_string();
        let root = format!("{fqrn}:/");
        let output =
            site.client(&["ls", &root, "--server", "http://127.0.0.1:1", "--cache-dir", &fresh]);
        assert_eq!(output.status.code(), Some(16), "{}", shown(&output));
        // A mistake is told, and stops nobody.
        site.write("etc/config.d/small.test.repo.local", "CVMFS_TIMOUT=3\nX=`true`\n");
        let output = site.client(&["mount", &fqrn, &site.m()]);
        site.assert_mounted(&output);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("small.test.repo.local:1") && said.contains("CVMFS_TIMEOUT"),
            "{said}"
        );
        assert!(said.contains("small.test.repo.local:2"), "{said}");
        site.umount();
        let output = site.client(&["config", "check", &fqrn]);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        // Only listed ones, by short names, too.
        site.write(
            "etc/default.d/90-strict.conf",
            "CVMFS_STRICT_MOUNT=yes\nCVMFS_REPOSITORIES=x.y\n",
        );
        let output = site.client(&["mount", &fqrn, &site.m()]);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        assert!(shown(&output).contains("CVMFS_REPOSITORIES"), "{}", shown(&output));
        site.write(
            "etc/default.d/90-strict.conf",
            "CVMFS_STRICT_MOUNT=yes\nCVMFS_REPOSITORIES=small\nCVMFS_DEFAULT_DOMAIN=test.repo\n",
        );
        site.assert_mounted(&site.client(&["mount", "small", &site.m()]));
        site.umount();
    });
}

#[test]
fn a_toml_file_is_enough_to_mount() {
    deadline(LIMIT, || {
        let site = Site::new(client!());
        let fqrn = site.genuine.fqrn().to_owned();
        let base = site.server.base(&fqrn);
        std::fs::remove_dir_all(site.path("etc")).unwrap();
        let text = format!(
            "http_proxy = \"DIRECT\"\ncache_base = {:?}\nquota_limit = 4000\n\n\
             [repository.{fqrn:?}]\nserver_url = [\"http://127.0.0.1:1\", {base:?}]\n\
             public_key = {:?}\n",
            site.path("var"),
            site.genuine.public_key()
        );
        site.write("etc/cvmfs-fuse.toml", &text);
        site.assert_mounted(&site.client(&["mount", &fqrn, &site.m()]));
        assert!(std::fs::read_dir(site.path("var/cvmfs-fuse")).unwrap().count() > 1);
        site.umount();
        let line = |output: &std::process::Output, name: &str| {
            let text = stdout(output);
            text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
        };
        let shown_line = line(&site.client(&["config", "show", &fqrn]), "CVMFS_SERVER_URL");
        let origin = format!("# from {}:6", site.path("etc/cvmfs-fuse.toml").display());
        assert!(shown_line.contains(&base) && shown_line.ends_with(&origin), "{shown_line}");
        assert!(site.client(&["config", "check", &fqrn]).status.success());
        // One that is named, instead.
        site.write("own.toml", &text.replace("4000", "5000"));
        let own = site.path("own.toml").display().to_string();
        let output = site.client(&["config", "show", &fqrn, "--config", &own]);
        assert!(line(&output, "CVMFS_QUOTA_LIMIT").contains("=5000 "), "{}", shown(&output));
        // A mistake of writing stops the mount: nobody knows what the rest would have said.
        site.write("etc/cvmfs-fuse.toml", &text.replace("[repository", "[[repository"));
        let output = site.client(&["mount", &fqrn, &site.m()]);
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
        assert!(shown(&output).contains("cvmfs-fuse.toml:5: is not TOML"), "{}", shown(&output));
        // The example of the documentation is understood.
        let page = include_str!("../../docs/parameters.md");
        let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        site.write("example.toml", example.unwrap());
        let example = site.path("example.toml").display().to_string();
        let output = site.client(&["config", "check", "--config", &example, "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // Its keys are not on this machine.
        let findings = report["findings"].as_array().unwrap();
        assert!(
            findings.iter().all(|finding| finding["what"].to_string().contains("/etc/cvmfs/keys")),
            "{report}"
        );
        assert!(report["files"].as_array().unwrap().len() == 1, "{report}");
    });
}

#[test]
fn scripts_source_the_functions_that_they_know() {
    deadline(LIMIT, || {
        let client = client!();
        let program = client.command().get_program().to_owned();
        let site = Site::new(client);
        site.write("etc/default.d/50-domain.conf", "CVMFS_DEFAULT_DOMAIN=test.repo\n");
        site.write("etc/config.d/small.test.repo.conf", "SITE_NOTE='two words; it'\\''s quoted'\n");
        let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/config.sh");
        let script = r#"set -eu
            . "$1"
            fqrn=$(cvmfs_mkfqrn small)
            echo "$fqrn $(cvmfs_mkfqrn a.b.c) $(cvmfs_getorg "$fqrn") $(cvmfs_getdomain "$fqrn")"
            cvmfs_readconfig "$fqrn"
            echo "$CVMFS_QUOTA_LIMIT $SITE_NOTE"
            cvmfs_getorigin CVMFS_HTTP_PROXY "$fqrn"
            cvmfs_getorigin CVMFS_NOWHERE "$fqrn" || echo "nowhere"
            cvmfs_readconfig "not.a name" 2>/dev/null || echo "no name""#;
        let output = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(library)
            .env("CVMFS_FUSE", program)
            .env("CVMFS_FUSE_CONFIG_DIR", site.path("etc"))
            .output()
            .unwrap();
        let said = stdout(&output);
        let expected = format!(
            "small.test.repo a.b.c small test.repo\n4000 two words; it's quoted\n{}:1\nnowhere\nno name\n",
            site.path("etc/default.local").display()
        );
        assert_eq!(said, expected, "{}", shown(&output));
    });
}

#[test]
fn upstreams_names_do_what_scripts_expect() {
    deadline(LIMIT, || {
        // 'status' tells of all mounts.
        private_mounts();
        let site = Site::new(client!());
        let fqrn = site.genuine.fqrn().to_owned();
        let m = site.m();
        // As mount(8) calls it for a line of fstab.
        let options = ["-o", "rw,_netdev,nodev"];
        site.assert_mounted(&site.tool("mount.cvmfs", &[&fqrn, &m, options[0], options[1]]));
        let probe = site.tool("cvmfs_config", &["probe", &m]);
        assert_eq!(stdout(&probe), format!("Probing {m}... OK\n"));
        let revision = site.tool("cvmfs_talk", &["-i", &fqrn, "revision"]);
        assert_eq!(stdout(&revision).trim(), "4", "{}", shown(&revision));
        assert!(stdout(&site.tool("cvmfs_config", &["status"])).contains(&fqrn));
        site.umount();
        // A private mount by one file.
        let base = site.server.base(&fqrn);
        let key = site.genuine.public_key();
        let own = format!(
            "CVMFS_SERVER_URL={base}\nCVMFS_PUBLIC_KEY={}\nCVMFS_HTTP_PROXY=DIRECT\n\
             CVMFS_CACHE_BASE={}\n",
            key.display(),
            site.path("own").display()
        );
        site.write("own.conf", &own);
        let config = format!("config={}", site.path("own.conf").display());
        site.assert_mounted(&site.tool("cvmfs2", &["-o", &config, &fqrn, &m]));
        site.umount();
        let parsed = stdout(&site.tool("cvmfs2", &["-o", &format!("parse,{config}"), &fqrn, &m]));
        assert!(parsed.starts_with("# CernVM-FS parameters:\n"), "{parsed}");
        // It is made to be evaluated by a shell.
        let script = format!("{parsed}\necho \"$CVMFS_SERVER_URL\"");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(stdout(&output).trim(), base);
        let version = stdout(&site.tool("cvmfs2", &["--version"]));
        assert!(
            version.starts_with("CernVM-FS version ") && version.ends_with("\n\n"),
            "{version:?}"
        );
        let shown_config = stdout(&site.tool("cvmfs_config", &["showconfig", "-s", &fqrn]));
        assert!(
            shown_config.starts_with("CVMFS_REPOSITORY_NAME=small.test.repo\n"),
            "{shown_config}"
        );
        assert!(shown_config.contains("CVMFS_QUOTA_LIMIT=4000    # from "), "{shown_config}");
        assert!(!shown_config.contains("CVMFS_ALIEN_CACHE"), "{shown_config}");
        // The long form also lists what nobody set, sorted.
        let whole = stdout(&site.tool("cvmfs_config", &["showconfig", &fqrn]));
        let names: Vec<_> =
            whole.lines().skip(1).filter_map(|line| line.split('=').next()).collect();
        assert!(names.is_sorted() && names.len() > 100, "{whole}");
        assert!(whole.contains("\nCVMFS_ALIEN_CACHE=\n"), "{whole}");
        let all = stdout(&site.client(&["config", "show", "--all", &fqrn]));
        assert!(all.contains("\nCVMFS_MAX_RETRIES=1    # built in\n"), "{all}");
        assert!(all.contains("\nCVMFS_QUOTA_LIMIT=4000    # from "), "{all}");
        assert_eq!(stdout(&site.tool("cvmfs_config", &["chksetup"])), "OK\n");
        assert_eq!(stdout(&site.tool("auto.cvmfs", &["a.b.c"])), "-fstype=cvmfs :a.b.c\n");
        assert_eq!(site.tool("auto.cvmfs", &["nonsense"]).status.code(), Some(1));
    });
}

#[test]
fn owners_and_modes_are_those_that_a_site_wants() {
    use std::os::unix::fs::MetadataExt as _;
    deadline(LIMIT, || {
        let site = Site::new(client!());
        let fqrn = site.genuine.fqrn().to_owned();
        let seen = |more: &str| {
            site.write("etc/config.d/small.test.repo.local", more);
            site.assert_mounted(&site.client(&["mount", &fqrn, &site.m()]));
            let mut all = Vec::new();
            for entry in std::fs::read_dir(site.path("m")).unwrap() {
                let found = std::fs::symlink_metadata(entry.unwrap().path()).unwrap();
                all.push((found.uid(), found.gid(), found.mode(), found.is_dir()));
            }
            site.umount();
            all
        };
        let plain = seen("");
        let all = seen("CVMFS_CLAIM_OWNERSHIP=yes\n");
        let us = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        assert!(all.iter().all(|found| (found.0, found.1) == us), "{all:?}");
        let map = site.path("users").display().to_string();
        site.write("users", "# everybody\n* 4711\n");
        let all = seen(&format!("CVMFS_UID_MAP={map}\nCVMFS_GID_MAP={map}\n"));
        assert!(all.iter().all(|found| (found.0, found.1) == (4711, 4711)), "{all:?}");
        let all = seen("CVMFS_WORLD_READABLE=yes\n");
        for (found, before) in all.iter().zip(&plain) {
            let more = if found.3 { 0o555 } else { 0o444 };
            assert_eq!(found.2, before.2 | more, "{all:?}");
        }
        site.write("users", "1\n");
        site.write("etc/config.d/small.test.repo.local", &format!("CVMFS_UID_MAP={map}\n"));
        let output = site.client(&["mount", &fqrn, &site.m()]);
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    });
}
