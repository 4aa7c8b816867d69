//! How what is measured is written down (OpenMetrics 1.0).

use std::fmt::Write as _;

use crate::talk::figures::{METRICS, Metric};
use crate::talk::mounts::Found;

/// The type that a page of them has.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes all metrics of all mounts.
pub fn text(found: &[Found]) -> String {
    let mut text = String::from(
        "# TYPE cvmfs_fuse_up gauge\n# HELP cvmfs_fuse_up 1 if the server of the mount answers.\n",
    );
    for mount in found {
        let labels = format!(
            "mountpoint=\"{}\",device=\"{}\"",
            escaped(&mount.mount.mountpoint.to_string_lossy()),
            escaped(&mount.mount.device)
        );
        let _ = writeln!(text, "cvmfs_fuse_up{{{labels}}} {}", u8::from(mount.status.is_ok()));
    }
    let all: Vec<_> = found.iter().flat_map(|found| found.status.iter().flatten()).collect();
    for Metric { name, is_counter, help, value, .. } in METRICS {
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
    crate::escape::one_line(label).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::address::{Address, SeenMount};
    use crate::talk::client::AskError;
    use crate::talk::report::RepositoryStatus;

    #[test]
    fn a_page_of_one_mount_and_a_silent_one() {
        let status = RepositoryStatus {
            repository: "a.b.c".to_owned(),
            mountpoint: "/m \"x\"".into(),
            revision: 7,
            hits: 3,
            ..RepositoryStatus::default()
        };
        let found = |mountpoint: &str, status| {
            let (mountpoint, device) = (mountpoint.into(), "0:1".to_owned());
            let mount = SeenMount { device, mountpoint, user: None, looks_ours: true };
            Found { mount, status }
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
