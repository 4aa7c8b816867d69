//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::fuse::mountinfo::show;

/// Why a machine could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    #[error("{word:?} is no option; there are nouser, nocfgmod, nostart and noautofs")]
    Option { word: String },
    #[error("this needs root; run it with sudo, or leave it out: mounts of a user need no setup")]
    NotRoot,
    #[error("{name} has no value; set it in /etc/cvmfs/default.local")]
    Unset { name: &'static str },
    #[error("{name}={} must begin with /; correct it in /etc/cvmfs/default.local", show(value))]
    Relative { name: &'static str, value: PathBuf },
    #[error(
        "CVMFS_USER={name} cannot be made: a name has letters, digits, '_', '-' and '.', and is no \
         number; correct it in /etc/cvmfs/default.local, or add 'nouser'"
    )]
    UserName { name: String },
    #[error("a line of autofs cannot name {}; choose a CVMFS_MOUNT_DIR without spaces", show(path))]
    Spaces { path: PathBuf },
    #[error("cannot make directory {}", show(path))]
    Directory { path: PathBuf, source: io::Error },
    #[error("{} is in the way; move it, or set {name} to a directory", show(path), name = parameter)]
    InTheWay { path: PathBuf, parameter: &'static str },
    #[error("cannot give {} to user {uid}", show(path))]
    Owner { path: PathBuf, uid: u32, source: io::Error },
    #[error(
        "{path} can be changed by others than root (user {owner}, group {group}, mode {mode:o}), and programs of \
         root take commands from it; look at what is there, then: chown root:root {path} && chmod go-w {path}",
        path = show(path)
    )]
    Changeable { path: PathBuf, owner: u32, group: u32, mode: u32 },
    #[error("cannot read {}", show(path))]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", show(path))]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot find the file of this program, which autofs is to call")]
    Program { source: io::Error },
    #[error(
        "autofs does not read {}; add the line '+dir:{}' to {}, and run this again",
        show(directory),
        show(directory),
        show(master)
    )]
    NotRead { directory: PathBuf, master: PathBuf },
    #[error("{task} needs {names}, and none is installed; install it, or add '{without}'")]
    Missing { task: String, names: &'static str, without: &'static str },
    #[error("cannot run {command}")]
    Start { command: String, source: io::Error },
    #[error("'{command}' failed: {said}")]
    Failed { command: String, said: String },
    #[error("'{command}' made no account {name}; make it by other means, or add 'nouser'")]
    NotMade { command: String, name: String },
    #[error("{0}")]
    Print(String),
}
