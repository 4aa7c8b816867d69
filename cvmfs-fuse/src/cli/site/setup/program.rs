//! Programs of the system.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::error::SetupError;

/// Where systems have what root calls. Not those of `PATH`, which under sudo and cron often lacks half of
/// them, and in which somebody else may have put something.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Finds a program.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file())
}

/// Returns how a command of busybox is called, which may have a name of its own or not.
pub(super) fn of_busybox(name: &'static str) -> Option<(PathBuf, Vec<&'static str>)> {
    find(name)
        .map(|path| (path, Vec::new()))
        .or_else(|| find("busybox").map(|path| (path, vec![name])))
}

/// Runs a program that must succeed; returns the command line for messages.
pub(super) fn run<A: AsRef<OsStr>>(path: &Path, words: &[A]) -> Result<String, SetupError> {
    let command = shown(path, words);
    let output = output(path, words)?;
    if output.status.success() {
        return Ok(command);
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    Err(SetupError::Failed { command, said: last.map_or(output.status.to_string(), str::to_owned) })
}

/// Runs a program, however it ends.
pub(super) fn output<A: AsRef<OsStr>>(path: &Path, words: &[A]) -> Result<Output, SetupError> {
    Command::new(path)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| SetupError::Start { command: shown(path, words), source })
}

fn shown<A: AsRef<OsStr>>(path: &Path, words: &[A]) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let all = [name].into_iter().chain(words.iter().map(AsRef::as_ref));
    all.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_told_with_its_last_line() {
        let sh = find("sh").unwrap();
        assert_eq!(run(&sh, &["-c", "true"]).unwrap(), "sh -c true");
        for (script, expected) in [
            ("echo one; echo two >&2; echo; exit 3", "failed: two"),
            ("exit 3", "failed: exit status: 3"),
        ] {
            let error = run(&sh, &["-c", script]).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
        assert_eq!(find("no-such-program"), None);
    }
}
