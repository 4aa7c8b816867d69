//! Servers that mean no good: the survey ends in time, within its limits, and says what they did.

use std::time::Instant;

use fixtures::publish::keys;

use super::*;

/// Longest time for a survey of servers that say nothing for 2 s each time they are asked.
const ENOUGH: Duration = Duration::from_secs(60);

#[test]
fn servers_that_are_silent_endless_or_broken() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let good = origin.serve();
        let spoiled = |rules: Vec<Rule>| {
            let server = origin.serve();
            for rule in rules {
                server.rule(rule);
            }
            server
        };
        let silent = origin.serve();
        silent.set_network(Network::Silent);
        let dropping = origin.serve();
        dropping.set_network(Network::Dropping);
        let manifest = || Rule::on("*/.cvmfspublished");
        let objects = || Rule::when(|request| is_file_object(&request.path));
        let endless_letter = spoiled(vec![manifest().endless()]);
        let endless_objects = spoiled(vec![objects().endless()]);
        let trickling = spoiled(vec![objects().header_byte_every(Duration::from_millis(500))]);
        let cut = spoiled(vec![objects().cut_after(100)]);
        let stalling = spoiled(vec![objects().stall_after(100)]);
        let elsewhere = spoiled(vec![objects().redirect("http://192.0.2.1/x")]);
        let empty = spoiled(vec![objects().body(Vec::new())]);
        let all = [
            (&good, &[][..]),
            (&silent, &[("unreachable", "problem")]),
            (&dropping, &[("unreachable", "problem")]),
            (&endless_letter, &[("unreachable", "problem")]),
            (&endless_objects, &[("corrupt", "problem")]),
            (&trickling, &[("failing", "problem")]),
            (&cut, &[("failing", "problem")]),
            (&stalling, &[("failing", "problem")]),
            (&elsewhere, &[("failing", "problem")]),
            (&empty, &[("corrupt", "problem")]),
        ];
        let bases: Vec<_> = all.iter().map(|(server, _)| server.base(FQRN)).collect();
        let start = Instant::now();
        let output = origin
            .command(&bases)
            .args(["--json", "--light", "--max-time=20s", "--max-bytes=4M"])
            .args(["--set=CVMFS_TIMEOUT_DIRECT=2", "--set=CVMFS_TIMEOUT=2"])
            .output()
            .unwrap();
        assert!(start.elapsed() < ENOUGH, "{:?}", start.elapsed());
        let survey = json(&output);
        for (server, expected) in all {
            let found = mirror(&survey, &server.base(FQRN));
            assert_faults(found, expected);
            assert!(found["bytes"].as_u64() <= Some(4 << 20), "{found:#}");
        }
        assert_eq!(mirror(&survey, &good.base(FQRN))["rank"], 1);
    });
}

#[test]
fn letters_of_others_and_two_contents_of_one_revision() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let good = origin.serve();
        // Newer, and signed by somebody else: it must not count as the newest.
        let mut forger = TestRepo::new(FQRN);
        forger.whitelist_expires(&in_seconds(30 * 86_400));
        forger.revision(99).master(&keys::OTHER_MASTER).file("/x", b"x".to_vec());
        let forged = forger.publish();
        let forged = TestServer::serving(forged.root());
        // The owner's key, the same number, another tree.
        let mut other = TestRepo::new(FQRN);
        other.whitelist_expires(&in_seconds(30 * 86_400));
        other.file("/<script>alert(1)</script>", b"y".to_vec());
        let other = other.publish();
        let diverged = TestServer::serving(other.root());
        let bases = [&good, &forged, &diverged].map(|server| server.base(FQRN));
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.html");
        let output = origin
            .command(&bases)
            .args(["--json", "--light", "--html"])
            .arg(&page)
            .output()
            .unwrap();
        let survey = json(&output);
        assert_eq!(survey["newest"]["revision"], 1);
        assert_faults(mirror(&survey, &bases[1]), &[("untrusted", "problem")]);
        // Which of the two is the odd one cannot be told; one of them is named.
        let kinds = [0, 2].map(|place: usize| faults(mirror(&survey, &bases[place])));
        let odd = kinds.iter().filter(|kinds| kinds.iter().any(|(kind, _)| kind == "diverged"));
        assert_eq!(odd.count(), 1, "{survey:#}");
        assert_eq!(output.status.code(), Some(64 + 4));
        let html = std::fs::read_to_string(&page).unwrap();
        assert!(!html.contains("<script"), "{html}");
    });
}
