//! Attributes that tell about the repository as it is served, under upstream's names where it has
//! one (spec/filesystem.md section 10). As there, they can be read everywhere and are listed
//! nowhere.

use std::sync::atomic::Ordering;

use cvmfs_core::net::Proxy;
use cvmfs_core::repository::Repository;

/// Returns the value of a server attribute; `None` if there is no such name or no value now.
pub(super) fn server_attribute(repository: &Repository, name: &[u8]) -> Option<Vec<u8>> {
    let downloader = repository.fetcher().downloader();
    let text = match name {
        b"user.fqrn" => repository.fqrn().to_string(),
        b"user.pid" => std::process::id().to_string(),
        // Ours: of the program that serves.
        b"user.version" => crate::VERSION.to_owned(),
        b"user.revision" => repository.current().number().to_string(),
        b"user.root_hash" => repository.current().root_hash().to_string(),
        b"user.host" => repository.server(),
        b"user.host_list" => {
            let mut hosts = downloader.hosts();
            let current = downloader.current_host().min(hosts.len());
            hosts.rotate_left(current);
            hosts.join(";")
        }
        b"user.proxy" => downloader.selection(|selection| selection.current_proxy())?.display(),
        b"user.proxy_list" => {
            let groups = downloader.selection(|selection| selection.proxy_groups());
            let names: Vec<_> = groups.iter().flatten().map(Proxy::display).collect();
            names.join("\n")
        }
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
