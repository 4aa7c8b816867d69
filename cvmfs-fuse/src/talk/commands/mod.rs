//! The answers, under the names of spec/config.md section 7.
//!
//! | module | commands about |
//! |---|---|
//! | `network` | servers, proxies, time limits, names |
//! | `cache` | stored objects |
//! | [`activity`] | requests of the kernel |
//! | `inside` | catalogs, inodes, counters |
//!
//! What has no meaning in this program says so, instead of an `OK` that changes nothing.

use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::hash::ContentHash;
use nix::unistd::getppid;
use serde::Serialize;
use tokio::sync::oneshot;

use super::desk::{Ask, Desk, Served};
use super::report::RepositoryStatus;
use super::wire::{Reply, Request};
use crate::fs::RepoFs;

pub(super) mod activity;
mod cache;
mod inside;
mod network;

/// Longest TTL that can be set: a year in minutes.
const MAX_MINUTES: u64 = 366 * 24 * 60;

/// A repository and what of it can be told.
struct Subject {
    fqrn: String,
    served: Arc<Served>,
    fs: Arc<RepoFs>,
    desk: Arc<Desk>,
}

/// Answers a question.
pub(super) async fn answer(desk: &Arc<Desk>, request: &Request) -> Reply {
    let command = request.command.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(reply) = about_the_mount(desk, &command, request.repository.as_deref()) {
        return reply;
    }
    if let Some(reply) = activity::about_the_mount(desk, &command) {
        return reply;
    }
    let subject = match subject(desk, request.repository.as_deref()) {
        Ok(subject) => subject,
        Err(reply) => return reply,
    };
    // Paths may have blanks.
    let raw = request.command.trim();
    if let Some(reply) = about_updates(&subject, &command).await {
        return reply;
    }
    if let Some(reply) = network::answer(&subject, &command).await {
        return reply;
    }
    if let Some(reply) = cache::answer(&subject, &command, raw).await {
        return reply;
    }
    if let Some(reply) = activity::answer(&subject, &command).await {
        return reply;
    }
    inside::answer(&subject, &command).unwrap_or_else(|| Reply::failed("unknown command"))
}

fn subject(desk: &Arc<Desk>, fqrn: Option<&str>) -> Result<Subject, Reply> {
    let all = desk.all();
    let only = all.len() == 1;
    let names: Vec<_> = all.iter().map(|(name, ..)| name.clone()).collect();
    let found = match fqrn {
        Some(fqrn) => all.into_iter().find(|(name, ..)| name == fqrn),
        None if only => all.into_iter().next(),
        None => None,
    };
    let subject =
        found.map(|(fqrn, served, fs)| Subject { fqrn, served, fs, desk: Arc::clone(desk) });
    subject.ok_or_else(|| match (fqrn, names.is_empty()) {
        (Some(fqrn), _) => Reply::failed(format!("{fqrn} is not open in this mount")),
        (None, true) => Reply::failed("no repository is open in this mount"),
        (None, false) => Reply::failed(format!("which repository? open are {}", names.join(", "))),
    })
}

/// Answers what needs no repository.
fn about_the_mount(desk: &Arc<Desk>, command: &str, fqrn: Option<&str>) -> Option<Reply> {
    let pid = std::process::id();
    Some(match command {
        "status" => {
            let wanted = |name: &str| fqrn.is_none_or(|fqrn| fqrn == name);
            let reports: Vec<_> = desk
                .all()
                .iter()
                .filter(|(name, ..)| wanted(name))
                .map(|(_, served, fs)| RepositoryStatus::of(desk, served, fs))
                .collect();
            let names: Vec<_> = reports.iter().map(|report| report.repository.clone()).collect();
            Reply::text(names.join("\n")).with(reports)
        }
        "repositories" => {
            let names: Vec<_> = desk.all().into_iter().map(|(name, ..)| name).collect();
            Reply::text(names.join("\n")).with(names)
        }
        "failures" => {
            let all = desk.activity.recent.all();
            let lines: Vec<_> = all.iter().map(|failure| failure.reason.clone()).collect();
            Reply::text(lines.join("\n")).with(all)
        }
        "reset error counters" => {
            desk.activity.recent.clear();
            Reply::ok()
        }
        "mountpoint" => {
            let path = match fqrn.filter(|_| desk.has_several) {
                Some(fqrn) => desk.mountpoint.join(fqrn),
                None => desk.mountpoint.clone(),
            };
            Reply::text(path.display().to_string()).with(path)
        }
        "device id" => match &desk.device {
            Some(device) => Reply::text(device.as_str()).with(device),
            None => Reply::failed("the device of the mount is not known"),
        },
        "pid" => number(pid),
        "pid watchdog" => number(getppid().as_raw()),
        "pid cachemgr" => Reply::failed("there is no cache manager: processes share the cache"),
        "version" => {
            let version = crate::VERSION;
            Reply::text(format!("{version} (CernVM-FS Fuse Module)\n{version} (Loader)"))
                .with(version)
        }
        "version patchlevel" => number(0),
        "hotpatch history" => {
            let since = jiff::Timestamp::try_from(desk.since).unwrap_or_default();
            let text = format!("({since}) {}", crate::VERSION);
            #[derive(Serialize)]
            struct Start {
                since: i64,
                version: &'static str,
                pid: u32,
            }
            let start = Start { since: since.as_second(), version: crate::VERSION, pid };
            Reply::text(text).with([start])
        }
        // Nothing is kept back: what is traced is read while it happens.
        "tracebuffer flush" => Reply::ok(),
        "tear down to read-only" => Reply::failed("not supported"),
        command if command.starts_with("send mount fd") => {
            Reply::failed("not supported: see 'cvmfs-fuse hold' for mounts that change their owner")
        }
        _ => return None,
    })
}

async fn about_updates(subject: &Subject, command: &str) -> Option<Reply> {
    let repository = subject.fs.repository();
    let limit = &subject.served.max_ttl;
    Some(match command {
        // Both are done when the answer comes.
        "remount" | "remount sync" => match ask(subject, Ask::Update).await {
            Ok(true) => Reply::text("New revision applied").with(subject.revision()),
            Ok(false) => Reply::text("Catalog up to date").with(subject.revision()),
            Err(reason) => Reply::failed("Failed").with(reason),
        },
        "revision" => number(subject.revision()),
        "root hash" => Reply::text(repository.current().root_hash().to_string()),
        "max ttl info" => match limit.get() {
            None => Reply::text("unset"),
            Some(limit) => {
                let minutes = limit.as_secs() / 60;
                Reply::text(format!("{minutes} minutes")).with(minutes)
            }
        },
        "max ttl set" => Reply::failed("Usage: max ttl set MINUTES"),
        "chroot" => Reply::failed("Usage: chroot HASH"),
        _ => {
            if let Some(minutes) = command.strip_prefix("max ttl set ") {
                match minutes.parse::<u64>() {
                    Ok(0) => limit.set(None),
                    Ok(minutes) if minutes <= MAX_MINUTES => {
                        limit.set(Some(Duration::from_secs(minutes * 60)));
                    }
                    _ => return Some(Reply::failed("Usage: max ttl set MINUTES")),
                }
                return Some(Reply::ok());
            }
            let hash = command.strip_prefix("chroot ")?;
            let hash = hash.strip_suffix('C').unwrap_or(hash);
            let Ok(hash) = hash.parse::<ContentHash>() else {
                return Some(Reply::failed("Failed").with("no hash of a root catalog"));
            };
            match ask(subject, |answer| Ask::Show(hash, answer)).await {
                Ok(_) => Reply::ok(),
                Err(reason) => Reply::failed(format!("Failed: {reason}")).with(reason),
            }
        }
    })
}

/// Asks the one who updates the repository; the answer comes when it is done.
async fn ask(
    subject: &Subject,
    ask: impl FnOnce(oneshot::Sender<Result<bool, String>>) -> Ask,
) -> Result<bool, String> {
    let gone = || "the mount ends".to_owned();
    let (sender, answer) = oneshot::channel();
    // Full only if others ask for the same; then their turn comes first.
    subject.served.updates.send(ask(sender)).await.map_err(|_| gone())?;
    answer.await.unwrap_or_else(|_| Err(gone()))
}

impl Subject {
    fn revision(&self) -> u64 {
        self.fs.repository().current().number()
    }
}

fn number(number: impl Serialize + std::fmt::Display) -> Reply {
    Reply::text(number.to_string()).with(number)
}
