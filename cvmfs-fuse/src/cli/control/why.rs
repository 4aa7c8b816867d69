//! `why PATH`: what stands behind an EIO.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use cvmfs_core::chain::chain;

use super::table::age;
use super::to_json;
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::for_terminal;
use crate::config::environment::absolute;
use crate::escape::one_line;
use crate::fs::RecentFailure;
use crate::talk::client::{AskError, ask};
use crate::talk::mounts::{self, PATIENCE};
use crate::talk::wire::Request;

/// `why PATH`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// What could not be read; a directory or mountpoint means all below it
    pub path: OsString,

    /// Print JSON, one object for each failure and line
    #[arg(long)]
    pub json: bool,
}

pub(in crate::cli) fn run(args: &WhyArgs) -> Result<ExitStatus, Failure> {
    let name = for_terminal(args.path.as_bytes());
    let trouble = |error: std::io::Error| Failure::caused(ExitStatus::Unknown, &name, &error);
    let path = absolute(Path::new(&args.path)).map_err(trouble)?;
    // The path itself is not touched: it may hang.
    let Some((mount, inside)) = mounts::of_path(&path).map_err(trouble)? else {
        let message = format!("{name}: not in a mounted repository");
        return Err(Failure::new(ExitStatus::Unknown, message));
    };
    let address = mount.address();
    let ask = |command: &str| {
        let request = Request { command: command.to_owned(), repository: None };
        ask(&address, &request, PATIENCE).map_err(|error| refused(&name, &error))
    };
    let known: Vec<RecentFailure> = serde_json::from_value(ask("failures")?.data)
        .map_err(|error| Failure::caused(ExitStatus::Unknown, &name, &error))?;
    let found: Vec<_> = known.iter().filter(|failure| concerns(failure, &inside)).collect();
    if found.is_empty() {
        let others = match known.len() {
            0 => "no call has failed".to_owned(),
            1 => "1 failure of another path is remembered".to_owned(),
            number => format!("{number} failures of other paths are remembered"),
        };
        let since = ask("hotpatch history").map_or(String::new(), |reply| reply.text);
        let message = format!("{name}: nothing known; {others} by the server of {since}");
        return Err(Failure::new(ExitStatus::Unknown, message));
    }
    let mut text = String::new();
    for failure in found {
        text.push_str(&match args.json {
            true => to_json(failure)? + "\n",
            false => told(failure),
        });
    }
    print(&text)
}

fn refused(name: &str, error: &AskError) -> Failure {
    let status = match error {
        AskError::Stranger { .. } | AskError::Refused { .. } | AskError::Unseen { .. } => {
            ExitStatus::Permission
        }
        _ => ExitStatus::Unknown,
    };
    Failure::new(status, format!("{name}: {}", chain(error)))
}

/// Tells whether a failure is about a path, about something below it, or about a directory above
/// it, whose catalog it needs.
fn concerns(failure: &RecentFailure, inside: &Path) -> bool {
    let mut wanted = inside.to_owned();
    if let Some(repository) = &failure.repository {
        if inside.as_os_str().is_empty() {
            return true;
        }
        let Ok(rest) = inside.strip_prefix(repository) else { return false };
        wanted = rest.to_owned();
    }
    let Some(path) = &failure.path else { return wanted.as_os_str().is_empty() };
    let path = PathBuf::from(path.trim_start_matches('/'));
    let is_lookup_above = failure.operation != "read" && wanted.starts_with(&path);
    path.starts_with(&wanted) || is_lookup_above
}

fn told(failure: &RecentFailure) -> String {
    let time = |seconds: i64| {
        jiff::Timestamp::from_second(seconds)
            .map_or_else(|_| seconds.to_string(), |t| t.to_string())
    };
    let path = failure.path.as_deref().unwrap_or("(no path)");
    let repository = failure.repository.as_ref().map_or(String::new(), |name| format!("{name}:"));
    let errno = nix::errno::Errno::from_raw(failure.errno);
    let mut text = format!(
        "{}{}: {} failed with {errno:?}, {}\n",
        one_line(&repository),
        for_terminal(path.as_bytes()),
        one_line(&failure.operation),
        match failure.count {
            1 => format!("at {}", time(failure.last)),
            count => {
                let span = u64::try_from(failure.last - failure.first).unwrap_or(0);
                format!("{count} times in {}, last at {}", age(span), time(failure.last))
            }
        }
    );
    if let Some(object) = &failure.object {
        text.push_str(&format!("  object {}\n", one_line(object)));
    }
    if failure.pid != 0 {
        text.push_str(&format!("  asked for by process {}\n", failure.pid));
    }
    for attempt in &failure.attempts {
        let through = attempt
            .proxy
            .as_ref()
            .map_or(String::new(), |proxy| format!(" through {}", one_line(proxy)));
        text.push_str(&format!(
            "  {}{through}: {}\n",
            one_line(&attempt.url),
            one_line(&attempt.error)
        ));
    }
    if failure.attempts.is_empty() {
        text.push_str(&format!("  {}\n", for_terminal(failure.reason.as_bytes())));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::recent::FailedAttempt;

    fn failure(repository: Option<&str>, path: &str, operation: &str) -> RecentFailure {
        RecentFailure {
            repository: repository.map(str::to_owned),
            path: Some(path.to_owned()),
            object: Some("abc".to_owned()),
            operation: operation.to_owned(),
            errno: libc::EIO,
            reason: "no way".to_owned(),
            attempts: vec![FailedAttempt {
                url: "http://s/data".to_owned(),
                proxy: Some("http://p:1".to_owned()),
                error: "refused".to_owned(),
            }],
            first: 0,
            last: 60,
            count: 3,
            pid: 7,
        }
    }

    #[test]
    fn which_failures_concern_a_path() {
        for (repository, path, operation, inside, expected) in [
            (None, "/a/b", "read", "a/b", true),
            (None, "/a/b", "read", "a", true),
            (None, "/a/b", "read", "", true),
            (None, "/a/b", "read", "a/b/c", false),
            (None, "/a/b", "lookup", "a/b/c", true),
            (None, "/a/b", "read", "a/bc", false),
            (Some("x.y.z"), "/a", "read", "x.y.z/a", true),
            (Some("x.y.z"), "/a", "read", "", true),
            (Some("x.y.z"), "/a", "read", "a", false),
        ] {
            let failure = failure(repository, path, operation);
            assert_eq!(concerns(&failure, Path::new(inside)), expected, "{path} {inside}");
        }
    }

    #[test]
    fn told_in_full() {
        assert_eq!(
            told(&failure(None, "/a\n", "read")),
            "/a\\x0a: read failed with EIO, 3 times in 60 s, last at 1970-01-01T00:01:00Z\n  \
             object abc\n  asked for by process 7\n  http://s/data through http://p:1: refused\n"
        );
    }
}
