//! What every subcommand that reads a repository can be told: raw, as typed.
//!
//! [`super::settings`] turns it into values; no text of the command line travels further.

use std::ffi::OsString;
use std::path::PathBuf;

use super::cache::CacheFlags;

/// The flags about one repository.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Repository")]
pub struct RepositoryFlags {
    /// Servers to ask, in this order, separated by ';'
    ///
    /// Base URLs of the repository with http://, https:// or file://. @fqrn@ stands for its
    /// name, @org@ for the part before the first dot. Without it CVMFS_SERVER_URL of the files
    /// in /etc/cvmfs counts, or else the built-in servers of cern.ch, egi.eu,
    /// opensciencegrid.org and eessi.io.
    #[arg(long, alias = "servers", value_name = "URL[;URL...]")]
    pub server: Option<String>,

    /// Files with master public keys, separated by ':'
    ///
    /// A repository is accepted if one of them signed its whitelist. Without it: the built-in
    /// keys of the domains named under --server, or for other domains the keys in
    /// /etc/cvmfs/keys/DOMAIN/*.pub and /etc/cvmfs/keys/DOMAIN.pub.
    #[arg(long, value_name = "FILE[:FILE...]")]
    pub public_key: Option<OsString>,

    /// Proxies: groups separated by ';', members of a group by '|' [default: DIRECT]
    ///
    /// A group is used up before the next one is tried. DIRECT means no proxy; a proxy without
    /// scheme is taken as http://. Example: squid1:3128|squid2:3128;DIRECT
    #[arg(long, value_name = "SPEC")]
    pub proxy: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub cache: CacheFlags,

    /// Configuration files instead of those of /etc/cvmfs, separated by ':'
    #[arg(long, value_name = "FILE[:FILE...]")]
    pub config: Option<OsString>,

    /// What configuration files say of the blocklist.
    #[arg(skip)]
    pub blocklist: Option<PathBuf>,

    /// What they say of delivery networks.
    #[arg(skip)]
    pub use_cdn: Option<bool>,

    /// Show the snapshot with this tag, for ever
    #[arg(long, value_name = "NAME", group = "snapshot")]
    pub tag: Option<String>,

    /// Show the snapshot with this root catalog, for ever (40 hex digits, -rmd160 or -shake128)
    #[arg(long, value_name = "HASH", group = "snapshot")]
    pub root_hash: Option<String>,

    /// Show the newest tagged snapshot of this time, for ever, e.g. 2026-01-31T12:00:00Z
    #[arg(long, value_name = "RFC3339", group = "snapshot")]
    pub date: Option<String>,

    /// Refuse revisions before this one, e.g. after a mirror served an old one
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub min_revision: u64,

    /// Set a parameter, such as CVMFS_TIMEOUT=10; may be repeated; 'mount --help' lists them
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,

    /// Set a variable for symbolic links such as $(NAME); may be repeated
    ///
    /// CVMFS_FQRN and CVMFS_ARCH are always set. The environment is never looked at.
    #[arg(long, value_name = "NAME=VALUE")]
    pub symlink_variable: Vec<OsString>,
}
