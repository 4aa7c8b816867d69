//! `trace`: who asks for what, and how long that takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use cvmfs_cache::safe_path::{self, OutputMode};
use cvmfs_core::chain::chain;

use super::table::table;
use super::{mounts, pause, to_json};
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::for_terminal;
use crate::config::environment::absolute;
use crate::escape::one_line;
use crate::fuse::activity::{Event, Latency};
use crate::talk::address::Address;
use crate::talk::client::ask;
use crate::talk::mounts::PATIENCE;
use crate::talk::wire::{Reply, Request};
use crate::talk::{Watched, mounts as places};

/// Between two questions: more often than the server's memory is filled.
const STEP: Duration = Duration::from_millis(500);
/// How long the server goes on noting for us between two questions.
const LEASE: u64 = 10;
/// Lines of each part of the summary.
const TOP: usize = 10;

/// `trace [FQRN|DIR]`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// The repository, or where it is mounted; not needed if one is mounted here
    pub instance: Option<PathBuf>,

    /// How long to look
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub duration: u64,

    /// Print the summary only
    #[arg(short, long)]
    pub summary: bool,

    /// Print requests as JSON, one object a line, and no summary
    #[arg(long, conflicts_with = "summary")]
    pub json: bool,

    /// Write what was read first, in its order, as an access profile for 'profile import'
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
}

/// Whom to ask.
struct Target {
    address: Address,
    repository: Option<String>,
    /// Requests below this path are meant.
    below: String,
}

pub(in crate::cli) fn run(args: &TraceArgs) -> Result<ExitStatus, Failure> {
    let target = find(args.instance.as_deref())?;
    let before = latencies(&target)?;
    let mut seen = Seen::default();
    let mut from = watch(&target, None)?.next;
    let end = Instant::now() + Duration::from_secs(args.duration);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        pause(STEP.min(left));
        let Watched { events, next } = watch(&target, Some(from))?;
        seen.lost += events.first().map_or(next, |first| first.number).saturating_sub(from);
        from = next;
        let mut text = String::new();
        for event in events.iter().filter(|event| is_below(event, &target.below)) {
            seen.count(event);
            if args.json {
                text.push_str(&to_json(event)?);
                text.push('\n');
            } else if !args.summary {
                text.push_str(&line(event));
            }
        }
        print(&text)?;
        if left.is_zero() {
            break;
        }
    }
    if let Some(file) = &args.profile {
        let reply = question(&target, "trace profile")?;
        if !reply.ok {
            return Err(Failure::new(ExitStatus::Unknown, reply.text));
        }
        let text = reply.text.trim_end().to_owned() + "\n";
        safe_path::write_output(file, text.as_bytes(), OutputMode::ByUmask).map_err(|error| {
            Failure::caused(
                ExitStatus::Unknown,
                &format!("cannot write {}", file.display()),
                &error,
            )
        })?;
    }
    if args.json {
        return Ok(ExitStatus::Ok);
    }
    let mut after = latencies(&target)?;
    for latency in &mut after {
        if let Some(earlier) = before.iter().find(|b| b.operation == latency.operation) {
            *latency = latency.since(earlier);
        }
    }
    after.retain(|latency| latency.count > 0);
    print(&summary(&after, &seen))
}

fn find(instance: Option<&Path>) -> Result<Target, Failure> {
    let nothing =
        |name: &str| Failure::new(ExitStatus::Unknown, format!("{name} is not mounted here"));
    if let Some(path) = instance.filter(|path| path.components().count() > 1 || path.is_absolute())
    {
        let name = path.display().to_string();
        let trouble = |error: std::io::Error| Failure::caused(ExitStatus::Unknown, &name, &error);
        let absolute = absolute(path).map_err(trouble)?;
        let found = places::of_path(&absolute).map_err(trouble)?;
        let (mount, inside) = found.ok_or_else(|| nothing(&name))?;
        let below = match inside.as_os_str().is_empty() {
            true => String::new(),
            false => format!("/{}", inside.display()),
        };
        let repository = inside.iter().next().map(|first| first.to_string_lossy().into_owned());
        let address = mount.address();
        let open =
            ask(&address, &Request { command: "repositories".into(), repository: None }, PATIENCE);
        let open = open.map_err(|error| Failure::new(ExitStatus::Unknown, chain(&error)))?.text;
        let repository = repository.filter(|name| open.lines().any(|line| line == name));
        return Ok(Target { address, repository, below });
    }
    let mut all = Vec::new();
    for found in mounts()? {
        for status in found.status.into_iter().flatten() {
            all.push((found.mount.clone(), status));
        }
    }
    let name = instance.map(|name| name.display().to_string());
    all.retain(|(_, status)| name.as_ref().is_none_or(|name| status.repository == *name));
    let (mount, status) = match (all.pop(), all.is_empty(), name) {
        (Some(found), true, _) => found,
        (None, _, Some(name)) => return Err(nothing(&name)),
        (None, _, None) => return Err(nothing("nothing that answers")),
        (Some(_), false, _) => {
            let message = "several repositories are mounted here: name one, or its mountpoint";
            return Err(Failure::new(ExitStatus::Options, message));
        }
    };
    let below = match status.mountpoint == mount.mountpoint {
        true => String::new(),
        false => format!("/{}", status.repository),
    };
    let repository = Some(status.repository);
    Ok(Target { address: mount.address(), repository, below })
}

fn question(target: &Target, command: &str) -> Result<Reply, Failure> {
    let request = Request { command: command.to_owned(), repository: target.repository.clone() };
    ask(&target.address, &request, PATIENCE)
        .map_err(|error| Failure::new(ExitStatus::Unknown, chain(&error)))
}

fn understood<T: serde::de::DeserializeOwned>(reply: Reply) -> Result<T, Failure> {
    serde_json::from_value(reply.data).map_err(|error| {
        Failure::caused(ExitStatus::Unknown, "cannot understand the mount", &error)
    })
}

fn latencies(target: &Target) -> Result<Vec<Latency>, Failure> {
    understood(question(target, "latency")?)
}

fn watch(target: &Target, from: Option<u64>) -> Result<Watched, Failure> {
    let from = from.map_or(String::new(), |from| format!(" {from}"));
    understood(question(target, &format!("trace watch {LEASE}{from}"))?)
}

fn is_below(event: &Event, below: &str) -> bool {
    let Some(path) = &event.path else { return below.is_empty() };
    path.strip_prefix(below).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn line(event: &Event) -> String {
    let time =
        i64::try_from(event.at).ok().and_then(|at| jiff::Timestamp::from_microsecond(at).ok());
    let time = time.map_or_else(String::new, |time| time.strftime("%H:%M:%S%.6f").to_string());
    let path = match event.path.as_deref() {
        Some("") => "/".to_owned(),
        Some(path) => for_terminal(path.as_bytes()),
        None => "?".to_owned(),
    };
    let program = who(event);
    format!("{time} {:>8} us {:<11} {program:<24} {path}\n", event.took, one_line(&event.operation))
}

fn who(event: &Event) -> String {
    match (&event.program, event.thread) {
        (Some(program), thread) => format!("{}({thread})", for_terminal(program.as_bytes())),
        (None, 0) => "?".to_owned(),
        (None, thread) => format!("({thread})"),
    }
}

/// What was seen, added up.
#[derive(Default)]
struct Seen {
    lost: u64,
    programs: BTreeMap<String, (u64, u64)>,
    files: BTreeMap<String, (u64, u64)>,
}

impl Seen {
    fn count(&mut self, event: &Event) {
        let program = event.program.clone().unwrap_or_else(|| "?".to_owned());
        let add = |sums: &mut BTreeMap<String, (u64, u64)>, key: String| {
            let (count, time) = sums.entry(key).or_default();
            *count += 1;
            *time = time.saturating_add(event.took);
        };
        add(&mut self.programs, program);
        if let ("read", Some(path)) = (event.operation.as_str(), &event.path) {
            add(&mut self.files, path.clone());
        }
    }
}

fn summary(latencies: &[Latency], seen: &Seen) -> String {
    let rows: Vec<_> = latencies
        .iter()
        .map(|one| {
            let mut row =
                vec![one.operation.clone(), one.count.to_string(), one.failures.to_string()];
            row.push((one.total / one.count.max(1) / 1000).to_string());
            row.extend([0.5, 0.9, 0.99, 1.0].map(|share| format!("<{}", one.quantile(share))));
            row
        })
        .collect();
    let mut text = String::from("\n");
    let header = ["REQUEST", "COUNT", "FAILED", "MEAN us", "p50", "p90", "p99", "MAX"];
    text.push_str(&table(&header, &rows));
    for (title, sums) in [("PROGRAM", &seen.programs), ("FILE READ", &seen.files)] {
        let mut sums: Vec<_> = sums.iter().collect();
        sums.sort_by_key(|(_, (_, time))| std::cmp::Reverse(*time));
        let rows: Vec<_> = sums
            .into_iter()
            .take(TOP)
            .map(|(name, (count, time))| {
                vec![count.to_string(), time.to_string(), for_terminal(name.as_bytes())]
            })
            .collect();
        if !rows.is_empty() {
            text.push('\n');
            text.push_str(&table(&["REQUESTS", "TIME us", title], &rows));
        }
    }
    if seen.lost > 0 {
        let _ = writeln!(
            text,
            "\n{} requests came too fast to be named; they are counted above",
            seen.lost
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for() {
        let event =
            |path: Option<&str>| Event { path: path.map(str::to_owned), ..Event::default() };
        for (path, below, expected) in [
            (Some("/a.b.c/x"), "/a.b.c", true),
            (Some("/a.b.c"), "/a.b.c", true),
            (Some("/a.b.cd/x"), "/a.b.c", false),
            (Some("/x"), "", true),
            (Some(""), "", true),
            (None, "", true),
            (None, "/a", false),
        ] {
            assert_eq!(is_below(&event(path), below), expected, "{path:?} {below}");
        }
    }

    #[test]
    fn added_up() {
        let mut seen = Seen { lost: 3, ..Seen::default() };
        for (program, path, took) in [("cat", "/a", 5), ("cat", "/b", 70), ("ls", "/a", 1)] {
            seen.count(&Event {
                operation: "read".to_owned(),
                program: Some(program.to_owned()),
                path: Some(path.to_owned()),
                took,
                ..Event::default()
            });
        }
        let latency = Latency {
            operation: "read".to_owned(),
            count: 1,
            total: 7000,
            classes: vec![0, 0, 0, 1],
            ..Latency::default()
        };
        let text = summary(&[latency], &seen);
        for line in [
            "read     1      0       7        <8   <8   <8   <8",
            "2         75       cat",
            "1         70       /b",
        ] {
            assert!(text.contains(line), "{line:?} missing in {text}");
        }
        assert!(text.contains("3 requests came too fast"), "{text}");
    }
}
