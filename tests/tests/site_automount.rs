//! The commands of a site where one mount shows all repositories, and where whoever asks is not the one
//! who mounted.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use fixtures::server::Rule;
use tests::apart::private_mounts;
use tests::site::{Site, shown, stdout};
use tests::walk::get_xattr;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(180);
const FQRN: &str = "small.test.repo";
/// What strangers are told.
const REFUSAL: &str = "only root and the user who mounted may ask for that";

/// A site whose mounts are seen here only.
fn site() -> Site {
    private_mounts();
    let site = Site::new(client!());
    site.write("etc/default.d/50-names.conf", "CVMFS_DEFAULT_DOMAIN=test.repo\n");
    site
}

fn assert_says(output: &Output, code: i32, part: &str) {
    assert_eq!(output.status.code(), Some(code), "{part}: {}", shown(output));
    assert!(shown(output).contains(part), "{part}: {}", shown(output));
}

#[test]
fn repositories_below_an_automount_are_found_by_name() {
    deadline(LIMIT, || {
        let site = site();
        let (m, below) = (site.m(), format!("{}/{FQRN}", site.m()));
        stdout(&site.client(&["automount", &m]));
        let config = |words: &[&str]| site.tool("cvmfs_config", words);
        let talk = |words: &[&str]| site.tool("cvmfs_talk", words);
        // Nothing is open yet: the mount is there, and what is looked at is opened.
        assert_eq!(stdout(&config(&["status"])), "");
        assert_eq!(stdout(&site.client(&["probe"])), format!("Probing {m}... OK\n"));
        assert_says(&talk(&["-i", &below, "revision"]), 1, "is not open in this mount");
        assert_eq!(stdout(&config(&["probe", "small"])), format!("Probing {below}... OK\n"));
        let absent = config(&["probe", "absent"]);
        assert_says(&absent, 1, "/absent.test.repo... Failed!");
        assert_eq!(stdout(&site.client(&["probe"])), format!("Probing {below}... OK\n"));
        let pid = get_xattr(Path::new(&m), b"user.pid").unwrap();
        let pid = String::from_utf8(pid).unwrap();
        let line = format!("{FQRN} mounted on {below} with pid {pid}\n");
        assert_eq!(stdout(&config(&["status"])), line);
        for name in ["small", FQRN, &below] {
            let table = stdout(&config(&["stat", name]));
            let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
            assert_eq!((row.len(), row[1], row[4], row[18]), (19, &*pid, "4", "1"), "{table}");
        }
        assert!(stdout(&config(&["stat"])).starts_with(&format!("{FQRN}:\n")));
        assert_says(&config(&["stat", "absent"]), 1, "is not mounted");
        assert!(stdout(&site.client(&["status", FQRN])).contains(&below));
        assert_says(&site.client(&["status", "absent.test.repo"]), 1, "is not mounted here");
        for name in [FQRN, &below, &m] {
            assert_eq!(stdout(&talk(&["-i", name, "revision"])), "4\n", "{name}");
        }
        // Another one is asked for: the answer is not that of the only one that is open.
        let other = format!("{m}/other.test.repo");
        assert_says(&talk(&["-i", &other, "revision"]), 1, "is not open in this mount");
        let file = format!("{below}/many/f3");
        assert_says(&site.client(&["why", &file]), 1, "no call has failed");
        site.server.rule(Rule::on("*/data/*").status(500));
        std::fs::read(&file).unwrap_err();
        let why = stdout(&site.client(&["why", &file]));
        assert!(why.starts_with(&format!("{FQRN}:/many/f3: read failed with EIO")), "{why}");
        site.umount();
    });
}

/// Runs the program as a user to whom nothing belongs.
fn as_stranger(site: &Site, name: &str, words: &[&str]) -> Output {
    Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(site.path("open").join(name))
        .args(words)
        .env("CVMFS_FUSE_CONFIG_DIR", site.path("etc"))
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .output()
        .unwrap()
}

#[test]
fn strangers_see_what_is_to_be_seen_and_are_refused_the_rest() {
    deadline(LIMIT, || {
        for command in [&["automount"][..], &["mount", FQRN]] {
            let site = site();
            let open = site.path("open");
            std::fs::create_dir(&open).unwrap();
            std::fs::copy(client!().command().get_program(), open.join("cvmfs-fuse")).unwrap();
            for name in ["cvmfs_config", "cvmfs_talk"] {
                std::os::unix::fs::symlink("cvmfs-fuse", open.join(name)).unwrap();
            }
            std::fs::set_permissions(site.path(""), PermissionsExt::from_mode(0o755)).unwrap();
            let m = site.m();
            stdout(&site.client(&[command, &[m.as_str()]].concat()));
            let place = match command {
                ["automount"] => format!("{m}/{FQRN}"),
                _ => m.clone(),
            };
            let config = |words: &[&str]| as_stranger(&site, "cvmfs_config", words);
            let talk = |words: &[&str]| as_stranger(&site, "cvmfs_talk", words);
            let own = |words: &[&str]| as_stranger(&site, "cvmfs-fuse", words);
            let probed = format!("Probing {place}... OK\n");
            if command == ["automount"] {
                assert_eq!(stdout(&config(&["probe", "small"])), probed);
            }
            assert_eq!(stdout(&config(&["probe", &place])), probed);
            assert_eq!(stdout(&own(&["probe"])), probed);
            let status = stdout(&config(&["status"]));
            assert!(
                status.starts_with(&format!("{FQRN} mounted on {place} with pid ")),
                "{status}"
            );
            for name in [None, Some(&*place), Some("small").filter(|_| place != m)] {
                let words: Vec<_> = ["stat"].into_iter().chain(name).collect();
                let table = stdout(&config(&words));
                let row: Vec<_> = table.lines().last().unwrap().split_whitespace().collect();
                assert_eq!((row.len(), row[4]), (19, "4"), "{table}");
            }
            // The server talks to root and the user who mounted.
            assert_says(&own(&["status"]), 1, REFUSAL);
            assert_says(&own(&["status", FQRN]), 1, REFUSAL);
            assert_says(&own(&["why", &place]), 3, REFUSAL);
            for words in [&["-i", FQRN, "revision"][..], &["-i", &place, "revision"], &["revision"]]
            {
                let output = talk(words);
                assert_says(&output, 1, REFUSAL);
                assert!(output.stdout.is_empty(), "{}", shown(&output));
            }
            site.umount();
        }
    });
}
