//! Proxies, servers, the letters they give, and what their clocks say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cvmfs_core::chain::chain;
use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::repository::{Inspection, ServerError};

use super::Finding;
use crate::cli::exit::Failure;
use crate::config::inspect::present_blocklist;
use crate::config::open::advice_about;
use crate::config::{Environment, RepositorySettings};

/// Differences of clocks that nobody needs to know of: the Date header has whole seconds, and
/// proxies keep it for a while.
const UNIMPORTANT_SKEW: u64 = 60;
/// Expiry of whitelists is judged by the hour.
const HARMFUL_SKEW: u64 = 3600;
/// Whitelists are renewed every few days; one that is this near its end was forgotten.
const SOON: i64 = 2 * 24 * 3600;

/// Tries the blocklist of this machine.
pub(super) fn blocklist(environment: &Environment) -> Finding {
    let file = environment.blocklist_file();
    match present_blocklist(environment) {
        Ok(_) if !file.exists() => Finding::ok("blocklist", "none"),
        Ok(_) => {
            let text = super::kernel_text(&file).unwrap_or_default();
            match ignored(&text) {
                None => Finding::ok("blocklist", format!("{} can be used", file.display())),
                Some(line) => {
                    let message = format!(
                        "{} line {line} is neither a fingerprint nor <FQRN REVISION, and is \
                                 ignored",
                        file.display()
                    );
                    Finding::warning("blocklist", message)
                        .fix(format!("correct line {line} of {}", file.display()))
                }
            }
        }
        Err(failure) => Finding::problem("blocklist", failure.message)
            .fix(format!("repair or remove {}", file.display())),
    }
}

/// Number of the first line that blocks nothing, though it looks as if it should.
fn ignored(text: &str) -> Option<usize> {
    let is_ignored = |line: &str| {
        let line = line.trim();
        let says_nothing = line.is_empty() || line.starts_with('#');
        !says_nothing && Blocklist::parse(line.as_bytes()) == Blocklist::default()
    };
    text.lines().position(is_ignored).map(|index| index + 1)
}

/// Asks all proxies and servers of a repository.
pub(super) fn check(settings: &RepositorySettings) -> Result<Vec<Finding>, Failure> {
    let keys: Vec<_> = settings.keys.names().collect();
    let mut findings = vec![Finding::ok("keys", format!("can be used: {}", keys.join(", ")))];
    let (proxies, servers) = crate::cli::runtime()?.block_on(async {
        match settings.ways().await {
            Ok(ways) => {
                let (proxies, servers) = tokio::join!(ways.proxies(), ways.servers());
                (Ok(proxies), servers)
            }
            Err(failure) => (Err(failure), Vec::new()),
        }
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let works =
        servers.iter().any(|(_, answer)| answer.as_ref().is_some_and(|a| a.outcome.is_ok()));
    match proxies {
        Ok(proxies) => findings.extend(proxies.iter().map(|(name, out)| proxy(name, out, works))),
        Err(failure) => findings.push(Finding::problem("proxy", failure.message)),
    }
    let newest = servers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref()?.outcome.as_ref().ok())
        .map(|letters| letters.revision)
        .max();
    for (url, answer) in &servers {
        findings.push(server(url, answer.as_ref(), newest, now));
    }
    let answers = || servers.iter().filter_map(|(_, answer)| answer.as_ref());
    // The least difference: one server with a wrong clock is not our fault.
    let told = servers.iter().filter(|(url, _)| url.starts_with("http"));
    let told = told.filter_map(|(_, answer)| answer.as_ref().filter(|answer| has_spoken(answer)));
    let skew = told.map(|answer| answer.clock_skew).min_by_key(|skew| skew.unsigned_abs());
    findings.extend(skew.map(clock));
    let expires = answers().filter_map(|answer| answer.outcome.as_ref().ok());
    findings.extend(
        expires.map(|letters| letters.whitelist_expires).max().map(|end| whitelist(end, now)),
    );
    Ok(findings)
}

/// Tells whether a server sent anything, and so its time.
fn has_spoken(answer: &Inspection) -> bool {
    !matches!(&answer.outcome, Err(ServerError::Manifest(_) | ServerError::Whitelist(_)))
}

fn proxy(name: &str, outcome: &Result<Duration, String>, servers_answer: bool) -> Finding {
    match outcome {
        Ok(took) => {
            Finding::ok("proxy", format!("{name} accepts connections, {} ms", took.as_millis()))
        }
        Err(error) => {
            let message = format!("{name} cannot be reached: {error}");
            let found = match servers_answer {
                true => Finding::warning("proxy", message + "; others are used"),
                false => Finding::problem("proxy", message),
            };
            found.fix(format!("correct --proxy, or add a way around it: --proxy '{name};DIRECT'"))
        }
    }
}

fn server(url: &str, answer: Option<&Inspection>, newest: Option<u64>, now: i64) -> Finding {
    let try_it = format!("curl -v {url}/.cvmfspublished -o /dev/null");
    let Some(answer) = answer else {
        return Finding::problem("server", format!("{url} took too long")).fix(try_it);
    };
    let took = answer.took.as_millis();
    match &answer.outcome {
        Ok(letters) => {
            let age = match i64::try_from(letters.published) {
                Ok(published) if published > 0 => {
                    format!(", published {} ago", span(now - published))
                }
                _ => String::new(),
            };
            let revision = letters.revision;
            let message =
                format!("{url}: revision {revision}{age}, signatures are right, {took} ms");
            if newest.is_some_and(|newest| newest > revision) {
                return Finding::warning("server", message + "; it is behind the others")
                    .fix("name it last in --server, and tell its administrators");
            }
            Finding::ok("server", message)
        }
        Err(error) => {
            let message = format!("{url}: {} ({took} ms)", chain(error));
            let fix = format!("{}; look for yourself: {try_it}", advice_about([error]));
            // With another one that works, this one costs time only.
            match newest {
                Some(_) => Finding::warning("server", message).fix(fix),
                None => Finding::problem("server", message).fix(fix),
            }
        }
    }
}

fn clock(skew: i64) -> Finding {
    let off = skew.unsigned_abs();
    let fix = "as root: chronyc makestep, or: timedatectl set-ntp true (containers have the clock \
               of their host)";
    let direction = if skew > 0 { "behind" } else { "ahead of" };
    let message =
        || format!("this machine is {} {direction} the servers", span(skew.saturating_abs()));
    match off {
        0..UNIMPORTANT_SKEW => Finding::ok("clock", "agrees with the servers"),
        UNIMPORTANT_SKEW..HARMFUL_SKEW => Finding::warning("clock", message()).fix(fix),
        _ => {
            let why = "whitelists and certificates are judged by this clock";
            Finding::problem("clock", format!("{}: {why}", message())).fix(fix)
        }
    }
}

fn whitelist(expires: i64, now: i64) -> Finding {
    let left = expires.saturating_sub(now);
    let message = format!("expires in {}", span(left));
    match left {
        ..SOON => Finding::warning("whitelist", message)
            .fix("tell the owner of the repository; nobody else can renew it"),
        _ => Finding::ok("whitelist", message),
    }
}

/// Seconds for people, in the largest unit of which there are two.
fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use cvmfs_core::repository::VerifiedLetters;
    use cvmfs_core::trust::TrustError;

    use super::*;
    use crate::doctor::Severity;

    fn answer(outcome: Result<u64, TrustError>) -> Inspection {
        let letters =
            |revision| VerifiedLetters { revision, published: 1000, whitelist_expires: 0 };
        Inspection {
            outcome: outcome.map(letters).map_err(ServerError::Trust),
            took: Duration::from_millis(30),
            clock_skew: 0,
        }
    }

    #[test]
    fn what_servers_say() {
        let good = answer(Ok(7));
        let bad = answer(Err(TrustError::WhitelistSignature { keys: "a.pub".to_owned() }));
        for (answer, newest, severity, part) in [
            (Some(&good), Some(7), Severity::Ok, "revision 7, published 2 h ago"),
            (Some(&good), Some(8), Severity::Warning, "behind the others"),
            (Some(&bad), Some(8), Severity::Warning, "invalid whitelist signature"),
            (Some(&bad), None, Severity::Problem, "check that --public-key"),
            (None, None, Severity::Problem, "curl -v http://s/.cvmfspublished"),
        ] {
            let found = server("http://s", answer, newest, 1000 + 7200);
            assert_eq!(found.severity, severity, "{found:?}");
            let all = format!("{} {}", found.message, found.fix.unwrap_or_default());
            assert!(all.contains(part), "{all}");
        }
    }

    #[test]
    fn clocks_and_expiry() {
        for (skew, severity, part) in [
            (0, Severity::Ok, "agrees"),
            (-59, Severity::Ok, "agrees"),
            (90, Severity::Warning, "90 s behind"),
            (-3 * 86_400, Severity::Problem, "3 days ahead of"),
            (i64::MIN, Severity::Problem, "ahead of"),
        ] {
            let found = clock(skew);
            assert_eq!(found.severity, severity, "{found:?}");
            assert!(found.message.contains(part), "{found:?}");
        }
        assert_eq!(whitelist(10 * 86_400, 0).severity, Severity::Ok);
        assert_eq!(whitelist(3600, 0).severity, Severity::Warning);
        assert_eq!(whitelist(i64::MIN, i64::MAX).severity, Severity::Warning);
    }

    #[test]
    fn lines_of_a_blocklist_that_block_nothing() {
        assert_eq!(ignored(""), None);
        assert_eq!(ignored("# why\n\n<x.example.org 7\n"), None);
        assert_eq!(ignored("<x.example.org 7\nx.example.org 7\n"), Some(2));
    }

    #[test]
    fn proxies() {
        let refused = Err("connection refused".to_owned());
        assert_eq!(proxy("http://p:1", &refused, false).severity, Severity::Problem);
        assert_eq!(proxy("http://p:1", &refused, true).severity, Severity::Warning);
        assert_eq!(proxy("http://p:1", &Ok(Duration::ZERO), false).severity, Severity::Ok);
    }
}
