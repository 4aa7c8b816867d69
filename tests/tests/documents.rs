//! What is written for people is true: commands parse, links lead somewhere, tests that are
//! quoted exist, messages that are explained are said.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Parser as _;
use cvmfs_fuse::cli::args::Cli;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every page, by its path.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    let mut paths: Vec<_> = docs.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.extend(["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    paths.sort();
    let read = |path: PathBuf| (path.clone(), std::fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// Lines within fences of a shell, continued ones joined.
fn shell_lines(page: &str) -> Vec<String> {
    let (mut found, mut is_shell, mut begun) = (Vec::new(), false, String::new());
    for line in page.lines() {
        if let Some(language) = line.trim().strip_prefix("```") {
            is_shell = language == "sh";
        } else if is_shell {
            if let Some(part) = line.strip_suffix('\\') {
                begun.push_str(part);
            } else {
                found.push(std::mem::take(&mut begun) + line);
            }
        }
    }
    found
}

/// The words of the commands of ours in a line, as a shell would give them.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);

    for c in line.chars() {
        match (c, quote) {
            (_, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (' ', None) => words.extend(word.take()),
            ('|' | ';' | '>' | '<' | '&', None) => {
                words.extend(word.take());
                words.push(c.to_string());
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    let parts = words.split(|word| ["|", ";", ">", "<", "&"].contains(&word.as_str()));
    parts
        .filter_map(|words| {
            let begin = words.iter().position(|word| word == "cvmfs-fuse")?;
            // Of docker and podman only what comes behind the image, which has our name.
            let begin = match words.first()?.as_str() {
                "docker" | "podman" => words.iter().rposition(|word| word == "cvmfs-fuse")?,
                "cvmfs-fuse" => begin,
                _ => return None,
            };
            Some(words[begin..].to_vec())
        })
        .filter(|words| words.len() > 1)
        .collect()
}

#[test]
fn commands_that_are_shown_are_understood() {
    let mut count = 0;
    for (path, page) in pages() {
        for line in shell_lines(&page) {
            for words in commands(&line) {
                if words.iter().any(|word| word == "...") {
                    continue;
                }
                count += 1;
                if let Err(error) = Cli::try_parse_from(&words) {
                    let is_help = [
                        clap::error::ErrorKind::DisplayHelp,
                        clap::error::ErrorKind::DisplayVersion,
                    ];
                    assert!(is_help.contains(&error.kind()), "{}: {line}: {error}", path.display());
                }
            }
        }
    }
    assert!(count >= 25, "{count} commands found");
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    heading
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut linked = HashSet::new();
    for (path, page) in pages() {
        for rest in page.split("](").skip(1) {
            let target = rest.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, section) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(file.exists(), "{}: {target}", path.display());
            linked.insert(file.canonicalize().unwrap());
            if !section.is_empty() {
                let text = std::fs::read_to_string(&file).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|heading| anchor(heading) == section);
                assert!(found, "{}: no section {target}", path.display());
            }
        }
    }
    for (path, _) in pages() {
        let is_found =
            linked.contains(&path) || path.ends_with("SUMMARY.md") || path.ends_with("README.md");
        assert!(is_found, "{}: nothing leads there", path.display());
    }
}

/// Everything in files with an extension below a directory, one after the other.
fn sources(directory: &Path, found: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// Tells whether sources have a test of that name; a few are made by macros, which take the name
/// at the beginning of a line.
fn is_test(text: &str, name: &str) -> bool {
    text.contains(&format!("fn {name}("))
        || text.lines().any(|line| {
            let rest = line.trim_start().strip_prefix(name);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
}

#[test]
fn tests_that_are_quoted_exist() {
    let page = std::fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let mut count = 0;
    for name in page.split('`').skip(1).step_by(2) {
        let Some((file, test)) = name.split_once("::") else { continue };
        count += 1;
        let tests = root().join("tests/tests");
        let mut text =
            std::fs::read_to_string(tests.join(format!("{file}.rs"))).unwrap_or_default();
        if tests.join(file).is_dir() {
            sources(&tests.join(file), &mut text);
        }
        assert!(is_test(&text, test), "{name}");
    }
    assert!(count > 30, "{count} tests quoted");
}

#[test]
fn the_list_of_features_quotes_tests_that_exist() {
    let mut text = String::new();
    for part in ["cvmfs-core/src", "cvmfs-cache/src", "cvmfs-fuse/src", "tests/tests"] {
        sources(&root().join(part), &mut text);
    }
    let page = std::fs::read_to_string(root().join("docs/features.md")).unwrap();
    let (mut tested, mut missing) = (0, 0);
    for row in page.lines().filter(|row| row.starts_with("| ") && !row.starts_with("| nr")) {
        let cell = row.split('|').nth(3).unwrap().trim();
        let note = row.split('|').nth(4).unwrap().trim();
        if cell == "missing" {
            assert!(!note.is_empty(), "{row}");
            missing += 1;
            continue;
        }
        tested += 1;
        for name in cell.split(", ") {
            let test = name.trim_matches('`').rsplit("::").next().unwrap();
            assert!(is_test(&text, test), "{name}");
        }
    }
    assert!(page.contains(&format!("{tested} of {} have a test", tested + missing)));
}

/// Each promise about attackers names what shows it: `file::test`, or for units `module::tests::test`. A star
/// stands for all tests that begin so, and the name of a file alone for all of its tests.
#[test]
fn the_page_about_attackers_quotes_tests_that_exist() {
    let mut text = String::new();
    for part in ["cvmfs-core/src", "cvmfs-cache/src", "cvmfs-fuse/src", "tests/tests"] {
        sources(&root().join(part), &mut text);
    }
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let attackers = page.split("\n## ").find(|part| part.starts_with("Attackers")).unwrap();
    let mut count = 0;
    for row in
        attackers.lines().filter(|row| row.starts_with("| ") && !row.starts_with("| attacker"))
    {
        let cell = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            let test = name.rsplit("::").next().unwrap();
            let is_file = root().join("tests/tests").join(format!("{name}.rs")).exists();
            let is_there = match test.strip_suffix('*') {
                Some(start) => text.contains(&format!("fn {start}")),
                None => is_file || is_test(&text, test),
            };
            assert!(is_there, "{name}");
            count += 1;
        }
    }
    assert!(count > 40, "{count} tests quoted");
}

#[test]
fn messages_that_are_explained_are_said() {
    let mut text = String::new();
    for part in ["cvmfs-core", "cvmfs-cache", "cvmfs-fuse"] {
        sources(&root().join(part).join("src"), &mut text);
    }
    // Long messages go over lines.
    let text = text.split('\\').map(str::trim_start).collect::<String>();
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let explained: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("**`")?.strip_suffix("`**")).collect();
    assert!(explained.len() > 15, "{explained:?}");
    for message in explained {
        let device = message.replace("/dev/fuse", "{DEVICE}");
        assert!(text.contains(message) || text.contains(&device), "nobody says {message:?}");
    }
}

#[test]
fn a_shell_completes_our_commands() {
    deadline(LIMIT, || {
        let script = r#"
source <("$CLIENT" completions bash)
name=$(complete -p cvmfs-fuse | grep -o -- '-F [^ ]*' | cut -d' ' -f2)
COMP_WORDS=(cvmfs-fuse mou) COMP_CWORD=1
"$name" cvmfs-fuse mou cvmfs-fuse
echo "${COMPREPLY[@]}"
COMP_WORDS=(cvmfs-fuse mount --prox) COMP_CWORD=2
"$name" cvmfs-fuse --prox mount
echo "${COMPREPLY[@]}"
"#;
        let output = Command::new("bash")
            .args(["-c", script])
            .env("CLIENT", client!().command().get_program())
            .output();
        let output = output.unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert_eq!(shown, "mount\n--proxy\n", "{}", String::from_utf8_lossy(&output.stderr));
        for (shell, part) in [("zsh", "#compdef cvmfs-fuse"), ("fish", "complete -c cvmfs-fuse")] {
            let output = client!().command().args(["completions", shell]).output().unwrap();
            assert!(String::from_utf8(output.stdout).unwrap().contains(part), "{shell}");
        }
    });
}

#[test]
fn every_subcommand_has_a_manual_page() {
    deadline(LIMIT, || {
        let scratch = tempfile::tempdir().unwrap();
        let status = client!().command().arg("man").arg(scratch.path()).status().unwrap();
        assert!(status.success());
        let page = |name: &str| {
            let path = scratch.path().join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        for (name, parts) in [
            ("cvmfs-fuse.1", ["automount", "Exit codes"]),
            ("cvmfs-fuse-mount.1", ["\\-\\-proxy", "CVMFS_TIMEOUT"]),
            ("cvmfs-fuse-cache-info.1", ["\\-\\-cache\\-dir", "\\-\\-json"]),
        ] {
            let text = page(name);
            assert!(text.contains(".TH"), "{name}");
            for part in parts {
                assert!(text.contains(part), "{name}: {part} missing in {text}");
            }
            assert!(!text.contains("ready\\-fd"), "{name} shows what is for the program itself");
        }
        let output = client!().command().arg("man").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), page("cvmfs-fuse.1"));
    });
}
