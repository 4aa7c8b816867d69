//! The page in a real browser, which is given no network at all.

use std::path::Path;
use std::process::{Command, Output};

use crate::text;

/// Chromium without a window, in a network namespace of its own.
fn chromium(arguments: &[&str], page: &str) -> Output {
    let profile = tempfile::tempdir().unwrap();
    Command::new("timeout")
        .args(["--kill-after=5", "90", "unshare", "--net", "chromium"])
        // As root, and maybe in a container: there it has no sandbox.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-extensions", "--hide-scrollbars"])
        .args(["--window-size=1100,2400"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(page)
        .output()
        .expect("timeout and unshare are there")
}

fn screenshot(page: &str, file: &Path) -> Vec<u8> {
    let output = chromium(&[&format!("--screenshot={}", file.display())], page);
    std::fs::read(file).unwrap_or_else(|error| {
        panic!("no screenshot ({error}), is chromium installed? {}", text(&output.stderr))
    })
}

/// Renders the page: it shows all servers and faults, with drawings, and needs nothing from outside.
pub(crate) fn check(page: &Path, faults: &[&str], mirrors: usize) {
    let source = std::fs::read_to_string(page).unwrap();
    for outside in ["http-equiv='refresh", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!source.contains(outside), "{outside} in the page");
    }
    let url = format!("file://{}", page.display());
    let output = chromium(&["--dump-dom"], &url);
    let dom = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = dom.split("<table id=\"mirrors\">").nth(1).unwrap_or_else(|| panic!("{dom}"));
    let rows = rows.split("</table>").next().unwrap().matches("<tr>").count();
    assert_eq!(rows, mirrors + 1, "{dom}");
    for fault in faults {
        assert!(dom.contains(&format!("class=\"problem\">{fault}<")), "no {fault} in {dom}");
    }
    // Steps, rates by three sizes, ages, whitelists, orders.
    assert_eq!(dom.matches("<svg").count(), 7, "{dom}");
    assert!(dom.matches("<rect").count() > 20 && dom.contains("class=\"moved\""), "{dom}");
    let directory = tempfile::tempdir().unwrap();
    let blank = screenshot("about:blank", &directory.path().join("blank.png"));
    let shown = screenshot(&url, &directory.path().join("page.png"));
    for picture in [&blank, &shown] {
        assert!(picture.starts_with(b"\x89PNG"));
    }
    // A picture of one colour is compressed to next to nothing.
    assert!(shown.len() > 4 * blank.len(), "{} and {} bytes", shown.len(), blank.len());
    if let Some(kept) = std::env::var_os("CVMFS_FUSE_KEEP_PAGE") {
        std::fs::copy(page, Path::new(&kept).join("mirrors.html")).unwrap();
        std::fs::write(Path::new(&kept).join("mirrors.png"), shown).unwrap();
    }
}
