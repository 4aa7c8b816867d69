//! `status`: all mounts at a glance.

use std::time::SystemTime;

use clap::Args;
use cvmfs_core::chain::chain;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::table::{age, table};
use super::{mounts, to_json};
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::escape::one_line;
use crate::fuse::mountinfo::show;
use crate::talk::mounts::Found;
use crate::talk::report::RepositoryStatus;

/// `status [FQRN...]`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only these repositories
    pub repositories: Vec<String>,

    /// Print JSON, one object for each repository and line
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Unreachable<'a> {
    mountpoint: &'a std::path::Path,
    device: &'a str,
    problem: String,
}

pub(in crate::cli) fn run(args: &StatusArgs) -> Result<ExitStatus, Failure> {
    let is_wanted = |status: &&RepositoryStatus| {
        args.repositories.is_empty() || args.repositories.contains(&status.repository)
    };
    let found = mounts()?;
    let silent: Vec<_> = found
        .iter()
        .filter(|_| args.repositories.is_empty())
        .filter(|f| f.status.is_err())
        .collect();
    let all: Vec<_> = found.iter().flat_map(|found| found.status.iter().flatten()).collect();
    let shown: Vec<_> = all.iter().copied().filter(is_wanted).collect();
    let others: Vec<_> = found
        .iter()
        .filter(|found| !found.mount.is_ours_or_roots())
        .filter(|found| found.status.iter().flatten().any(|status| is_wanted(&status)))
        .collect();
    let text = match args.json {
        true => json(&shown, &silent)?,
        false => text(&found, &shown, &silent) + &speakers(&others),
    };
    print(&text)?;
    let missing = args.repositories.iter().find(|name| all.iter().all(|s| s.repository != **name));
    if let Some(missing) = missing {
        // It may be in a mount that does not tell.
        let untold = found.iter().find(|found| found.status.is_err());
        let message = match untold {
            Some(one) => {
                let place = show(&one.mount.mountpoint);
                format!("{missing} is in no mount that answers; {place}: {}", problem(one))
            }
            None => format!("{missing} is not mounted here"),
        };
        return Err(Failure::new(ExitStatus::Unknown, message));
    }
    Ok(if silent.is_empty() { ExitStatus::Ok } else { ExitStatus::Unknown })
}

/// Says which lines are what servers of other users say of themselves.
fn speakers(others: &[&Found]) -> String {
    let line = |found: &&Found| {
        let user = found.mount.user.unwrap_or_default();
        format!("{}: as its server says, which is user {user}'s\n", show(&found.mount.mountpoint))
    };
    others.iter().map(line).collect()
}

fn problem(found: &Found) -> String {
    found
        .status
        .as_ref()
        .err()
        .map(|error| one_line(&chain(error)).into_owned())
        .unwrap_or_default()
}

fn json(shown: &[&RepositoryStatus], silent: &[&Found]) -> Result<String, Failure> {
    let mut text = String::new();
    for status in shown {
        text.push_str(&to_json(status)?);
        text.push('\n');
    }
    for found in silent {
        let (mountpoint, device) = (&*found.mount.mountpoint, &*found.mount.device);
        text.push_str(&to_json(&Unreachable { mountpoint, device, problem: problem(found) })?);
        text.push('\n');
    }
    Ok(text)
}

fn text(found: &[Found], shown: &[&RepositoryStatus], silent: &[&Found]) -> String {
    if found.is_empty() {
        return "nothing is mounted here\n".to_owned();
    }
    let header = [
        "REPOSITORY",
        "MOUNTPOINT",
        "REV",
        "AGE",
        "SERVER",
        "PROXY",
        "HITS",
        "RECEIVED",
        "CACHE",
        "ERRORS",
        "STATE",
    ];
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let rows: Vec<_> = shown.iter().map(|status| row(status, now)).collect();
    let mut text = String::new();
    if !rows.is_empty() {
        text.push_str(&table(&header, &rows));
    }
    for found in found.iter().filter(|found| matches!(&found.status, Ok(all) if all.is_empty())) {
        text.push_str(&format!("{}: no repository is open\n", show(&found.mount.mountpoint)));
    }
    for found in silent {
        text.push_str(&format!("{}: {}\n", show(&found.mount.mountpoint), problem(found)));
    }
    text
}

/// Seconds after a failed call in which a repository does not count as all well.
const RECENT: u64 = 600;

fn row(status: &RepositoryStatus, now: u64) -> Vec<String> {
    let time = |seconds: i64| {
        jiff::Timestamp::from_second(seconds)
            .map_or_else(|_| seconds.to_string(), |t| t.to_string())
    };
    let state = match (status.stale_since, status.offline) {
        (Some(since), _) => {
            let reason = status.stale_reason.as_deref().unwrap_or("unknown reason");
            format!("stale since {}: {reason}", time(since))
        }
        (None, true) => "no server answers".to_owned(),
        (None, false) => match status.last_error.and_then(|last| u64::try_from(last).ok()) {
            Some(last) if now.saturating_sub(last) < RECENT => {
                format!("calls failed {} ago: see 'cvmfs-fuse why'", age(now.saturating_sub(last)))
            }
            _ => "ok".to_owned(),
        },
    };
    vec![
        status.repository.clone(),
        show(&status.mountpoint),
        status.revision.to_string(),
        status.published.map_or("-".to_owned(), |then| age(now.saturating_sub(then))),
        status.server.clone(),
        status.proxy.clone().unwrap_or_else(|| "-".to_owned()),
        status.hit_rate.map_or("-".to_owned(), |rate| format!("{rate:.1}%")),
        BinaryBytes(status.received).to_string(),
        format!("{}/{}", BinaryBytes(status.cache_used), BinaryBytes(status.cache_limit)),
        status.errors.to_string(),
        state,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glance() {
        let status = RepositoryStatus {
            repository: "a.b.c".to_owned(),
            mountpoint: "/cvmfs/a.b.c".into(),
            revision: 7,
            published: Some(1000),
            server: "http://s".to_owned(),
            hit_rate: Some(99.96),
            stale_since: Some(0),
            stale_reason: Some("no network".to_owned()),
            cache_used: 1 << 20,
            cache_limit: 1 << 30,
            errors: 2,
            ..RepositoryStatus::default()
        };
        let line = row(&status, 1060).join("|");
        assert_eq!(
            line,
            "a.b.c|/cvmfs/a.b.c|7|60 s|http://s|-|100.0%|0 B|1.00 MiB/1.00 GiB|2|\
             stale since 1970-01-01T00:00:00Z: no network"
        );
        let state = |last_error, now| {
            let status = RepositoryStatus { last_error, ..RepositoryStatus::default() };
            row(&status, now).pop().unwrap()
        };
        assert_eq!((state(None, 1060), state(Some(60), 1060)), ("ok".to_owned(), "ok".to_owned()));
        assert_eq!(state(Some(1000), 1060), "calls failed 60 s ago: see 'cvmfs-fuse why'");
        assert_eq!(text(&[], &[], &[]), "nothing is mounted here\n");
    }
}
