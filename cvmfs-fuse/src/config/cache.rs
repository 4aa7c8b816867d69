//! Where downloaded objects are kept: flags, and from flags to an open store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cvmfs_cache::{
    AlienCache, BrokerError, BrokeredCache, DiskCache, DiskCacheOptions, Quota, Sharing,
};
use cvmfs_core::cache::{LowerUse, ObjectCache, StreamingCache, TieredCache};
use cvmfs_core::chain::chain;

use super::account::Account;
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

    /// Limit of the cache: 20G, 80% (of the partition), auto or unlimited
    ///
    /// The least recently used objects go when it is reached. The last one given for a directory
    /// counts for all that give none; at first that is auto, which takes a half of the partition
    /// at most and leaves a tenth of it free, or 10 GiB; where less is free, a quarter of that.
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<String>,

    /// Who writes to the cache directory [default: auto]
    #[arg(long, value_name = "MODE")]
    pub cache_mode: Option<CacheMode>,

    /// Socket of the cache broker [default: /run/cvmfs-fuse/broker.sock]
    #[arg(long, value_name = "SOCKET")]
    pub cache_broker: Option<PathBuf>,

    /// Number of the user as whom the broker runs, besides root and this user
    #[arg(long, value_name = "UID")]
    pub cache_broker_user: Option<u32>,

    /// Keep objects in this directory, in the layout of cvmfs2's alien cache; nothing is evicted
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quota", "cache_mode"])]
    pub alien_cache: Option<PathBuf>,

    /// Look for objects here before they are downloaded (layout of cvmfs2's alien cache)
    ///
    /// What is found is copied to the cache. For a directory that was filled by preload, or that
    /// a site keeps on a cluster file system.
    #[arg(long, value_name = "DIR")]
    pub lower_cache: Option<PathBuf>,

    /// Also write what is downloaded to the lower cache
    #[arg(long, requires = "lower_cache")]
    pub lower_cache_write: bool,

    /// Keep catalogs only; the content of files is downloaded at each open
    #[arg(long)]
    pub streaming_cache: bool,
}

/// Who writes to the cache directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum CacheMode {
    /// This process, where only trusted users can write to the directory; otherwise a broker
    #[default]
    Auto,
    /// This process, whoever else can write there: all of them are trusted
    Direct,
    /// A broker ('cvmfs-fuse cache broker'), for users who do not trust each other
    Broker,
}

/// Write permission for the group and for everybody.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The settings of a store.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// Where downloaded objects are kept; absolute.
    pub directory: PathBuf,
    /// How much.
    pub quota: Quota,
    /// Who writes.
    pub mode: CacheMode,
    /// Where the broker listens.
    pub broker: PathBuf,
    /// Its user.
    pub broker_user: Option<u32>,
    /// Instead of the directory, in upstream's layout.
    pub alien: Option<PathBuf>,
    /// Below the directory, in upstream's layout.
    pub lower: Option<(PathBuf, LowerUse)>,
    /// The content of files is not stored.
    pub streaming: bool,
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
        let lower_use = match flags.lower_cache_write {
            true => LowerUse::ReadWrite,
            false => LowerUse::ReadOnly,
        };
        let broker = flags.cache_broker.clone();
        let settings = Self {
            directory,
            log_directories,
            quota: quota
                .map_err(|error| Failure::new(ExitStatus::Options, format!("--quota: {error}")))?
                .unwrap_or_default(),
            mode: flags.cache_mode.unwrap_or_default(),
            broker: usable(&broker.unwrap_or_else(|| environment.default_broker()))?,
            broker_user: flags.cache_broker_user,
            alien: flags.alien_cache.as_deref().map(usable).transpose()?,
            lower: flags
                .lower_cache
                .as_deref()
                .map(usable)
                .transpose()?
                .map(|dir| (dir, lower_use)),
            streaming: flags.streaming_cache,
        };
        Ok(settings)
    }

    /// Lets a command of root work on a private cache of another user as that user, from now on.
    pub fn act_as_owner(&self) -> Result<(), Failure> {
        let Some(account) = Account::of_cache(&self.directory) else { return Ok(()) };
        tracing::debug!(user = account.shown(), "working on a cache of that user");
        account.assume().map_err(|errno| {
            let what = format!("cannot work as {} on its cache", account.shown());
            Failure::caused(ExitStatus::Permission, &what, &errno)
        })
    }

    /// Opens the store with all its layers.
    pub fn open(&self) -> Result<Arc<dyn ObjectCache>, Failure> {
        let mut store: Arc<dyn ObjectCache> = match &self.alien {
            Some(directory) => Arc::new(self.open_alien(directory)?),
            None => self.open_own()?,
        };
        if let Some((directory, lower_use)) = &self.lower {
            let lower = AlienCache::open(directory).map_err(|error| unusable(directory, &error))?;
            store = Arc::new(TieredCache::new(store, Arc::new(lower), *lower_use));
        }
        if self.streaming {
            store = Arc::new(StreamingCache::new(store));
        }
        Ok(store)
    }

    /// Opens the alien cache; what only concerns this machine is kept in the directory.
    pub fn open_alien(&self, directory: &Path) -> Result<AlienCache, Failure> {
        let alien = AlienCache::open(directory).map_err(|error| unusable(directory, &error))?;
        Ok(match self.open_directory() {
            Ok(records) => alien.with_records(Arc::new(records)),
            Err(failure) => {
                tracing::info!("{}; nothing but the alien cache is used", failure.message);
                alien
            }
        })
    }

    fn open_own(&self) -> Result<Arc<dyn ObjectCache>, Failure> {
        match self.mode {
            CacheMode::Direct => Ok(Arc::new(self.open_directory()?)),
            CacheMode::Broker => {
                let broker = self.connect().map_err(|error| {
                    Failure::caused(ExitStatus::CacheDirectory, "--cache-mode broker", &error)
                        .advise("start one with 'cvmfs-fuse cache broker --cache-dir DIR'")
                })?;
                self.say("broker", "--cache-mode broker was given");
                Ok(Arc::new(broker))
            }
            CacheMode::Auto => match self.open_directory() {
                Ok(cache) => Ok(Arc::new(cache)),
                Err(failure) => match self.connect() {
                    Ok(broker) => {
                        let refused = failure.message;
                        self.say("broker", &format!("the directory cannot be used directly ({refused}), and a broker answers on {}", self.broker.display()));
                        Ok(Arc::new(broker))
                    }
                    Err(error) => {
                        tracing::debug!(error = chain(&error), "no broker either");
                        Err(failure)
                    }
                },
            },
        }
    }

    fn connect(&self) -> Result<BrokeredCache, BrokerError> {
        BrokeredCache::connect(&self.broker, self.broker_user)
    }

    /// Tells whether nobody but this user, or a broker, can change what is stored. What the kernel reads by itself
    /// is not looked at again after it was verified.
    pub fn is_only_ours(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;

        if self.alien.is_some() || self.lower.is_some() || self.mode == CacheMode::Direct {
            return false;
        }
        let is_shared = |found: std::fs::Metadata| found.mode() & WRITABLE_BY_OTHERS != 0;
        // A new one will be ours alone.
        self.mode == CacheMode::Broker || !std::fs::metadata(&self.directory).is_ok_and(is_shared)
    }

    /// Opens the directory itself.
    pub fn open_directory(&self) -> Result<DiskCache, Failure> {
        let options = DiskCacheOptions {
            quota: self.quota,
            trust_anyone: self.mode == CacheMode::Direct,
            ..DiskCacheOptions::default()
        };
        let opened = DiskCache::open_with(&self.directory, options)
            .map_err(|error| unusable(&self.directory, &error))?;
        self.say("direct", &reason(opened.sharing()));
        Ok(opened)
    }

    fn say(&self, mode: &str, reason: &str) {
        tracing::info!(directory = %self.directory.display(), reason, "cache mode {mode}");
    }
}

fn unusable(directory: &Path, error: &cvmfs_core::cache::CacheError) -> Failure {
    use std::os::unix::fs::MetadataExt as _;

    let what = format!("cache directory {}", directory.display());
    let failure = Failure::caused(ExitStatus::CacheDirectory, &what, error);
    let us = nix::unistd::geteuid().as_raw();
    match std::fs::metadata(directory) {
        // As when CVMFS_USER was set after root had used it.
        Ok(found) if found.uid() != us && is_refused(error) => failure.advise(&format!(
            "it belongs to user {}: hand it over with 'chown -R {us} {}', or choose another one \
             with --cache-dir",
            found.uid(),
            directory.display()
        )),
        _ => failure.advise("choose another one with --cache-dir"),
    }
}

/// Whether the system forbids it, whatever else may be wrong.
fn is_refused(error: &cvmfs_core::cache::CacheError) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Says why this process may use a directory itself.
pub fn reason(sharing: Sharing) -> String {
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

fn usable(path: &Path) -> Result<PathBuf, Failure> {
    absolute(path).map_err(|error| {
        let what = format!("cannot use {:?}", path.as_os_str());
        Failure::caused(ExitStatus::CacheDirectory, &what, &error)
    })
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
    usable(&dir)
}
