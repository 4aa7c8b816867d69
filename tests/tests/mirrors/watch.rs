//! Round after round: what changes is told.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use fixtures::server::Network;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{FQRN, LIMIT, Origin, deadline};

/// Server, kind of fault, and whether it began.
fn changes(round: &Value) -> Vec<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let changes = round["changes"].as_array().unwrap().iter();
    changes
        .map(|change| {
            let began = change["began"].as_bool().unwrap();
            (text(&change["server"]), text(&change["fault"]["kind"]), began)
        })
        .collect()
}

#[test]
fn a_mirror_that_falls_behind_and_one_that_goes_away() {
    deadline(LIMIT, || {
        let mut origin = Origin::new();
        let first = origin.serve();
        let (_old, lazy) = origin.snapshot();
        let other = origin.serve();
        let bases = [&first, &lazy, &other].map(|server| server.base(FQRN));
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.html");
        let mut child = origin
            .command(&bases)
            .args(["--json", "--watch=5", "--max-lag=0", "--html"])
            .arg(&page)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next =
            || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
        // The first round has nothing to be compared with; nothing is wrong.
        let round = next();
        assert_eq!(changes(&round), []);
        assert_eq!(round["newest"]["revision"], 1);
        let quiet = first.requests().len();
        origin.publish();
        let change =
            |server: usize, kind: &str, began| (bases[server].clone(), kind.to_owned(), began);
        let mut until = |expected: &[(String, String, bool)]| {
            // A round may have been under way.
            let mut found = next();
            if changes(&found).is_empty() {
                found = next();
            }
            assert_eq!(changes(&found), expected, "{found:#}");
        };
        until(&[change(1, "stale", true)]);
        other.set_network(Network::Refusing);
        until(&[change(2, "unreachable", true)]);
        other.set_network(Network::Up);
        until(&[change(2, "unreachable", false)]);
        // Watching is light: no rates, a few objects.
        assert!(quiet <= 20, "{quiet} requests in the first round");
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        // Stopped as it should be: the code is that of the last round.
        assert_eq!(child.wait().unwrap().code(), Some(64 + 2));
        let html = std::fs::read_to_string(&page).unwrap();
        let rounds = html.split("Rounds so far").nth(2).unwrap().split("</svg>").next().unwrap();
        // Behind for some rounds, away for one.
        assert!(rounds.matches("class='bad'").count() >= 3, "{rounds}");
        assert!(rounds.matches("class='good'").count() >= 4, "{rounds}");
        if let Some(kept) = std::env::var_os("CVMFS_FUSE_KEEP_PAGE") {
            std::fs::copy(&page, std::path::Path::new(&kept).join("watched.html")).unwrap();
        }
    });
}

#[test]
fn a_table_for_each_round_and_an_end() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let server = origin.serve();
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.html");
        let output = origin
            .command(&[server.base(FQRN)])
            .args(["--watch=5s", "--rounds=2", "--html"])
            .arg(&page)
            .output()
            .unwrap();
        let shown = super::text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{shown}");
        assert_eq!(shown.matches("1 mirrors asked").count(), 2, "{shown}");
        assert!(shown.contains("0 changes"), "{shown}");
        let html = std::fs::read_to_string(&page).unwrap();
        let rounds = html.split("Rounds so far").nth(2).unwrap().split("</svg>").next().unwrap();
        assert_eq!(rounds.matches("class='good'").count(), 2, "{rounds}");
        // It was replaced as a whole.
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    });
}
