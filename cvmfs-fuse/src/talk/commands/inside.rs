//! Catalogs, inodes, counters.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Subject, number};
use crate::talk::figures::METRICS;
use crate::talk::report::RepositoryStatus;
use crate::talk::wire::Reply;

/// Inodes in one list.
const MAX_LISTED: usize = 100_000;

#[derive(Serialize)]
struct OpenCatalog {
    mountpoint: String,
    hash: String,
}

/// Answers commands about the inside of the server.
pub(super) fn answer(subject: &Subject, command: &str) -> Option<Reply> {
    let current = subject.fs.repository().current();
    Some(match command {
        "open catalogs" => open_catalogs(subject),
        "detach nested catalogs" => {
            current.close_nested();
            Reply::ok()
        }
        "vfs inodes" => number(subject.fs.known_inodes()),
        "vfs entries" => {
            let mut names: Vec<_> = subject
                .fs
                .known_paths(MAX_LISTED)
                .iter()
                .map(|path| crate::cli::for_terminal(path.as_bytes()))
                .collect();
            names.sort();
            Reply::text(names.join("\n")).with(names)
        }
        "parameters" => parameters(subject),
        "internal affairs" => internal_affairs(subject),
        _ => return None,
    })
}

fn open_catalogs(subject: &Subject) -> Reply {
    let mut text = String::new();
    let mut data = Vec::new();
    let all = subject.fs.repository().current().open_catalogs();
    let mut above: Vec<cvmfs_core::path::RepoPath> = Vec::new();
    for (path, hash) in all {
        while above.last().is_some_and(|last| !path.starts_with(last)) {
            above.pop();
        }
        let shown = crate::cli::for_terminal(path.as_bytes());
        let shown = if shown.is_empty() { "/".to_owned() } else { shown };
        let _ = writeln!(text, "{:indent$}{shown} ({hash})", "", indent = 2 * above.len());
        data.push(OpenCatalog { mountpoint: shown, hash: hash.to_string() });
        above.push(path);
    }
    text.pop();
    Reply::text(text).with(data)
}

/// What decides how the repository is fetched, as a configuration file would say it.
fn parameters(subject: &Subject) -> Reply {
    let settings = &subject.served.settings;
    let downloader = subject.fs.repository().fetcher().downloader();
    let timeouts = downloader.timeouts();
    let proxies = downloader.selection(|selection| selection.configured_proxies());
    let proxies: Vec<_> = proxies
        .iter()
        .map(|group| group.iter().map(|proxy| proxy.display()).collect::<Vec<_>>().join("|"))
        .collect();
    let pairs = [
        ("CVMFS_FQRN", subject.fqrn.clone()),
        ("CVMFS_SERVER_URL", downloader.hosts().join(";")),
        ("CVMFS_HTTP_PROXY", proxies.join(";")),
        ("CVMFS_CACHE_DIR", settings.cache.directory.display().to_string()),
        ("CVMFS_TIMEOUT", timeouts.proxy.as_secs().to_string()),
        ("CVMFS_TIMEOUT_DIRECT", timeouts.direct.as_secs().to_string()),
        ("CVMFS_LOW_SPEED_LIMIT", timeouts.low_speed_limit.to_string()),
        ("CVMFS_MAX_RETRIES", settings.parameters.selection.max_retries.to_string()),
    ];
    let mut text = "# CernVM-FS parameters:".to_owned();
    for (name, value) in &pairs {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:._,-".contains(&byte);
        let value = match value.bytes().all(plain) {
            true => value.clone(),
            false => format!("'{}'", value.replace('\'', "'\\''")),
        };
        let _ = write!(text, "\n{name}={value}    # in use by the mount");
    }
    let data: std::collections::BTreeMap<_, _> = pairs.into_iter().collect();
    Reply::text(text).with(data)
}

fn internal_affairs(subject: &Subject) -> Reply {
    let status = RepositoryStatus::of(&subject.desk, &subject.served, &subject.fs);
    let mut text = format!(
        "Revision: {} (root catalog {})\nInodes known to the kernel: {}\nOpen catalogs: {}\n\
         Shown since: {}\n\nRaw Counters:\nName|Value|Description\n",
        status.revision,
        status.root_hash,
        status.inodes,
        status.catalogs,
        jiff::Timestamp::try_from(subject.desk.since).unwrap_or_default(),
    );
    for metric in METRICS {
        if let Some(value) = (metric.value)(&status) {
            let _ = writeln!(text, "{}|{value}|{}", metric.dotted, metric.help);
        }
    }
    text.push_str("\nRequests of the kernel:\n");
    text.push_str(&super::activity::latency_table(&subject.desk.activity.latencies()));
    Reply::text(text).with(status)
}
