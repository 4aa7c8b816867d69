//! Flags of `cache`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::help;
use crate::config::RepositoryFlags;

/// Which cache directory.
#[derive(Debug, Clone, Args)]
pub struct CacheDirectory {
    /// Directory for downloaded objects [default: as for mount]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// Use it even if every user of this machine can write to it
    #[arg(long)]
    pub trust_anyone: bool,
}

/// The subcommands of `cache`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Show how full it is, who uses it, and who may write to it
    Info(CacheInfoArgs),
    /// List the objects, last used first
    Ls(CacheLsArgs),
    /// Compare every object with its checksum
    Check(CacheCheckArgs),
    /// Remove the objects of files, or those with a hash
    #[command(after_long_help = help::CACHE_EVICT)]
    Evict(Box<CacheEvictArgs>),
    /// Remove the objects that were not used for the longest time
    Clean(CacheCleanArgs),
    /// Remove everything; mounts that use it go on and fill it again
    Wipe(CacheInfoArgs),
    /// Serve a cache to users who do not trust each other
    #[command(after_long_help = help::CACHE_BROKER)]
    Broker(CacheBrokerArgs),
}

/// `cache info`, `cache wipe`.
#[derive(Debug, Args)]
pub struct CacheInfoArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub directory: CacheDirectory,

    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `cache ls`.
#[derive(Debug, Args)]
pub struct CacheLsArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub directory: CacheDirectory,

    /// Show so many at most
    #[arg(short, long, value_name = "COUNT")]
    pub number: Option<u64>,

    /// One JSON object a line: name, size, used (milliseconds since 1970), volatile, label
    #[arg(long)]
    pub json: bool,
}

/// `cache check`.
#[derive(Debug, Args)]
pub struct CacheCheckArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub directory: CacheDirectory,

    /// Set damaged objects aside, so that they are fetched again, and put the index right
    #[arg(long)]
    pub repair: bool,

    /// Threads [default: one for each core]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<usize>,

    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `cache evict`.
#[derive(Debug, Args)]
pub struct CacheEvictArgs {
    /// Files, or content hashes
    #[arg(required = true, value_name = "FQRN:/PATH|HASH")]
    pub targets: Vec<OsString>,

    /// One JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,
}

/// `cache clean`.
#[derive(Debug, Args)]
pub struct CacheCleanArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub directory: CacheDirectory,

    /// What may be left, e.g. 5G; 0: only what live mounts pin
    #[arg(long, value_name = "SIZE")]
    pub to: String,

    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `cache broker`.
#[derive(Debug, Args)]
pub struct CacheBrokerArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub directory: CacheDirectory,

    /// Limit of the cache, as for mount
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<String>,

    /// Where to listen [default: /run/cvmfs-fuse/broker.sock]
    #[arg(long, value_name = "SOCKET")]
    pub socket: Option<PathBuf>,

    /// Who may connect besides root and this user: UID, @GID (primary group), or all; repeatable
    #[arg(long, value_name = "WHO")]
    pub allow: Vec<String>,
}
