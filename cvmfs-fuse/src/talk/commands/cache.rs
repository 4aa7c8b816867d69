//! Stored objects.
//!
//! The directory is opened anew for each of these, as `cvmfs-fuse cache` does it: any process may.

use std::sync::Arc;

use cvmfs_cache::{DiskCache, IndexedObject, Quota};
use cvmfs_core::cache::Pin;
use cvmfs_core::catalog::Content;
use cvmfs_core::chain::chain;
use cvmfs_core::fetch::FetchOptions;
use cvmfs_core::object::ObjectId;
use cvmfs_core::path::RepoPath;
use serde::Serialize;

use super::Subject;
use crate::config::CacheSettings;
use crate::config::cache::CacheMode;
use crate::talk::wire::Reply;

/// Bytes of the MB of these commands.
const MB: u64 = 1 << 20;
/// Smallest limit that can be set, as upstream's.
const MIN_LIMIT: u64 = 1000;
/// Largest: 1 EiB.
const MAX_LIMIT: u64 = 1 << 40;
/// Objects in one list.
const MAX_LISTED: usize = 1_000_000;

#[derive(Serialize)]
struct Size {
    used: u64,
    pinned: u64,
    objects: u64,
    limit: Option<u64>,
}

/// Which objects are listed.
#[derive(Clone, Copy)]
enum Kind {
    All,
    Pinned,
    Catalogs,
}

/// Answers commands about the cache.
pub(super) async fn answer(subject: &Subject, command: &str, raw: &str) -> Option<Reply> {
    Some(match command {
        "cache size" => on_disk(subject, size).await,
        "cache instance" => instance(subject),
        "cache limit get" => on_disk(subject, limit).await,
        "cache limit set" => Reply::failed("Usage: cache limit set MB"),
        "cache list" => on_disk(subject, |cache| list(cache, Kind::All)).await,
        "cache list pinned" => on_disk(subject, |cache| list(cache, Kind::Pinned)).await,
        "cache list catalogs" => on_disk(subject, |cache| list(cache, Kind::Catalogs)).await,
        "cleanup" => Reply::failed("Usage: cleanup MB"),
        "cleanup rate" => Reply::failed("Usage: cleanup rate MINUTES"),
        "evict" => Reply::failed("Usage: evict PATH"),
        "pin" => Reply::failed("Usage: pin PATH"),
        _ => {
            if let Some(path) = raw.strip_prefix("evict ") {
                return Some(evict(subject, path.trim()).await);
            }
            if let Some(path) = raw.strip_prefix("pin ") {
                return Some(pin(subject, path.trim()).await);
            }
            if let Some(megabytes) = command.strip_prefix("cache limit set ") {
                return Some(set_limit(subject, megabytes).await);
            }
            if command.starts_with("cleanup rate ") {
                return Some(Reply::failed(
                    "not supported: eviction goes on all the time, in small steps",
                ));
            }
            let megabytes = command.strip_prefix("cleanup ")?;
            let Ok(megabytes) = megabytes.parse::<u64>() else {
                return Some(Reply::failed("Usage: cleanup MB"));
            };
            on_disk(subject, move |cache| {
                let to = megabytes.saturating_mul(MB);
                let done = cache.clean(to, &mut |_| {});
                match cache.info().used <= to {
                    true => Reply::ok().with(done),
                    false => {
                        Reply::failed("Not fully cleaned (there might be pinned chunks)").with(done)
                    }
                }
            })
            .await
        }
    })
}

/// Works on the directory, if there is one of ours.
async fn on_disk(
    subject: &Subject,
    work: impl FnOnce(&DiskCache) -> Reply + Send + 'static,
) -> Reply {
    on_disk_with(subject, Quota::Stored, work).await
}

async fn on_disk_with(
    subject: &Subject,
    quota: Quota,
    work: impl FnOnce(&DiskCache) -> Reply + Send + 'static,
) -> Reply {
    let settings = CacheSettings { quota, ..subject.served.settings.cache.clone() };
    if settings.alien.is_some() {
        return Reply::failed("not supported by an alien cache");
    }
    if settings.mode == CacheMode::Broker {
        return Reply::failed("not supported: a broker keeps the cache");
    }
    let worked = tokio::task::spawn_blocking(move || match settings.open_directory() {
        Ok(cache) => work(&cache),
        Err(failure) => Reply::failed(format!("Failed: {}", failure.message)),
    });
    worked.await.unwrap_or_else(|error| Reply::failed(format!("Failed: {error}")))
}

fn size(cache: &DiskCache) -> Reply {
    let info = cache.info();
    let pinned = pinned_bytes(cache);
    let text = format!(
        "Current cache size is {}MB ({} Bytes), pinned: {}MB ({pinned} Bytes)",
        info.used / MB,
        info.used,
        pinned / MB
    );
    let (used, objects, limit) = (info.used, info.objects, info.quota);
    Reply::text(text).with(Size { used, pinned, objects, limit })
}

fn pinned_bytes(cache: &DiskCache) -> u64 {
    let pinned = cache.pinned();
    let mut bytes = 0_u64;
    cache.for_each(&mut |object| {
        if pinned.contains(&object.name) {
            bytes = bytes.saturating_add(object.size);
        }
        true
    });
    bytes
}

fn limit(cache: &DiskCache) -> Reply {
    match cache.info().quota {
        Some(bytes) => Reply::text((bytes / MB).to_string()).with(bytes),
        None => Reply::text("unlimited"),
    }
}

async fn set_limit(subject: &Subject, megabytes: &str) -> Reply {
    match megabytes.parse::<u64>() {
        Ok(megabytes) if (MIN_LIMIT..MAX_LIMIT).contains(&megabytes) => {
            on_disk_with(subject, Quota::Bytes(megabytes * MB), |_| Reply::ok()).await
        }
        Ok(_) => Reply::failed(format!("Failed: the limit must be at least {MIN_LIMIT} MB")),
        Err(_) => Reply::failed("Usage: cache limit set MB"),
    }
}

fn list(cache: &DiskCache, kind: Kind) -> Reply {
    let pinned = match kind {
        Kind::Pinned => cache.pinned(),
        Kind::All | Kind::Catalogs => Default::default(),
    };
    let (mut text, mut objects): (String, Vec<IndexedObject>) = Default::default();
    cache.for_each(&mut |object| {
        let is_wanted = match kind {
            Kind::All => true,
            Kind::Pinned => pinned.contains(&object.name),
            Kind::Catalogs => {
                object.name.strip_suffix(".none").unwrap_or(&object.name).ends_with('C')
            }
        };
        if is_wanted {
            text.push_str(&crate::cli::for_terminal(object.label.as_bytes()));
            text.push('\n');
            objects.push(object);
        }
        objects.len() < MAX_LISTED
    });
    text.pop();
    Reply::text(text).with(objects)
}

fn instance(subject: &Subject) -> Reply {
    let cache = &subject.served.settings.cache;
    let (directory, kind) = match (&cache.alien, cache.mode) {
        (Some(directory), _) => (directory, "alien cache"),
        (None, CacheMode::Broker) => (&cache.broker, "cache behind a broker"),
        (None, _) => (&cache.directory, "shared cache directory without a manager"),
    };
    let mut text = format!("{kind}: {}", directory.display());
    if let Some((lower, _)) = &cache.lower {
        text.push_str(&format!("\nlower cache: {}", lower.display()));
    }
    if cache.streaming {
        text.push_str("\nstreaming: the content of files is not stored");
    }
    Reply::text(text)
}

/// Finds the objects of a file and how they are fetched; `None` if it is none, or nobody can tell.
async fn content_of(
    subject: &Subject,
    path: &str,
) -> Option<(RepoPath, Vec<(ObjectId, FetchOptions)>)> {
    let path = RepoPath::parse(path.as_bytes()).filter(|path| !path.is_root())?;
    let revision = subject.fs.repository().current();
    let entry = revision.lookup(&path).await.ok().flatten()?;
    let options = |chunk| FetchOptions::content(&entry, &path, chunk, path.to_string());
    let ids = match &entry.content {
        Content::Whole(id) => vec![(*id, options(None))],
        Content::Chunked(_) => {
            let chunks = revision.chunks(&path).await.ok()?;
            chunks.iter().map(|chunk| (chunk.object, options(Some(chunk)))).collect()
        }
        Content::Broken(_) | Content::None => return None,
    };
    Some((path, ids))
}

async fn evict(subject: &Subject, path: &str) -> Reply {
    let Some((path, ids)) = content_of(subject, path).await else {
        return Reply::failed("No such regular file");
    };
    // No longer to be kept.
    drop(subject.served.pins.lock().remove(&path));
    let cache = Arc::clone(subject.fs.repository().cache());
    let removed =
        tokio::task::spawn_blocking(move || ids.iter().try_for_each(|(id, _)| cache.discard(id)));
    match removed.await {
        Ok(Ok(())) => Reply::ok(),
        Ok(Err(error)) => Reply::failed(format!("Failed: {error}")),
        Err(error) => Reply::failed(format!("Failed: {error}")),
    }
}

/// Fetches a file and keeps it in the cache, as long as this process lives.
async fn pin(subject: &Subject, path: &str) -> Reply {
    let failed = || Reply::failed("No such regular file or pinning failed");
    let Some((path, ids)) = content_of(subject, path).await else { return failed() };
    let fetcher = subject.fs.repository().fetcher();
    for (id, options) in &ids {
        if let Err(error) = fetcher.open_with(id, options).await {
            return failed().with(chain(&*error));
        }
    }
    let cache = Arc::clone(subject.fs.repository().cache());
    let pinned = tokio::task::spawn_blocking(move || {
        ids.iter().map(|(id, _)| cache.pin(id)).filter(Pin::is_some).collect::<Vec<_>>()
    });
    match pinned.await {
        Ok(pins) if !pins.is_empty() => {
            subject.served.pins.lock().insert(path, pins);
            Reply::ok()
        }
        _ => failed(),
    }
}
