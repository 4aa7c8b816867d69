//! Attributes that tell about the repository as it is served, under upstream's names where it has
//! one (spec/filesystem.md section 10). As there, they can be read everywhere, and are listed
//! where the site wants that (`exposure.rs`).

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::net::Proxy;
use cvmfs_core::repository::{Pin, Repository};

use super::facts::{names_of, page_of, split};
use super::inode::NUMBER_BITS;
use super::remote;

/// Those of the server that are listed while they have a value.
const LISTED: &[&str] = &[
    "user.authz",
    "user.cache_damaged",
    "user.cache_failures",
    "user.expires",
    "user.external_host",
    "user.external_timeout",
    "user.fqrn",
    "user.hitrate",
    "user.host",
    "user.host_list",
    "user.inode_max",
    "user.logbuffer",
    "user.maxfd",
    "user.nclg",
    "user.ncleanup24",
    "user.ndownload",
    "user.pid",
    "user.prefetch_used",
    "user.prefetched",
    "user.proxy",
    "user.proxy_list",
    "user.proxy_list_external",
    "user.pubkeys",
    "user.revision",
    "user.root_hash",
    "user.rx",
    "user.tag",
    "user.speed",
    "user.stale_reason",
    "user.stale_since",
    "user.timeout",
    "user.timeout_direct",
    "user.uptime",
    "user.usedfd",
    "user.version",
];
/// Those that whoever talks to the kernel adds (`recent.rs`).
pub(super) const OF_FAILURES: &[&str] = &["user.nioerr", "user.timestamp_last_ioerr"];

/// When this server began, about.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Begins to count the time of this server.
pub(super) fn begin() {
    LazyLock::force(&BEGUN);
}

/// Returns the names that are listed for an entry, among those that are listed at all.
pub(super) fn listed<'a>(
    repository: &'a Repository,
    entry: &'a DirectoryEntry,
) -> impl Iterator<Item = &'static str> + 'a {
    let has_value = |name: &&str| server_attribute(repository, name.as_bytes()).is_some();
    let of_server = LISTED.iter().copied().filter(has_value).chain(OF_FAILURES.iter().copied());
    // Linux does not let anybody read 'user.' attributes of links and special files.
    let has_users = matches!(entry.kind, EntryKind::Regular | EntryKind::Directory);
    let all = of_server.chain(names_of(entry)).chain(remote::names_of(entry));
    all.filter(move |name| has_users || !name.starts_with("user."))
}

/// Returns the value of a server attribute; `None` if there is no such name or no value now.
pub(super) fn server_attribute(repository: &Repository, name: &[u8]) -> Option<Vec<u8>> {
    let fetcher = repository.fetcher();
    let downloader = fetcher.downloader();
    let (name, page) = split(name)?;
    let long = |text: String| page_of(&text, page);
    let lines = |proxies: &[Vec<Proxy>]| {
        let names: Vec<_> = proxies.iter().flatten().map(Proxy::display).collect();
        names.join("\n")
    };
    match name {
        "user.proxy_list" => return long(lines(&downloader.selection(|s| s.proxy_groups()))),
        "user.proxy_list_external" => {
            return long(lines(&fetcher.external()?.selection(|s| s.proxy_groups())));
        }
        "user.logbuffer" => return long(crate::daemon::log::last()),
        "user.pubkeys" => return long(repository.keys().pem()),
        _ if page.is_some() => return None,
        _ => {}
    }
    let text = match name.as_bytes() {
        b"user.fqrn" => repository.fqrn().to_string(),
        b"user.pid" => std::process::id().to_string(),
        // Ours: of the program that serves.
        b"user.version" => crate::VERSION.to_owned(),
        b"user.revision" => repository.current().number().to_string(),
        b"user.tag" => match repository.pin() {
            Pin::Tag(tag) => tag.clone(),
            _ => String::new(),
        },
        // Members are not told from others here, but people see why a site has such a helper.
        b"user.authz" => repository.current().properties().membership.clone()?,
        // Numbers are computed from content: any of them may come (`inode.rs`).
        b"user.inode_max" => ((1_u64 << NUMBER_BITS) - 1).to_string(),
        // Eviction has no runs that could be counted: it goes on in small steps.
        b"user.ncleanup24" => "-1".to_owned(),
        b"user.root_hash" => repository.current().root_hash().to_string(),
        b"user.host" => repository.server(),
        b"user.host_list" => {
            let mut hosts = downloader.hosts();
            let current = downloader.current_host().min(hosts.len());
            hosts.rotate_left(current);
            hosts.join(";")
        }
        b"user.proxy" => downloader.selection(|selection| selection.current_proxy())?.display(),
        // As long as the revision may be shown without looking again, at most.
        b"user.expires" if repository.follows_updates() => {
            repository.current().properties().ttl.div_ceil(60).to_string()
        }
        b"user.expires" => "never (fixed root catalog)".to_owned(),
        b"user.timeout" => downloader.timeouts().proxy.as_secs().to_string(),
        b"user.timeout_direct" => downloader.timeouts().direct.as_secs().to_string(),
        b"user.external_timeout" => fetcher
            .external()
            .map_or(downloader, |found| found)
            .timeouts()
            .direct
            .as_secs()
            .to_string(),
        b"user.external_host" => match fetcher.external() {
            Some(external) => external.hosts().get(external.current_host())?.clone(),
            None => "internal error: no hosts defined".to_owned(),
        },
        b"user.hitrate" => {
            let statistics = fetcher.statistics();
            let hits = statistics.hits.load(Ordering::Relaxed);
            match hits.saturating_add(statistics.downloads.load(Ordering::Relaxed)) {
                0 => "n/a".to_owned(),
                all => {
                    let thousandths = hits.saturating_mul(100_000) / all;
                    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
                }
            }
        }
        // Of this server, in minutes; a mount may have had others before.
        b"user.uptime" => (BEGUN.elapsed().as_secs() / 60).to_string(),
        b"user.speed" => {
            // While somebody served; rates of single transfers are told by 'top'.
            let kilobytes = downloader.statistics().bytes.load(Ordering::Relaxed) / 1024;
            match BEGUN.elapsed().as_secs() {
                0 => "n/a".to_owned(),
                seconds => (kilobytes / seconds).to_string(),
            }
        }
        b"user.maxfd" => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
            limit.map_or_else(|| "-1".to_owned(), |limit| limit.saturating_sub(512).to_string())
        }
        b"user.usedfd" => std::fs::read_dir("/proc/self/fd").ok()?.count().to_string(),
        // Ours: RFC 3339 time and reason while the newest revision is not known; else no data.
        b"user.stale_since" => {
            let since = repository.stale()?.since;
            jiff::Timestamp::from_second(since)
                .map_or_else(|_| since.to_string(), |t| t.to_string())
        }
        // Ours: what was fetched ahead of use, and what of it was used: objects and bytes.
        b"user.prefetched" => {
            let ahead = repository.fetcher().ahead();
            format!("{} {}", ahead.objects, ahead.bytes)
        }
        b"user.prefetch_used" => {
            let ahead = repository.fetcher().ahead();
            format!("{} {}", ahead.used_objects, ahead.used_bytes)
        }
        // Ours: how often the cache failed or had to be mended since the mount.
        b"user.cache_failures" => {
            let own = repository.fetcher().statistics().cache_failures.load(Ordering::Relaxed);
            own.saturating_add(repository.cache().health().failures).to_string()
        }
        b"user.cache_damaged" => repository.cache().health().damaged.to_string(),
        b"user.ndownload" => {
            repository.fetcher().statistics().downloads.load(Ordering::Relaxed).to_string()
        }
        // In kB, as upstream.
        b"user.rx" => (downloader.statistics().bytes.load(Ordering::Relaxed) / 1024).to_string(),
        b"user.nclg" => repository.current().statistics().loaded_catalogs.to_string(),
        b"user.stale_reason" => repository.stale()?.reason.clone(),
        _ => return None,
    };
    Some(text.into_bytes())
}
