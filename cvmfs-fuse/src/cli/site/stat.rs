//! `stat` and `status`, as checks of sites read them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::look::{Blind, Look, PATIENCE, look};
use super::{below, ours, place};
use crate::cli::cache::print;
use crate::cli::control::table::table;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::inspect::is_online;
use crate::config::{Environment, RepositoryFlags, RepositorySettings, parse_fqrn};
use crate::fuse::mountinfo::show;

/// Upstream's columns; those who read them count, or look for these words.
const HEADER: [&str; 19] = [
    "VERSION",
    "PID",
    "UPTIME(M)",
    "MEM(K)",
    "REVISION",
    "EXPIRES(M)",
    "NOCATALOGS",
    "CACHEUSE(K)",
    "CACHEMAX(K)",
    "NOFDUSE",
    "NOFDMAX",
    "NOIOERR",
    "NOOPEN",
    "HITRATE(%)",
    "RX(K)",
    "SPEED(K/S)",
    "HOST",
    "PROXY",
    "ONLINE",
];

/// Exit codes of `stat`.
const NOT_MOUNTED: u8 = 1;
const NOT_ENTERED: u8 = 32;
const NO_DATA: u8 = 33;

/// Where a repository should be, and what is seen there.
type Seen = (PathBuf, Result<Look, Blind>);

/// `stat [-v] [REPO]`.
pub(super) fn stat(
    named: Option<&Path>,
    as_lines: bool,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    let seen = match named {
        Some(named) => {
            let place = place(named, environment)?;
            let seen =
                look(std::slice::from_ref(&place), PATIENCE).pop().unwrap_or(Err(Blind::Refused));
            vec![(place, seen)]
        }
        None => all()?,
    };
    if seen.is_empty() {
        return ended(NOT_MOUNTED, "nothing is mounted here");
    }
    let mut worst = 0;
    for (place, seen) in &seen {
        let name = show(place);
        let code = match seen {
            Ok(look) if look.fqrn.is_empty() => complain(NOT_MOUNTED, &name, "is not mounted"),
            Ok(look) if look.pid.is_empty() || look.cache.is_none() => {
                complain(NO_DATA, &name, "does not tell about itself")
            }
            Ok(look) => {
                if named.is_none() {
                    print(&format!("{}:\n", look.fqrn))?;
                }
                let online = online(look, environment);
                print(&if as_lines { lines(look, online) } else { figures(look, online) })?;
                0
            }
            Err(Blind::Hangs) => complain(NOT_ENTERED, &name, "does not answer"),
            Err(Blind::Refused) if is_mounted(place) => {
                complain(NOT_ENTERED, &name, "cannot be entered")
            }
            Err(Blind::Refused) => complain(NOT_MOUNTED, &name, "is not mounted"),
        };
        worst = worst.max(code);
    }
    Ok(ExitCode::from(worst))
}

/// `status`: what is mounted where.
pub(super) fn status() -> Result<ExitCode, Failure> {
    let mut is_healthy = true;
    for (place, seen) in all()? {
        let name = show(&place);
        match seen {
            Ok(look) if !look.fqrn.is_empty() => {
                print(&format!("{} mounted on {name} with pid {}\n", look.fqrn, look.pid))?;
            }
            _ => {
                complain(NOT_MOUNTED, &name, "does not answer");
                is_healthy = false;
            }
        }
    }
    Ok(ExitCode::from(u8::from(!is_healthy)))
}

fn ended(code: u8, why: &str) -> Result<ExitCode, Failure> {
    super::super::complain(&Failure::new(ExitStatus::Unknown, why));
    Ok(ExitCode::from(code))
}

fn complain(code: u8, name: &str, why: &str) -> u8 {
    super::super::complain(&Failure::new(ExitStatus::Unknown, format!("{name} {why}")));
    code
}

fn is_mounted(place: &Path) -> bool {
    crate::talk::mounts::of_path(place)
        .is_ok_and(|found| found.is_some_and(|(mount, _)| mount.mountpoint == place))
}

/// Every repository that is mounted here, also below mounts that show several.
fn all() -> Result<Vec<Seen>, Failure> {
    let places: Vec<_> = ours()?.into_iter().map(|mount| mount.mountpoint).collect();
    let seen = look(&places, PATIENCE);
    let mut found = Vec::new();
    let mut below = Vec::new();
    for (place, seen) in places.into_iter().zip(seen) {
        match &seen {
            // The names that it lists are those that are open, or stated.
            Ok(look) if !look.automount.is_empty() => below.extend(below::listed(&place)),
            _ => found.push((place, seen)),
        }
    }
    let seen = look(&below, PATIENCE);
    found.extend(below.into_iter().zip(seen));
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Whether the server in use can be reached by the proxy in use, now.
fn online(look: &Look, environment: &Environment) -> bool {
    let settings = parse_fqrn(look.fqrn.as_ref()).and_then(|fqrn| {
        RepositorySettings::resolve(fqrn, &RepositoryFlags::default(), environment)
    });
    let asked = is_online(&look.host, &look.proxy, settings.ok().as_ref());
    // A proxy whose password is not shown: what the mount knows itself.
    asked.unwrap_or(look.stale_since.is_empty())
}

/// KiB that a process has in memory; 0 if it is in another pid namespace.
fn memory(pid: &str) -> u64 {
    let text = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    let is_ours = text("comm").is_ok_and(|name| name.starts_with("cvmfs"));
    let status = text("status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.filter(|_| is_ours).unwrap_or(0)
}

/// A value as one word.
fn word(text: &str) -> String {
    match text.split_whitespace().next() {
        Some(first) => first.to_owned(),
        None => "0".to_owned(),
    }
}

fn figures(look: &Look, online: bool) -> String {
    let (used, max) = look.cache.unwrap_or_default();
    let row = [
        &look.version,
        &look.pid,
        &look.uptime,
        &memory(&look.pid).to_string(),
        &look.revision,
        &look.expires,
        &look.nclg,
        &used.to_string(),
        &max.to_string(),
        &look.usedfd,
        &look.maxfd,
        &look.nioerr,
        &look.nopen,
        &look.hitrate,
        &look.rx,
        &look.speed,
        &look.host,
        &look.proxy,
        &u8::from(online).to_string(),
    ];
    table(&HEADER, &[row.map(|text| word(text)).to_vec()])
}

fn lines(look: &Look, online: bool) -> String {
    let (used, max) = look.cache.unwrap_or_default();
    let expires = match look.expires.parse::<u64>() {
        Ok(minutes) => format!("expires in {minutes} minutes"),
        Err(_) => look.expires.clone(),
    };
    let count = |text: &str| word(text);
    let mut text = String::new();
    for (name, value) in [
        ("Version", look.version.clone()),
        ("PID", look.pid.clone()),
        ("Uptime", format!("{} minutes", look.uptime)),
        ("Memory Usage", format!("{}k", memory(&look.pid))),
        ("File Catalog Revision", format!("{} ({expires})", look.revision)),
        ("File Catalog ID", look.root_hash.clone()),
        ("No. Active File Catalogs", look.nclg.clone()),
        ("Cache Usage", format!("{used}k / {max}k")),
        ("File Descriptor Usage", format!("{} / {}", look.usedfd, look.maxfd)),
        ("No. Open Directories", count(&look.useddirp)),
        ("No. IO Errors", look.nioerr.clone()),
        (
            "Connection",
            format!(
                "{} through proxy {} ({})",
                look.host,
                look.proxy,
                if online { "online" } else { "offline" }
            ),
        ),
        (
            "Usage",
            format!(
                "{} open() calls (hitrate {}%), {} opendir() calls",
                count(&look.nopen),
                look.hitrate,
                count(&look.ndiropen)
            ),
        ),
        ("Transfer Statistics", format!("{}k read, avg. speed: {}k/s", look.rx, look.speed)),
    ] {
        let _ = writeln!(text, "{name}: {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_one_word() {
        let look = Look {
            fqrn: "a.b.c".to_owned(),
            expires: "never (fixed root catalog)".to_owned(),
            hitrate: "n/a".to_owned(),
            host: "http://s/cvmfs/a.b.c".to_owned(),
            proxy: "DIRECT".to_owned(),
            cache: Some((7, 4000)),
            ..Look::default()
        };
        let text = figures(&look, false);
        let (header, row) = text.trim_end().split_once('\n').unwrap();
        let header: Vec<_> = header.split_whitespace().collect();
        let row: Vec<_> = row.split_whitespace().collect();
        assert_eq!((header.len(), row.len()), (19, 19), "{text}");
        let at = |name: &str| row[header.iter().position(|column| *column == name).unwrap()];
        assert_eq!((at("CACHEUSE(K)"), at("CACHEMAX(K)")), ("7", "4000"));
        assert_eq!((at("EXPIRES(M)"), at("NOOPEN"), at("MEM(K)")), ("never", "0", "0"));
        assert_eq!((at("PROXY"), at("ONLINE")), ("DIRECT", "0"));
        assert!(lines(&look, true).contains("through proxy DIRECT (online)\n"));
    }
}
