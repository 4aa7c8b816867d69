//! `bugreport`: what somebody needs who shall find out what is wrong here. One text, secrets masked.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use cvmfs_cache::safe_path::{OutputMode, write_output};
use cvmfs_core::chain::chain;

use super::{mounts, to_json};
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::Environment;
use crate::escape::lines;
use crate::fuse::mountinfo::show;
use crate::talk::client::ask;
use crate::talk::wire::Request;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// End of each log that is shown.
const LOG_TAIL: u64 = 64 << 10;
/// Longest file of a configuration that is shown.
const MAX_CONFIGURATION: u64 = 64 << 10;
/// Files of one directory that are shown.
const MAX_FILES: usize = 200;
/// Directories of the configuration, below its own.
const CONFIGURATION: [&str; 4] = ["", "default.d", "domain.d", "config.d"];
/// What is asked of each repository.
const QUESTIONS: [&str; 8] = [
    "parameters",
    "host info",
    "proxy info",
    "timeout info",
    "max ttl info",
    "cache size",
    "open catalogs",
    "internal affairs",
];
/// Words in names of parameters whose values nobody else may see.
const SECRET: [&str; 6] = ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "AUTHZ", "CREDENTIAL"];

/// `bugreport [-o FILE]`.
#[derive(Debug, Args)]
pub struct BugreportArgs {
    /// Write it to this file
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

pub(in crate::cli) fn run(
    args: &BugreportArgs,
    environment: &Environment,
) -> Result<ExitStatus, Failure> {
    let text = lines(&masked(&collect(environment))).into_owned();
    let Some(path) = &args.output else { return print(&text) };
    let trouble = |error: std::io::Error| {
        Failure::caused(ExitStatus::Unknown, &format!("cannot write {}", path.display()), &error)
    };
    // Logs may tell what others need not know.
    write_output(path, text.as_bytes(), OutputMode::Exactly(0o600)).map_err(trouble)?;
    print(&format!("{}\n", path.display()))
}

fn section(text: &mut String, title: &str) {
    let _ = write!(text, "\n===== {title}\n");
}

fn collect(environment: &Environment) -> String {
    let now = jiff::Timestamp::now();
    let mut text = format!("cvmfs-fuse {} at {now}\n", crate::VERSION);
    section(&mut text, "system");
    for file in ["/proc/version", "/etc/os-release", "/proc/self/limits", "/proc/self/status"] {
        text.push_str(&read(Path::new(file), MAX_CONFIGURATION));
    }
    section(&mut text, "mounts");
    let table = read(Path::new("/proc/self/mountinfo"), 1 << 20);
    table.lines().filter(|line| line.contains(" - fuse")).for_each(|line| {
        let _ = writeln!(text, "{line}");
    });
    let mut places: Vec<_> = environment.default_cache_dir().into_iter().collect();
    places.push(environment.scratch_dir());
    match mounts() {
        Err(failure) => {
            let _ = writeln!(text, "{}", failure.message);
        }
        Ok(found) => {
            for found in found {
                of_mount(&mut text, &found);
                // Root would read what another user's server names.
                let all = found.status.iter().flatten().filter(|_| found.mount.is_ours_or_roots());
                places.extend(all.map(|status| status.workspace.clone()));
            }
        }
    }
    section(&mut text, "configuration");
    for directory in CONFIGURATION {
        files(&mut text, &environment.configuration.join(directory), &["conf", "local"], None);
    }
    section(&mut text, "logs");
    places.sort();
    places.dedup();
    for place in places {
        files(&mut text, &place.join("log"), &["log", "1"], Some(LOG_TAIL));
    }
    text
}

fn of_mount(text: &mut String, found: &crate::talk::mounts::Found) {
    let all = match &found.status {
        Ok(all) => all,
        Err(error) => {
            let _ = writeln!(text, "{}: {}", show(&found.mount.mountpoint), chain(error));
            return;
        }
    };
    let address = found.address();
    let asked = |command: &str, repository: Option<&String>| {
        let request = Request { command: command.to_owned(), repository: repository.cloned() };
        ask(&address, &request, PATIENCE)
    };
    for status in all {
        section(text, &format!("{} on {}", status.repository, show(&status.mountpoint)));
        let _ = writeln!(text, "{}", to_json(status).unwrap_or_default());
        for question in QUESTIONS {
            let answer = match asked(question, Some(&status.repository)) {
                Ok(reply) => reply.text,
                Err(error) => chain(&error),
            };
            let _ = write!(text, "\n--- {question}\n{answer}\n");
        }
    }
    let _ = write!(text, "\n--- failures\n");
    if let Ok(reply) = asked("failures", None) {
        let _ = writeln!(text, "{}", reply.data);
    }
}

/// Adds the files of a directory with these endings: all of each, or its end.
fn files(text: &mut String, directory: &Path, endings: &[&str], tail: Option<u64>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            ending.is_some_and(|ending| endings.contains(&ending)) && path.is_file()
        })
        .collect();
    paths.sort();
    for path in paths.iter().take(MAX_FILES) {
        let _ = write!(text, "\n--- {}\n", path.display());
        if tail.is_some() && !is_of_ours(directory, path) {
            text.push_str("left out: its directory is another user's, or others can write there\n");
            continue;
        }
        text.push_str(&match tail {
            None => read(path, MAX_CONFIGURATION),
            Some(length) => end_of(path, length),
        });
    }
}

/// Tells whether a log is a file with one name in a directory that only root or this user can write: anybody else
/// could lead it to any file that this user may read.
fn is_of_ours(directory: &Path, file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let us = nix::unistd::geteuid().as_raw();
    let is_trusted = |found: &std::fs::Metadata| [0, us].contains(&found.uid());
    let parent = std::fs::symlink_metadata(directory);
    let found = std::fs::symlink_metadata(file);
    let is_safe = |parent: &std::fs::Metadata, found: &std::fs::Metadata| {
        parent.is_dir()
            && parent.mode() & 0o022 == 0
            && is_trusted(parent)
            && found.is_file()
            && found.nlink() == 1
    };
    matches!((parent, found), (Ok(parent), Ok(found)) if is_safe(&parent, &found))
}

fn read(path: &Path, most: u64) -> String {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("{}: {error}\n", path.display()),
    }
}

fn end_of(path: &Path, length: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let start = file.metadata()?.len().saturating_sub(length);
        file.seek(SeekFrom::Start(start))?;
        file.take(length).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("{}: {error}\n", path.display()),
    }
}

/// Takes out passwords of URLs, and values of parameters that are secret by their name.
fn masked(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for line in text.lines() {
        let secret = line.split_once('=').filter(|(name, _)| {
            let name = name.to_ascii_uppercase();
            SECRET.iter().any(|word| name.contains(word))
        });
        match secret {
            Some((name, _)) => {
                let _ = writeln!(safe, "{name}=***");
            }
            None => {
                safe.push_str(&without_passwords(line));
                safe.push('\n');
            }
        }
    }
    safe
}

fn without_passwords(line: &str) -> String {
    let mut safe = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        safe.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | ';' | '|' | ','))
            .unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                safe.push_str("***@");
                safe.push_str(host);
            }
            None => safe.push_str(authority),
        }
        rest = behind;
    }
    safe.push_str(rest);
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked() {
        for (line, expected) in [
            (
                "CVMFS_HTTP_PROXY=http://u:p@h:1|http://b:2",
                "CVMFS_HTTP_PROXY=http://***@h:1|http://b:2",
            ),
            ("say http://a/b and https://x:y:z@c/d?e", "say http://a/b and https://***@c/d?e"),
            ("CVMFS_AUTHZ_TOKEN=abc", "CVMFS_AUTHZ_TOKEN=***"),
            ("export my_password='x'", "export my_password=***"),
            ("plain = 1", "plain = 1"),
        ] {
            assert_eq!(masked(line), format!("{expected}\n"));
        }
    }
}
