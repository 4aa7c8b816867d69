//! `cache`: what is in a cache directory, is it right, make it smaller.

pub(super) mod broker;
mod evict;

use std::io::{self, Write as _};

use cvmfs_cache::{CacheInfo, CheckReport, Evicted, IndexedObject, parse_size};
use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde::Serialize;

use super::args::{
    CacheCheckArgs, CacheCleanArgs, CacheCommand, CacheDirectory, CacheInfoArgs, CacheLsArgs,
};
use super::exit::{ExitStatus, Failure};
use super::progress::Progress;
use crate::config::cache::{CacheFlags, CacheMode, reason};
use crate::config::{CacheSettings, Environment};

/// Threads of a check where the machine does not say how many it has.
const CHECK_THREADS: usize = 2;

/// Runs one of the subcommands.
pub(super) fn run(
    command: &CacheCommand,
    environment: &Environment,
) -> Result<ExitStatus, Failure> {
    match command {
        CacheCommand::Info(args) => info(args, environment),
        CacheCommand::Ls(args) => ls(args, environment),
        CacheCommand::Check(args) => check(args, environment),
        CacheCommand::Evict(args) => evict::run(args, environment),
        CacheCommand::Clean(args) => clean(args, environment),
        CacheCommand::Wipe(args) => wipe(args, environment),
        CacheCommand::Broker(args) => broker::run(args, environment),
    }
}

fn settings(flags: &CacheDirectory, environment: &Environment) -> Result<CacheSettings, Failure> {
    let flags = CacheFlags {
        cache_dir: flags.cache_dir.clone(),
        cache_mode: flags.trust_anyone.then_some(CacheMode::Direct),
        ..CacheFlags::default()
    };
    CacheSettings::resolve(&flags, environment)
}

/// A command about a cache must not make one.
fn existing(flags: &CacheDirectory, environment: &Environment) -> Result<CacheSettings, Failure> {
    let settings = settings(flags, environment)?;
    if !settings.directory.is_dir() {
        let message = format!("there is no cache in {}", settings.directory.display());
        return Err(Failure::new(ExitStatus::CacheDirectory, message)
            .advise("give --cache-dir; a mount makes it"));
    }
    settings.act_as_owner()?;
    Ok(settings)
}

fn info(args: &CacheInfoArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let cache = existing(&args.directory, environment)?.open_directory()?;
    let info = cache.info();
    if args.json {
        #[derive(Serialize)]
        struct Shown<'a> {
            #[serde(flatten)]
            info: &'a CacheInfo,
            mode: &'static str,
            reason: String,
        }
        let shown = Shown { info: &info, mode: "direct", reason: reason(cache.sharing()) };
        return print(&(to_json(&shown)? + "\n"));
    }
    let size = |bytes: Option<u64>| bytes.map_or("none".to_owned(), |b| BinaryBytes(b).to_string());
    let mut lines = vec![
        ("directory", info.directory.display().to_string()),
        ("used", format!("{} in {} objects", BinaryBytes(info.used), info.objects)),
        ("quota", size(info.quota)),
        ("partition", format!("{}, free {}", size(info.partition_size), size(info.partition_free))),
        ("shared with", info.sharing.clone()),
        ("mode", format!("direct: {}", reason(cache.sharing()))),
        (
            "in use by",
            format!("{} other processes, which pin {} objects", info.processes, info.pinned),
        ),
        ("quarantined", info.quarantined.to_string()),
        ("layout", info.layout.to_owned()),
    ];
    if info.read_only {
        lines.push(("state", "can only be read".to_owned()));
    } else if info.unmanaged {
        lines.push(("state", "on a network file system: nothing is evicted".to_owned()));
    }
    let text: String = lines.iter().map(|(name, value)| format!("{name:>12}: {value}\n")).collect();
    print(&text)
}

fn ls(args: &CacheLsArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let cache = existing(&args.directory, environment)?.open_directory()?;
    let mut output = io::BufWriter::new(io::stdout().lock());
    let mut outcome = Ok(());
    let mut left = args.number.unwrap_or(u64::MAX);
    cache.for_each(&mut |object| {
        if left == 0 {
            return false;
        }
        left -= 1;
        outcome = match args.json {
            true => crate::escape::json(&object)
                .map_err(io::Error::from)
                .and_then(|line| writeln!(output, "{line}")),
            false => writeln!(output, "{}", line_of(&object)),
        };
        outcome.is_ok()
    });
    told(outcome.and_then(|()| output.flush()))
}

fn line_of(object: &IndexedObject) -> String {
    let used = Timestamp::from_millisecond(object.used)
        .map_or_else(|_| "?".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
    let hash = object.name.replace('/', "");
    let volatile = if object.volatile { " (volatile)" } else { "" };
    let label = super::for_terminal(object.label.as_bytes());
    format!("{:>12} {used} {hash} {label}{volatile}", object.size)
}

fn check(args: &CacheCheckArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let cache = existing(&args.directory, environment)?.open_directory()?;
    let available = std::thread::available_parallelism().map_or(CHECK_THREADS, usize::from);
    let progress = Progress::bytes("checking", cache.info().used);
    let report = cache.check(args.repair, args.threads.unwrap_or(available), &|done| {
        progress.set(done.bytes, || format!("({} objects)", done.objects));
    });
    progress.end();
    let left = if args.repair { 0 } else { report.damaged.len() };
    if args.json {
        print(&(to_json(&report)? + "\n"))?;
    } else {
        print(&described(&report, args.repair))?;
    }
    // Upstream's cvmfs_fsck ends with 1 when errors were fixed, too; a script wants to know
    // whether anything is left.
    Ok(if left == 0 { ExitStatus::Ok } else { ExitStatus::Unknown })
}

fn described(report: &CheckReport, repair: bool) -> String {
    let mut text = String::new();
    for one in &report.damaged {
        let what = if repair { "set aside" } else { "damaged" };
        text.push_str(&format!("{what} {}: {}\n", one.name.replace('/', ""), one.reason));
    }
    text.push_str(&format!(
        "{} objects, {} checked, {} damaged",
        report.checked,
        BinaryBytes(report.bytes),
        report.damaged.len()
    ));
    for (number, what) in [
        (report.unverifiable, "without a checksum (only their size is known to be right)"),
        (report.foreign, "files that are no objects"),
        (report.unfinished as u64, "unfinished files"),
    ] {
        if number > 0 {
            text.push_str(&format!(", {number} {what}"));
        }
    }
    text.push('\n');
    if !repair && !report.damaged.is_empty() {
        text.push_str(
            "'cvmfs-fuse cache check --repair' sets them aside; they are fetched again when used\n",
        );
    }
    text
}

fn clean(args: &CacheCleanArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let to = parse_size(&args.to).ok_or_else(|| {
        let message =
            format!("--to {}: no size; give bytes, or a number with K, M, G or T", args.to);
        Failure::new(ExitStatus::Options, message)
    })?;
    let cache = existing(&args.directory, environment)?.open_directory()?;
    let before = cache.info().used;
    let progress = Progress::bytes("removing", before.saturating_sub(to));
    let done = cache.clean(to, &mut |done| {
        progress.set(done.bytes, || format!("({} objects)", done.objects));
    });
    progress.end();
    let info = cache.info();
    if args.json {
        #[derive(Serialize)]
        struct Shown {
            #[serde(flatten)]
            done: Evicted,
            used: u64,
        }
        print(&(to_json(&Shown { done, used: info.used })? + "\n"))?;
    } else {
        print(&format!(
            "removed {} objects, {}; {} are left\n",
            done.objects,
            BinaryBytes(done.bytes),
            BinaryBytes(info.used)
        ))?;
    }
    if info.used > to {
        let message = format!(
            "{} are still stored: live mounts pin {} objects, or fill the cache faster",
            BinaryBytes(info.used),
            info.pinned
        );
        return Err(Failure::new(ExitStatus::Quota, message));
    }
    Ok(ExitStatus::Ok)
}

fn wipe(args: &CacheInfoArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let settings = existing(&args.directory, environment)?;
    let found = cvmfs_cache::wipe(&settings.directory).map_err(|error| {
        let what = format!("cannot wipe {}", settings.directory.display());
        Failure::caused(ExitStatus::CacheDirectory, &what, &error)
    })?;
    if args.json {
        return print(&format!("{{\"wiped\":{found}}}\n"));
    }
    let text = if found { "wiped; mounts that use it go on" } else { "nothing to wipe" };
    print(&format!("{}: {text}\n", settings.directory.display()))
}

fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    crate::escape::json(value)
        .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot print", &error))
}

/// Clears a terminal, before [`print`]: what it writes is no text that may be escaped.
pub(super) fn clear(sequence: &'static str) -> Result<ExitStatus, Failure> {
    told(io::stdout().lock().write_all(sequence.as_bytes()))
}

/// Prints to stdout, with harmful characters escaped; nobody reading is no error.
pub(super) fn print(text: &str) -> Result<ExitStatus, Failure> {
    let mut stdout = io::stdout().lock();
    told(stdout.write_all(crate::escape::lines(text).as_bytes()).and_then(|()| stdout.flush()))
}

fn told(outcome: io::Result<()>) -> Result<ExitStatus, Failure> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::caused(ExitStatus::Unknown, "cannot write to stdout", &error))
        }
        _ => Ok(ExitStatus::Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cvmfs_cache::Damage;

    #[test]
    fn reports_say_what_was_found_and_what_to_do() {
        let damaged = vec![Damage { name: "ab/cdef".to_owned(), reason: "cut".to_owned() }];
        let report = CheckReport { checked: 7, bytes: 2048, damaged, ..CheckReport::default() };
        let text = described(&report, false);
        assert!(text.starts_with("damaged abcdef: cut\n7 objects, 2.00 KiB checked, 1 damaged\n"));
        assert!(text.contains("--repair"));
        assert!(described(&report, true).starts_with("set aside abcdef"));
        let clean = described(&CheckReport { checked: 1, foreign: 2, ..Default::default() }, false);
        assert_eq!(clean, "1 objects, 0 B checked, 0 damaged, 2 files that are no objects\n");
    }

    #[test]
    fn listed_lines() {
        let object = IndexedObject {
            name: "ab/cdC".to_owned(),
            size: 12,
            used: 0,
            volatile: true,
            label: "/a\nb".to_owned(),
        };
        let line = line_of(&object);
        assert!(line.starts_with("          12 1970-01-01 00:00:00 abcdC "), "{line}");
        assert!(line.ends_with("(volatile)") && !line.contains('\n'), "{line}");
    }
}
