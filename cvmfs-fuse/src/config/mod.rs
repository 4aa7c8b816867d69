//! Settings: from what was typed, from this machine, and from built-in knowledge.
//!
//! Raw, then typed: [`RepositoryFlags`] is what clap read, [`RepositorySettings`] and
//! [`MountSettings`] hold values only. This is the only part of the program that reads the
//! environment and `/etc/cvmfs`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`chain`] | the files of `/etc/cvmfs` |
//! | [`environment`] | variables and places of this machine |
//! | [`flags`] | the flags about a repository, as typed |
//! | [`inspect`] | from settings to what each server says |
//! | [`known`] | servers and master keys of the well-known domains |
//! | [`options`] | the `-o` list |
//! | [`parameters`] | `--set NAME=VALUE` |
//! | [`account`] | as whom a server works that root starts |
//! | [`automount`] | which repositories one mount shows |
//! | [`cache`] | where objects are kept: flags, and the open store |
//! | [`settings`] | everything as values |
//! | `trust` | which keys and which blocklist |
//! | [`open`] | from settings to an open repository; the exit code of each failure |

pub mod account;
pub mod automount;
pub mod cache;
pub mod chain;
pub mod environment;
pub mod flags;
pub mod inspect;
pub mod known;
pub mod open;
pub mod options;
pub mod parameters;
pub mod settings;
mod trust;

/// Reads a file of at most `limit` bytes.
pub fn read_bounded(path: &std::path::Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

pub use account::Account;
pub use automount::{AutomountFlags, AutomountSettings};
pub use cache::{CacheFlags, CacheSettings};
pub use chain::Configuration;
pub use environment::Environment;
pub use flags::RepositoryFlags;
pub use options::MountOptions;
pub use settings::{
    MountSettings, ProcessSettings, RepositorySettings, listed_servers, parse_fqrn,
};
