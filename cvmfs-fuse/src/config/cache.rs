//! Where downloaded objects are kept: flags, and from flags to an open store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cvmfs_cache::{DiskCache, DiskCacheOptions, Quota, Sharing};
use cvmfs_core::cache::ObjectCache;

use super::environment::{Environment, absolute};
use crate::cli::exit::{ExitStatus, Failure};

/// The flags about the cache: raw, as typed.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheFlags {
    /// Directory for downloaded objects
    ///
    /// [default: /var/lib/cvmfs-fuse for root, otherwise $XDG_CACHE_HOME/cvmfs-fuse or
    /// ~/.cache/cvmfs-fuse]. Repositories, processes and containers may share it; users may if it
    /// belongs to a group of theirs: chgrp GROUP DIR && chmod 2770 DIR.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// Limit of the cache: 20G, 80% (of the partition), auto, unlimited [default: auto]
    ///
    /// The least recently used objects go when it is reached. auto leaves a tenth of the partition
    /// free and takes a half of it at most. Processes that share a cache should give the same.
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<String>,

    /// Who writes to the cache directory [default: auto]
    #[arg(long, value_name = "MODE")]
    pub cache_mode: Option<CacheMode>,
}

/// Who writes to the cache directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum CacheMode {
    /// This process, where only trusted users can write to the directory; otherwise a broker
    #[default]
    Auto,
    /// This process, whoever else can write there: all of them are trusted
    Direct,
}

/// The settings of a store.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// Where downloaded objects are kept; absolute.
    pub directory: PathBuf,
    /// How much.
    pub quota: Quota,
    /// Who writes.
    pub mode: CacheMode,
    /// Where a background mount may write its log, the first choice first.
    pub log_directories: Vec<PathBuf>,
}

impl CacheSettings {
    /// Resolves the flags.
    pub fn resolve(flags: &CacheFlags, environment: &Environment) -> Result<Self, Failure> {
        let quota = flags.quota.as_deref().map(str::parse::<Quota>).transpose();
        let directory = cache_dir(flags.cache_dir.as_deref(), environment)?;
        let mut log_directories = vec![directory.clone()];
        log_directories.extend(environment.default_cache_dir());
        log_directories.push(environment.scratch_dir());
        Ok(Self {
            directory,
            log_directories,
            quota: quota
                .map_err(|error| Failure::new(ExitStatus::Options, format!("--quota: {error}")))?
                .unwrap_or_default(),
            mode: flags.cache_mode.unwrap_or_default(),
        })
    }

    /// Opens the store.
    pub fn open(&self) -> Result<Arc<dyn ObjectCache>, Failure> {
        Ok(Arc::new(self.open_directory()?))
    }

    /// Opens the directory itself.
    pub fn open_directory(&self) -> Result<DiskCache, Failure> {
        let options = DiskCacheOptions {
            quota: self.quota,
            trust_anyone: self.mode == CacheMode::Direct,
            ..DiskCacheOptions::default()
        };
        let opened = DiskCache::open_with(&self.directory, options).map_err(|error| {
            let what = format!("cache directory {}", self.directory.display());
            Failure::caused(ExitStatus::CacheDirectory, &what, &error)
                .advise("choose another one with --cache-dir")
        })?;
        tracing::info!(directory = %self.directory.display(), reason = reason(opened.sharing()), "cache mode direct");
        Ok(opened)
    }
}

/// Says why this process may use the directory itself.
fn reason(sharing: Sharing) -> String {
    match sharing {
        Sharing::Private => "only this user can write to the directory".to_owned(),
        Sharing::Group(gid) => format!(
            "the directory is shared with group {gid}, whose members are trusted not to forge \
             objects; damage is found by checksums"
        ),
        Sharing::Anyone => {
            "--cache-mode direct was given: every user of this machine is trusted".to_owned()
        }
    }
}

fn cache_dir(flag: Option<&Path>, environment: &Environment) -> Result<PathBuf, Failure> {
    let dir = match flag {
        Some(dir) => dir.to_owned(),
        None => environment.default_cache_dir().ok_or_else(|| {
            Failure::new(
                ExitStatus::CacheDirectory,
                "no place for the cache: neither XDG_CACHE_HOME nor HOME is set; give --cache-dir",
            )
        })?,
    };
    absolute(&dir).map_err(|error| {
        let what = format!("cannot use cache directory {:?}", dir.as_os_str());
        Failure::caused(ExitStatus::CacheDirectory, &what, &error)
    })
}
