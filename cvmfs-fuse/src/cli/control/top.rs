//! `top`: what mounts are doing, as it happens.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::BinaryBytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::mounts;
use super::table::{age, table};
use crate::cli::cache::{clear, print};
use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::for_terminal;
use crate::fuse::activity::Latency;
use crate::talk::client::ask_now;
use crate::talk::mounts::PATIENCE;
use crate::talk::report::RepositoryStatus;
use crate::talk::wire::Request;

/// Files that are named in one view.
const MAX_FILES: usize = 20;
/// To the upper left, and away with what was there.
const CLEAR: &str = "\x1b[H\x1b[J";

/// `top [--once]`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub delay: u64,

    /// Print one table and end; so it is where the output is no terminal
    #[arg(long)]
    pub once: bool,
}

/// Repositories by device and name, and the requests of the kernel by their kind.
#[derive(Default)]
struct Seen {
    repositories: BTreeMap<(Option<String>, String), RepositoryStatus>,
    requests: BTreeMap<String, Latency>,
}

pub(in crate::cli) fn run(args: &TopArgs) -> Result<ExitStatus, Failure> {
    let once = args.once || !std::io::stdout().is_terminal();
    let (mut before, mut begun) = (look()?, Instant::now());
    loop {
        if wait(Duration::from_secs(args.delay)) {
            return Ok(ExitStatus::Ok);
        }
        let (now, elapsed) = (look()?, begun.elapsed());
        let view = view(&before, &now, elapsed);
        if once {
            return print(&view);
        }
        clear(CLEAR)?;
        print(&view)?;
        (before, begun) = (now, Instant::now());
    }
}

fn look() -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    for found in mounts()? {
        let Ok(all) = found.status else { continue };
        for status in all {
            let key = (status.device.clone(), status.repository.clone());
            seen.repositories.insert(key, status);
        }
        let request = Request { command: "latency".to_owned(), repository: None };
        let Ok(reply) = ask_now(&found.mount.address(), &request, PATIENCE) else {
            continue;
        };
        let latencies: Vec<Latency> = serde_json::from_value(reply.data).unwrap_or_default();
        for latency in latencies {
            seen.requests.entry(latency.operation.clone()).or_default().add(&latency);
        }
    }
    Ok(seen)
}

/// Waits; tells whether somebody typed a line with q.
fn wait(pause: Duration) -> bool {
    let stdin = std::io::stdin();
    let until = Instant::now() + pause;
    let is_typed = stdin.is_terminal();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let limit = Timespec::try_from(left).ok();
        let mut typed = [PollFd::new(&stdin, PollFlags::IN)];
        let waited: &mut [PollFd<'_>] = if is_typed { &mut typed } else { &mut [] };
        if let Ok(1..) = poll(waited, limit.as_ref()) {
            let mut line = String::new();
            if stdin.read_line(&mut line).is_ok_and(|len| len == 0 || line.trim() == "q") {
                return true;
            }
        }
    }
}

fn view(before: &Seen, now: &Seen, elapsed: Duration) -> String {
    let mut rows = Vec::new();
    let mut files = Vec::new();
    for (key, status) in &now.repositories {
        let earlier = before.repositories.get(key).filter(|earlier| earlier.pid == status.pid);
        let rate = |of: fn(&RepositoryStatus) -> u64| {
            let grown = of(status).saturating_sub(earlier.map_or(0, of));
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = grown as f64 / elapsed.as_secs_f64().max(0.001);
            // What was before the first look is no rate.
            if earlier.is_some() { rate } else { 0.0 }
        };
        let (hits, downloads) = (rate(|s| s.hits), rate(|s| s.downloads));
        let all = hits + downloads;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as above")]
        let bytes = rate(|s| s.received) as u64;
        rows.push(vec![
            status.repository.clone(),
            status.revision.to_string(),
            format!("{all:.0}"),
            if all > 0.0 { format!("{:.0}%", 100.0 * hits / all) } else { "-".to_owned() },
            format!("{downloads:.0}"),
            format!("{}/s", BinaryBytes(bytes)),
            format!("{:.0}", rate(|s| s.failed_requests)),
            status.fetching.len().to_string(),
            status.inodes.to_string(),
            status.errors.to_string(),
            match (status.stale_since, status.offline) {
                (Some(_), _) => "stale",
                (None, true) => "offline",
                (None, false) => "ok",
            }
            .to_owned(),
        ]);
        for one in &status.fetching {
            files.push((
                one.since,
                vec![
                    age(one.since / 1000),
                    one.waiting.to_string(),
                    format!("{}:{}", status.repository, for_terminal(one.label.as_bytes())),
                ],
            ));
        }
    }
    let header = [
        "REPOSITORY",
        "REV",
        "OBJECTS/s",
        "HITS",
        "FETCHED/s",
        "RECEIVED",
        "FAILED/s",
        "UNDER WAY",
        "INODES",
        "ERRORS",
        "STATE",
    ];
    let mut text =
        format!("cvmfs-fuse top, {}\n\n", jiff::Timestamp::now().strftime("%H:%M:%S UTC"));
    text.push_str(&table(&header, &rows));
    let requests: Vec<_> = now
        .requests
        .iter()
        .map(|(operation, latency)| {
            let earlier = before.requests.get(operation);
            (operation, earlier.map_or_else(|| latency.clone(), |earlier| latency.since(earlier)))
        })
        .filter(|(_, latency)| latency.count > 0)
        .map(|(operation, latency)| {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = latency.count as f64 / elapsed.as_secs_f64().max(0.001);
            let [p50, p99] = [0.5, 0.99].map(|share| format!("<{}", latency.quantile(share)));
            vec![operation.clone(), format!("{rate:.0}"), p50, p99, latency.failures.to_string()]
        })
        .collect();
    if !requests.is_empty() {
        text.push('\n');
        text.push_str(&table(&["REQUEST", "PER SECOND", "p50 us", "p99 us", "FAILED"], &requests));
    }
    files.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
    let named: Vec<_> = files.into_iter().take(MAX_FILES).map(|(_, row)| row).collect();
    if !named.is_empty() {
        text.push('\n');
        text.push_str(&table(&["FOR", "WAITING", "BEING FETCHED"], &named));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::report::Fetching;

    #[test]
    fn rates_are_differences() {
        let status = |hits, downloads, received| RepositoryStatus {
            repository: "a.b.c".to_owned(),
            pid: 7,
            hits,
            downloads,
            received,
            fetching: vec![Fetching { label: "/x\n".to_owned(), since: 3000, waiting: 2 }],
            ..RepositoryStatus::default()
        };
        let seen = |status: RepositoryStatus| Seen {
            repositories: [((None, "a.b.c".to_owned()), status)].into(),
            requests: BTreeMap::new(),
        };
        let (before, now) = (seen(status(10, 5, 0)), seen(status(16, 7, 4096)));
        let text = view(&before, &now, Duration::from_secs(2));
        let row: Vec<_> = text.lines().nth(3).unwrap().split_whitespace().collect();
        assert_eq!(row[..8], ["a.b.c", "0", "4", "75%", "1", "2.00", "KiB/s", "0"], "{text}");
        assert!(text.ends_with("3 s  2        a.b.c:/x\\x0a\n"), "{text}");
        // A server that has just begun.
        let text = view(&Seen::default(), &now, Duration::from_secs(2));
        let row: Vec<_> = text.lines().nth(3).unwrap().split_whitespace().collect();
        assert_eq!(row[..4], ["a.b.c", "0", "0", "-"], "{text}");
    }
}
