//! Autofs as a service of systemd.

use std::path::Path;

use super::error::SetupError;
use super::{Said, directory, program};
use crate::fuse::mountinfo::show;

/// Exists exactly where systemd runs.
const RUNNING: &str = "/run/systemd/system";
/// Relative to `/etc`.
const UNITS: &str = "systemd/system";
const ADDITIONS: &str = "systemd/system/autofs.service.d";
const ADDITION: &str = "systemd/system/autofs.service.d/cvmfs.conf";
const TEXT: &str = "\
# Servers of mounts are children of autofs: they are to go on when it is stopped or restarted.
[Service]
KillMode=process
";

/// Lets mounts outlive a restart of autofs; tells whether systemd has to look again.
pub(super) fn keep_mounts(etc: &Path, said: &mut Said) -> Result<bool, SetupError> {
    if !etc.join(UNITS).is_dir() || says_how(&etc.join(ADDITIONS)) {
        return Ok(false);
    }
    let path = etc.join(ADDITION);
    let is_new = directory::write_new(&path, TEXT)?;
    if is_new {
        said.done(&format!("wrote {}: mounts go on while autofs restarts", show(&path)))?;
    }
    Ok(is_new)
}

/// Whether somebody has decided already what ends with autofs.
fn says_how(additions: &Path) -> bool {
    let entries = std::fs::read_dir(additions).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .any(|text| text.lines().any(|line| line.trim_start().starts_with("KillMode")))
}

/// Enables and starts autofs; one that runs is told to look again, if there is something new.
pub(super) fn start(is_new: bool, has_unit: bool, said: &mut Said) -> Result<(), SetupError> {
    let systemctl = program::find("systemctl").filter(|_| Path::new(RUNNING).is_dir());
    let Some(systemctl) = systemctl else {
        return said.note("systemd does not run here: start autofs as this system does it");
    };
    let call = |words: &[&str]| program::run(&systemctl, words).map(drop);
    let is = |word: &str| {
        let output = program::output(&systemctl, &[word, "--quiet", "autofs.service"])?;
        Ok::<_, SetupError>(output.status.success())
    };
    if has_unit {
        call(&["daemon-reload"])?;
    }
    if !is("is-enabled")? {
        call(&["enable", "autofs.service"])?;
        said.done("enabled autofs")?;
    }
    if !is("is-active")? {
        call(&["start", "autofs.service"])?;
        said.done("started autofs")?;
    } else if is_new {
        call(&["reload", "autofs.service"])?;
        said.done("reloaded autofs")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_decided_about_the_service_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let keep = || keep_mounts(scratch.path(), &mut Said::default()).unwrap();
        assert!(!keep(), "no systemd");
        std::fs::create_dir_all(scratch.path().join(UNITS)).unwrap();
        assert!(keep());
        let path = scratch.path().join(ADDITION);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), TEXT);
        assert!(!keep());
        std::fs::rename(&path, scratch.path().join(ADDITIONS).join("site.conf")).unwrap();
        assert!(!keep());
        assert!(!path.exists());
    }
}
