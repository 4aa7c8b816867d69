//! What upstream's `chksetup` looks at besides the files: accounts, directories, limits and disks
//! (spec/config.md section 8).
//!
//! An error is what a mount here would stumble over. A site may keep `cvmfs2` beside us, or come from it:
//! what only that needs is a warning.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, access};

use crate::config::Configuration;
use crate::config::chain::check::Finding;
use crate::config::parameters::user_number;

/// Open files that a client of a site needs.
const OPEN_FILES: u64 = 8192;
/// Percent of the quota that the cache may need for a while.
const MARGIN: u64 = 115;

/// Looks at what one repository, or all, are to be mounted with.
pub(super) fn look(configuration: &Configuration, fqrn: Option<&str>) -> Vec<Finding> {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    let found = [
        open_files(configuration, descriptors),
        logs(configuration, "CVMFS_DEBUGLOG"),
        logs(configuration, "CVMFS_USYSLOG"),
        slow(configuration),
        traces(configuration),
        account(configuration),
        mount_dir(configuration),
        disk(configuration),
        fqrn.and_then(|fqrn| proxies(configuration, fqrn)),
    ];
    let mut findings: Vec<_> = found.into_iter().flatten().collect();
    if descriptors < OPEN_FILES {
        findings.push(warning(
            format!("this user may open {descriptors} files, and busy nodes need {OPEN_FILES}"),
            "raise the limit of open files (ulimit -Hn, LimitNOFILE=)",
        ));
    }
    findings
}

fn warning(text: String, advice: &str) -> Finding {
    Finding { origin: None, text, advice: advice.to_owned(), is_error: false }
}

/// Adds where a parameter stands.
fn about(configuration: &Configuration, name: &str, finding: Finding) -> Option<Finding> {
    let origin = configuration.get(name)?.origin.clone();
    Some(Finding { origin, ..finding })
}

fn open_files(configuration: &Configuration, descriptors: u64) -> Option<Finding> {
    const NAME: &str = "CVMFS_NFILES";
    let text = configuration.text(NAME)?;
    let found = match text.parse::<u64>() {
        Err(_) => Finding {
            is_error: true,
            ..warning(format!("{NAME}={text} is no number"), "give a number of files")
        },
        Ok(count) if count < OPEN_FILES => {
            let text = format!(
                "{NAME}={count} is less than {OPEN_FILES} (here up to {descriptors} are used)"
            );
            warning(text, "give more")
        }
        Ok(_) => return None,
    };
    about(configuration, NAME, found)
}

/// The file may be made at the first message; its directory is not.
fn logs(configuration: &Configuration, name: &str) -> Option<Finding> {
    let file = Path::new(configuration.text(name)?);
    let directory = file.parent()?;
    let trouble = match access(directory, AccessFlags::W_OK | AccessFlags::X_OK) {
        _ if !directory.is_dir() => "is no directory",
        Ok(()) => return None,
        Err(_) => "cannot be written",
    };
    let text = format!("{name}={}: {} {trouble}", file.display(), directory.display());
    let found = warning(text, "make it, or name another file");
    about(configuration, name, Finding { is_error: true, ..found })
}

fn slow(configuration: &Configuration) -> Option<Finding> {
    const NAME: &str = "CVMFS_DEBUGLOG";
    let text = format!("{NAME} is set: everything is logged, which costs time and room");
    about(configuration, NAME, warning(text, "take it away when the fault is found"))
}

fn traces(configuration: &Configuration) -> Option<Finding> {
    const NAME: &str = "CVMFS_TRACEFILE";
    let text = format!("{NAME} is set, and traces are made by 'cvmfs-fuse trace' only");
    about(configuration, NAME, warning(text, "take it away"))
}

fn account(configuration: &Configuration) -> Option<Finding> {
    const NAME: &str = "CVMFS_USER";
    let user = configuration.text(NAME)?;
    if user_number(user).is_some() {
        return None;
    }
    let text = format!("{NAME}={user} is not in /etc/passwd and root serves in its place");
    about(configuration, NAME, warning(text, "make the account, or take the line away"))
}

/// What nobody stated is not looked for: mounts may be anywhere.
fn mount_dir(configuration: &Configuration) -> Option<Finding> {
    const NAME: &str = "CVMFS_MOUNT_DIR";
    let directory = configuration.text(NAME)?;
    let path = Path::new(directory);
    let trouble = match path.metadata() {
        _ if !path.is_absolute() => "is no absolute path",
        Ok(found) if found.is_dir() => return None,
        Ok(_) => "is no directory",
        Err(_) => "is not there",
    };
    let is_error = trouble != "is not there";
    let found = warning(format!("{NAME}={directory} {trouble}"), "make the directory");
    about(configuration, NAME, Finding { is_error, ..found })
}

/// More than the whole partition is an error that is found with the files.
fn disk(configuration: &Configuration) -> Option<Finding> {
    const NAME: &str = "CVMFS_QUOTA_LIMIT";
    let megabytes: u64 = configuration.text(NAME)?.parse().ok()?;
    let quota = megabytes.checked_mul(1 << 20)?;
    let stated = |name| configuration.text(name).map(PathBuf::from);
    let base = stated("CVMFS_CACHE_DIR").or_else(|| stated("CVMFS_CACHE_BASE"))?;
    let present = base.ancestors().find(|path| path.exists())?;
    let found = rustix::fs::statvfs(present).ok()?;
    let size = found.f_blocks.saturating_mul(found.f_frsize);
    is_tight(quota, size).then_some(())?;
    let text = format!(
        "{NAME}={megabytes} leaves less than {} % of it free on the partition of {}, which has {} MiB",
        MARGIN - 100,
        base.display(),
        size >> 20
    );
    about(configuration, NAME, warning(text, "give less"))
}

fn is_tight(quota: u64, size: u64) -> bool {
    quota <= size && quota.saturating_mul(MARGIN) / 100 > size
}

fn proxies(configuration: &Configuration, fqrn: &str) -> Option<Finding> {
    let is_single = configuration.text("CVMFS_CLIENT_PROFILE") == Some("single");
    (configuration.get("CVMFS_HTTP_PROXY").is_none() && !is_single).then(|| {
        let text = format!(
            "{fqrn}: CVMFS_HTTP_PROXY is missing: servers are asked directly (cvmfs2 refuses that)"
        );
        warning(text, "write CVMFS_HTTP_PROXY=DIRECT, if that is meant")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, RepositoryFlags};

    fn found(text: &str) -> Vec<(bool, String)> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("site.conf");
        std::fs::write(&file, text.replace("HERE", dir.path().to_str().unwrap())).unwrap();
        let flags = RepositoryFlags { config: Some(file.into()), ..RepositoryFlags::default() };
        let fqrn = "x.example.org".parse().unwrap();
        let read = Configuration::of(&flags, &Environment::of_process(), Some(&fqrn)).unwrap();
        let findings = look(&read, Some("x.example.org")).into_iter();
        findings
            .filter(|one| !one.text.starts_with("this user may open"))
            .map(|one| (one.is_error, one.text))
            .collect()
    }

    #[test]
    fn what_a_site_has_is_looked_at() {
        let well = "CVMFS_HTTP_PROXY=DIRECT\nCVMFS_NFILES=65536\nCVMFS_USER=root\n\
                    CVMFS_USYSLOG=HERE/log\nCVMFS_MOUNT_DIR=HERE\nCVMFS_QUOTA_LIMIT=1\n\
                    CVMFS_CACHE_BASE=HERE/cache\n";
        assert_eq!(found(well), []);
        for (line, is_error, part) in [
            ("CVMFS_NFILES=100", false, "CVMFS_NFILES=100 is less than 8192"),
            ("CVMFS_NFILES=many", true, "is no number"),
            ("CVMFS_USYSLOG=HERE/none/log", true, "HERE/none is no directory"),
            ("CVMFS_DEBUGLOG=HERE/log", false, "everything is logged"),
            ("CVMFS_TRACEFILE=HERE/trace", false, "cvmfs-fuse trace"),
            ("CVMFS_USER=nobody-at-all", false, "not in /etc/passwd"),
            ("CVMFS_MOUNT_DIR=cvmfs", true, "is no absolute path"),
            ("CVMFS_MOUNT_DIR=HERE/none", false, "is not there"),
            ("CVMFS_MOUNT_DIR=/etc/passwd", true, "is no directory"),
            ("CVMFS_HTTP_PROXY=", false, "CVMFS_HTTP_PROXY is missing"),
        ] {
            let found = found(&format!("{well}{line}\n"));
            assert_eq!(found.len(), 1, "{line}: {found:?}");
            let part = part.trim_start_matches("HERE");
            assert!(found[0].0 == is_error && found[0].1.contains(part), "{line}: {found:?}");
        }
    }

    #[test]
    fn a_quota_needs_some_room() {
        for (quota, size, tight) in
            [(100, 116, false), (100, 114, true), (100, 100, true), (101, 100, false)]
        {
            assert_eq!(is_tight(quota, size), tight, "{quota} of {size}");
        }
    }
}
