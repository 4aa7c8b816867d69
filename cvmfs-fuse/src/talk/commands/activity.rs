//! Requests of the kernel: counts, times, and each single one.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::catalog::Content;
use cvmfs_core::path::RepoPath;
use serde::{Deserialize, Serialize};

use super::Subject;
use crate::fuse::activity::{Event, Latency};
use crate::prefetch::profile::{Item, Lesson, Profile};
use crate::talk::desk::Desk;
use crate::talk::wire::Reply;

/// Longest time between two questions of one who looks.
const MAX_WATCH: u64 = 600;
/// Fewer objects are no program.
const MIN_USES: usize = 4;

/// What happened since the last question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Requests, in the order of their answers.
    pub events: Vec<Event>,
    /// The number to go on with.
    pub next: u64,
}

/// Answers what concerns the mount as a whole.
pub(super) fn about_the_mount(desk: &Arc<Desk>, command: &str) -> Option<Reply> {
    if command == "latency" {
        let all = desk.activity.latencies();
        return Some(Reply::text(latency_table(&all)).with(all));
    }
    let arguments = command.strip_prefix("trace watch ")?;
    let mut numbers = arguments.split(' ').map(|word| word.parse::<u64>().ok());
    let (Some(Some(seconds)), from) = (numbers.next(), numbers.next()) else {
        return Some(Reply::failed("Usage: trace watch SECONDS [FROM]"));
    };
    if seconds > MAX_WATCH || from == Some(None) || numbers.next().is_some() {
        return Some(Reply::failed("Usage: trace watch SECONDS [FROM]"));
    }
    let limit = Duration::from_secs(seconds);
    let (events, next) = desk.activity.watch(from.flatten(), limit);
    let activity = Arc::clone(&desk.activity);
    drop(tokio::spawn(async move {
        tokio::time::sleep(limit + Duration::from_secs(1)).await;
        activity.tidy();
    }));
    Some(Reply::text(csv(&events)).with(Watched { events, next }))
}

/// Answers what concerns one repository.
pub(super) async fn answer(subject: &Subject, command: &str) -> Option<Reply> {
    (command == "trace profile").then_some(())?;
    // Looking once more keeps what is there.
    let (events, _) = subject.desk.activity.watch(Some(0), Duration::from_secs(MAX_WATCH));
    let profile = profile_of(subject, &events).await;
    let objects = profile.objects();
    Some(Reply::text(profile.to_text(&subject.fqrn)).with(objects))
}

/// Learns from the first read of each file by each thread. Chunked files are left out: which chunk
/// it was, a request does not say.
async fn profile_of(subject: &Subject, events: &[Event]) -> Profile {
    let prefix = match subject.desk.has_several {
        true => format!("/{}/", subject.fqrn),
        false => "/".to_owned(),
    };
    let mut paths: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for event in events.iter().filter(|event| event.operation == "read") {
        let inside = event.path.as_deref().and_then(|path| path.strip_prefix(&prefix));
        let Some(inside) = inside else { continue };
        if seen.insert((event.thread, inside)) {
            paths.entry(event.thread).or_default().push(inside);
        }
    }
    let revision = subject.fs.repository().current();
    let mut profile = Profile::default();
    for paths in paths.into_values() {
        let mut uses: Vec<Item> = Vec::new();
        for path in paths {
            let Some(path) = RepoPath::parse(format!("/{path}").as_bytes()) else { continue };
            let Ok(Some(entry)) = revision.lookup(&path).await else { continue };
            if let Content::Whole(id) = &entry.content {
                uses.push(Item { id: *id, size: entry.size });
            }
        }
        if uses.len() >= MIN_USES {
            let at = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
            profile.learn(&Lesson { at, uses, ..Lesson::default() });
        }
    }
    profile
}

/// As upstream's file of a trace: time, code, path, text.
fn csv(events: &[Event]) -> String {
    let mut text = String::new();
    for event in events {
        let code = match event.operation.as_str() {
            // There are no opens; a read is the nearest that is seen.
            "open" | "read" => 1,
            "opendir" | "readdir" | "readdirplus" => 2,
            "readlink" => 3,
            "lookup" => 4,
            "statfs" => 5,
            "getattr" => 6,
            "listxattr" => 7,
            "getxattr" => 8,
            _ => continue,
        };
        let path = match event.path.as_deref() {
            Some("") => "/",
            Some(path) => path,
            None => "@UNKNOWN",
        };
        let (milliseconds, rest) = (event.at / 1000, event.at % 1000);
        let _ = write!(
            text,
            "\"{milliseconds}.{rest:03}\",\"{code}\",\"{}\",\"{}\"\r\n",
            path.replace('"', "\"\""),
            event.operation
        );
    }
    text.truncate(text.trim_end().len());
    text
}

pub(super) fn latency_table(all: &[Latency]) -> String {
    let mut text = "Name|Count|Failed|Mean us|p50 us|p90 us|p99 us".to_owned();
    for one in all {
        let mean = one.total / one.count.max(1) / 1000;
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| one.quantile(share));
        let Latency { operation, count, failures, .. } = one;
        let _ = write!(text, "\n{operation}|{count}|{failures}|{mean}|<{p50}|<{p90}|<{p99}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_as_upstream_writes_them() {
        let event = |operation: &str, path: Option<&str>| Event {
            at: 1_700_000_000_123_456,
            operation: operation.to_owned(),
            path: path.map(str::to_owned),
            ..Event::default()
        };
        let events = [
            event("read", Some("/a\"b")),
            event("forget", None),
            event("getattr", Some("")),
            event("lookup", None),
        ];
        assert_eq!(
            csv(&events),
            "\"1700000000123.456\",\"1\",\"/a\"\"b\",\"read\"\r\n\
             \"1700000000123.456\",\"6\",\"/\",\"getattr\"\r\n\
             \"1700000000123.456\",\"4\",\"@UNKNOWN\",\"lookup\""
        );
    }
}
