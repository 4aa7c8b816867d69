//! What is measured: the one table from which OpenMetrics, the lines for InfluxDB and the counters of
//! `internal affairs` are made.

use super::report::RepositoryStatus;

/// One number of a repository.
pub struct Metric {
    /// In OpenMetrics.
    pub name: &'static str,
    /// Where upstream's form is used: the counters of `talk`, and InfluxDB.
    pub dotted: &'static str,
    /// It only grows, while the server lives.
    pub is_counter: bool,
    /// What it is.
    pub help: &'static str,
    /// Its value, if it has one now.
    pub value: fn(&RepositoryStatus) -> Option<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nobody counts single ones")]
fn whole(number: u64) -> Option<f64> {
    Some(number as f64)
}

fn count(number: usize) -> Option<f64> {
    whole(u64::try_from(number).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "times are below 2^53")]
fn time(seconds: Option<i64>) -> Option<f64> {
    seconds.map(|seconds| seconds as f64)
}

/// All of them, in the order in which they are listed.
pub const METRICS: &[Metric] = &[
    gauge("revision", "cvmfs.revision", "Revision that is shown.", |s| whole(s.revision)),
    gauge("published_timestamp_seconds", "cvmfs.published", "When it was published.", |s| {
        s.published.and_then(whole)
    }),
    gauge(
        "stale_since_timestamp_seconds",
        "cvmfs.stale_since",
        "Since when it may not be the newest.",
        |s| time(s.stale_since),
    ),
    gauge("offline", "cvmfs.offline", "1 if no server answered last.", |s| {
        Some(f64::from(u8::from(s.offline)))
    }),
    gauge("uptime_seconds", "cvmfs.uptime", "For how long this server serves.", |s| {
        whole(s.uptime)
    }),
    counter("cache_hits", "cache.hits", "Objects asked for that were in the cache.", |s| {
        whole(s.hits)
    }),
    counter("downloads", "download.n_downloads", "Objects asked for that were downloaded.", |s| {
        whole(s.downloads)
    }),
    counter("received_bytes", "download.sz_transferred_bytes", "Bytes received.", |s| {
        whole(s.received)
    }),
    counter("requests", "download.n_requests", "Requests to servers.", |s| whole(s.requests)),
    counter("failed_requests", "download.n_failed_requests", "Those that failed.", |s| {
        whole(s.failed_requests)
    }),
    gauge(
        "cache_used_bytes",
        "cache.sz_used_bytes",
        "Bytes in the cache, of all who share it.",
        |s| whole(s.cache_used),
    ),
    gauge("cache_limit_bytes", "cache.sz_limit_bytes", "Limit of the cache.", |s| {
        whole(s.cache_limit)
    }),
    counter("cache_failures", "cache.n_failures", "Times that the cache failed.", |s| {
        whole(s.cache_failures)
    }),
    counter("cache_damaged", "cache.n_damaged", "Objects of the cache found damaged.", |s| {
        whole(s.cache_damaged)
    }),
    gauge("open_catalogs", "catalog_mgr.n_open", "Catalogs that are open.", |s| count(s.catalogs)),
    gauge("inodes", "cvmfs.n_inodes", "Inodes that the kernel knows.", |s| count(s.inodes)),
    gauge(
        "recent_errors",
        "cvmfs.n_io_error",
        "Calls that failed lately, as 'cvmfs-fuse why' tells.",
        |s| whole(s.errors),
    ),
    gauge(
        "last_error_timestamp_seconds",
        "cvmfs.last_error",
        "When the last of them failed.",
        |s| time(s.last_error),
    ),
    gauge("fetching", "download.n_under_way", "Objects that are being fetched, 64 at most.", |s| {
        count(s.fetching.len())
    }),
];

const fn gauge(
    name: &'static str,
    dotted: &'static str,
    help: &'static str,
    value: fn(&RepositoryStatus) -> Option<f64>,
) -> Metric {
    Metric { name, dotted, is_counter: false, help, value }
}

const fn counter(
    name: &'static str,
    dotted: &'static str,
    help: &'static str,
    value: fn(&RepositoryStatus) -> Option<f64>,
) -> Metric {
    Metric { name, dotted, is_counter: true, help, value }
}
