//! Each fuzz target is listed, documented and has a seed: one that is forgotten fuzzes nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Returns what `name` makes of each entry of a directory.
fn entries(directory: &Path, name: impl Fn(&Path) -> Option<String>) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{directory:?}: {e}"));
    entries.filter_map(|entry| name(&entry.unwrap().path())).collect()
}

fn stem(path: &Path) -> Option<String> {
    (path.extension()? == "rs").then(|| path.file_stem().unwrap().to_str().unwrap().to_owned())
}

/// The name of a directory with a file that is not empty.
fn seeded(path: &Path) -> Option<String> {
    let mut files = std::fs::read_dir(path).ok()?;
    let has_content = files.any(|file| file.unwrap().metadata().unwrap().len() > 0);
    has_content.then(|| path.file_name().unwrap().to_str().unwrap().to_owned())
}

#[test]
fn m1_each_fuzz_target_is_listed_documented_and_seeded() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let script = std::fs::read_to_string(root.join(".ci/fuzz")).unwrap();
    for name in ["cvmfs-core", "cvmfs-fuse"] {
        let home = root.join(name).join("fuzz");
        let targets = entries(&home.join("fuzz_targets"), stem);
        assert!(!targets.is_empty(), "{name}");
        let manifest = std::fs::read_to_string(home.join("Cargo.toml")).unwrap();
        let listed =
            manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
        let listed: BTreeSet<_> =
            listed.filter_map(|file| file.strip_suffix(".rs\"")).map(str::to_owned).collect();
        assert_eq!(listed, targets, "Cargo.toml of {name}");
        assert_eq!(entries(&home.join("seeds"), seeded), targets, "seeds of {name}");
        let page = std::fs::read_to_string(home.join("README.md")).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(rows.map(str::to_owned).collect::<BTreeSet<_>>(), targets, "README of {name}");
        assert!(script.contains(&format!("{name}/fuzz")), ".ci/fuzz leaves {name} out");
    }
}
