//! What is measured, and how it is written down (OpenMetrics 1.0).

use std::fmt::Write as _;

use crate::talk::mounts::Found;
use crate::talk::report::RepositoryStatus;

/// The type that a page of them has.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One number of a repository.
struct Metric {
    name: &'static str,
    is_counter: bool,
    help: &'static str,
    value: fn(&RepositoryStatus) -> Option<f64>,
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

/// All of them, in the order of the page.
const METRICS: &[Metric] = &[
    gauge("revision", "Revision that is shown.", |s| whole(s.revision)),
    gauge("published_timestamp_seconds", "When it was published.", |s| s.published.and_then(whole)),
    gauge("stale_since_timestamp_seconds", "Since when it may not be the newest.", |s| {
        time(s.stale_since)
    }),
    gauge("offline", "1 if no server answered last.", |s| Some(f64::from(u8::from(s.offline)))),
    gauge("uptime_seconds", "For how long this server serves.", |s| whole(s.uptime)),
    counter("cache_hits", "Objects asked for that were in the cache.", |s| whole(s.hits)),
    counter("downloads", "Objects asked for that were downloaded.", |s| whole(s.downloads)),
    counter("received_bytes", "Bytes received.", |s| whole(s.received)),
    counter("requests", "Requests to servers.", |s| whole(s.requests)),
    counter("failed_requests", "Those that failed.", |s| whole(s.failed_requests)),
    gauge("cache_used_bytes", "Bytes in the cache, of all who share it.", |s| whole(s.cache_used)),
    gauge("cache_limit_bytes", "Limit of the cache.", |s| whole(s.cache_limit)),
    counter("cache_failures", "Times that the cache failed.", |s| whole(s.cache_failures)),
    counter("cache_damaged", "Objects of the cache found damaged.", |s| whole(s.cache_damaged)),
    gauge("open_catalogs", "Catalogs that are open.", |s| count(s.catalogs)),
    gauge("inodes", "Inodes that the kernel knows.", |s| count(s.inodes)),
    gauge("recent_errors", "Calls that failed lately, as 'cvmfs-fuse why' tells.", |s| {
        whole(s.errors)
    }),
    gauge("last_error_timestamp_seconds", "When the last of them failed.", |s| time(s.last_error)),
    gauge("fetching", "Objects that are being fetched, 64 at most.", |s| count(s.fetching.len())),
];

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&RepositoryStatus) -> Option<f64>,
) -> Metric {
    Metric { name, is_counter: false, help, value }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&RepositoryStatus) -> Option<f64>,
) -> Metric {
    Metric { name, is_counter: true, help, value }
}

/// Writes all metrics of all mounts.
pub fn text(found: &[Found]) -> String {
    let mut text = String::from(
        "# TYPE cvmfs_fuse_up gauge\n# HELP cvmfs_fuse_up 1 if the server of the mount answers.\n",
    );
    for mount in found {
        let labels = format!(
            "mountpoint=\"{}\",device=\"{}\"",
            escaped(&mount.mountpoint.to_string_lossy()),
            escaped(&mount.device)
        );
        let _ = writeln!(text, "cvmfs_fuse_up{{{labels}}} {}", u8::from(mount.status.is_ok()));
    }
    let all: Vec<_> = found.iter().flat_map(|found| found.status.iter().flatten()).collect();
    for Metric { name, is_counter, help, value } in METRICS {
        let kind = if *is_counter { "counter" } else { "gauge" };
        let suffix = if *is_counter { "_total" } else { "" };
        let _ = writeln!(text, "# TYPE cvmfs_fuse_{name} {kind}\n# HELP cvmfs_fuse_{name} {help}");
        for status in &all {
            let Some(value) = value(status) else { continue };
            let _ = writeln!(
                text,
                "cvmfs_fuse_{name}{suffix}{{repository=\"{}\",mountpoint=\"{}\"}} {value}",
                escaped(&status.repository),
                escaped(&status.mountpoint.to_string_lossy())
            );
        }
    }
    text.push_str("# EOF\n");
    text
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::address::Address;
    use crate::talk::client::AskError;

    #[test]
    fn a_page_of_one_mount_and_a_silent_one() {
        let status = RepositoryStatus {
            repository: "a.b.c".to_owned(),
            mountpoint: "/m \"x\"".into(),
            revision: 7,
            hits: 3,
            ..RepositoryStatus::default()
        };
        let found = |mountpoint: &str, status| Found {
            mountpoint: mountpoint.into(),
            device: "0:1".to_owned(),
            status,
        };
        let silent = AskError::Connect {
            address: Address::Path("/x".into()),
            source: std::io::Error::other("silent"),
        };
        let page = text(&[found("/m", Ok(vec![status])), found("/n", Err(silent))]);
        for line in [
            "cvmfs_fuse_up{mountpoint=\"/m\",device=\"0:1\"} 1",
            "cvmfs_fuse_up{mountpoint=\"/n\",device=\"0:1\"} 0",
            "# TYPE cvmfs_fuse_cache_hits counter",
            "cvmfs_fuse_cache_hits_total{repository=\"a.b.c\",mountpoint=\"/m \\\"x\\\"\"} 3",
            "cvmfs_fuse_revision{repository=\"a.b.c\",mountpoint=\"/m \\\"x\\\"\"} 7",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
        assert!(!page.contains("stale_since_timestamp_seconds{"), "no value is not 0");
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn the_page_of_metrics_is_that_of_the_code() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `cvmfs_fuse_")).collect();
        let expected: Vec<_> = METRICS
            .iter()
            .map(|one| {
                let suffix = if one.is_counter { "_total" } else { "" };
                let kind = if one.is_counter { "counter" } else { "gauge" };
                format!("| `cvmfs_fuse_{}{suffix}` | {kind} | {} |", one.name, one.help)
            })
            .collect();
        assert_eq!(rows[1..], expected);
    }
}
