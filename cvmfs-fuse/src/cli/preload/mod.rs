//! `preload`: downloads a repository, or parts of it, ahead of use.
//!
//! Two walks: the first loads the catalogs and adds up what is wanted, so that the second can say
//! how long it will take. What the cache has already is not downloaded again, so a command that
//! was interrupted is just repeated.

mod selection;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cvmfs_cache::{AlienCache, Breadcrumb};
use cvmfs_core::cache::ObjectCache;
use cvmfs_core::chain::chain;
use cvmfs_core::decode::SizeBound;
use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::object::{ObjectId, ObjectKind};
use cvmfs_core::path::RepoPath;
use cvmfs_core::repository::Repository;
use futures_util::StreamExt as _;
use futures_util::stream;
use indicatif::BinaryBytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;

use super::args::PreloadArgs;
use super::exit::{ExitStatus, Failure};
use super::progress::Progress;
use super::{complain, read};
use crate::config::{Environment, RepositorySettings};
use selection::Selection;
use walk::{Found, Wanted, walk};

/// Objects found ahead of those that are being downloaded.
const AHEAD: usize = 1024;
/// Failures that are told one by one.
const MAX_TOLD: usize = 10;
/// Largest history and description worth having, as for a mount.
const MAX_HISTORY: u64 = 64 << 20;
/// Most downloads at a time; servers and proxies are shared with others.
const MAX_PARALLEL: usize = 64;

/// What was done for one repository.
#[derive(Debug, Clone, Serialize)]
struct Report {
    fqrn: String,
    revision: u64,
    objects: u64,
    bytes: u64,
    downloaded: u64,
    downloaded_bytes: u64,
    failed: u64,
    /// Downloaded, and not stored: the cache is full or fails.
    not_kept: u64,
    seconds: f64,
}

/// Preloads all targets.
pub(super) fn run(args: &PreloadArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let selection = args.list.as_deref().map(Selection::read).transpose()?.unwrap_or_default();
    let mut repositories: BTreeMap<Fqrn, Vec<RepoPath>> = BTreeMap::new();
    for text in &args.targets {
        let target = read::Target::parse(text)?;
        repositories.entry(target.fqrn).or_default().push(target.path);
    }
    super::runtime()?.block_on(async {
        let mut status = ExitStatus::Ok;
        let count = repositories.len();
        for (fqrn, paths) in repositories {
            let settings = RepositorySettings::resolve(fqrn, &args.repository, environment)?;
            settings.act_as_owner()?;
            let alien = match &settings.cache.alien {
                Some(directory) => Some(Arc::new(settings.cache.open_alien(directory)?)),
                None => None,
            };
            let cache: Arc<dyn ObjectCache> = match &alien {
                Some(alien) => Arc::clone(alien) as _,
                None => settings.cache.open()?,
            };
            let repository = settings.open_with(cache, count).await?;
            let report = preload(&repository, &paths, &selection, args).await?;
            if let (Some(alien), 0) = (&alien, report.failed) {
                leave_breadcrumb(alien, &repository)?;
            }
            tell(&report, args.json)?;
            if report.failed > 0 {
                status = ExitStatus::Unknown;
            } else if report.not_kept > 0 && status == ExitStatus::Ok {
                status = ExitStatus::Quota;
            }
        }
        Ok(status)
    })
}

async fn preload(
    repository: &Repository,
    paths: &[RepoPath],
    selection: &Selection,
    args: &PreloadArgs,
) -> Result<Report, Failure> {
    let start = Instant::now();
    let revision = repository.current();
    let mut roots = Vec::new();
    for path in paths {
        roots.push(read::resolve(&revision, path).await?);
    }
    let counters = Counters::default();

    let looking = Progress::bytes("looking", 0);
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let counted = async {
        let (mut objects, mut bytes) = (0_u64, 0_u64);
        while let Some(found) = receiver.recv().await {
            if let Found::Object(wanted) = found {
                objects += 1;
                bytes += wanted.size;
                looking.set(bytes, || format!("in {objects} objects"));
            }
        }
        (objects, bytes)
    };
    let walked = async {
        walk(&revision, &roots, selection, &sender).await;
        drop(sender);
    };
    let ((objects, bytes), ()) = tokio::join!(counted, walked);
    looking.end();
    let usage = repository.cache().usage();
    if args.repository.cache.alien_cache.is_none() && bytes > usage.limit {
        let message = format!(
            "{}: {} are wanted, and the cache may hold {}",
            repository.fqrn(),
            BinaryBytes(bytes),
            BinaryBytes(usage.limit)
        );
        let failure = Failure::new(ExitStatus::Quota, message);
        return Err(failure.advise("give a larger --quota, another --cache-dir, or fewer paths"));
    }

    let progress = Progress::bytes("downloading", bytes);
    let (sender, receiver) = mpsc::channel(AHEAD);
    let receiver = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|found| (found, receiver))
    });
    let parallel = args.parallel.clamp(1, MAX_PARALLEL);
    let fetched = receiver.for_each_concurrent(parallel, |found| async {
        match found {
            Found::Object(wanted) => fetch(repository, wanted, &counters).await,
            Found::Failed(path, reason) => counters.fail(&format!("{path}: {reason}")),
        }
        let done = counters.bytes.load(Ordering::Relaxed);
        progress.set(done, || {
            format!("({} of {objects} objects)", counters.objects.load(Ordering::Relaxed))
        });
    });
    let walked = async {
        walk(&revision, &roots, selection, &sender).await;
        drop(sender);
    };
    tokio::join!(fetched, walked);
    progress.end();
    fetch_letters(repository, &counters).await;
    for line in counters.told.lock().iter() {
        complain(&Failure::new(ExitStatus::Unknown, line.clone()));
    }
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Report {
        fqrn: repository.fqrn().to_string(),
        revision: revision.number(),
        objects: load(&counters.objects),
        bytes: load(&counters.bytes),
        downloaded: load(&counters.downloaded),
        downloaded_bytes: load(&counters.downloaded_bytes),
        failed: load(&counters.failed),
        not_kept: load(&counters.not_kept),
        seconds: start.elapsed().as_secs_f64(),
    })
}

#[derive(Debug, Default)]
struct Counters {
    objects: AtomicU64,
    bytes: AtomicU64,
    downloaded: AtomicU64,
    downloaded_bytes: AtomicU64,
    failed: AtomicU64,
    not_kept: AtomicU64,
    told: Mutex<Vec<String>>,
}

impl Counters {
    fn fail(&self, line: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock();
        if told.len() < MAX_TOLD {
            told.push(line.to_owned());
        }
    }
}

async fn fetch(repository: &Repository, wanted: Wanted, counters: &Counters) {
    let Wanted { id, options, size } = wanted;
    let add = |counter: &AtomicU64, number| counter.fetch_add(number, Ordering::Relaxed);
    let is_there = matches!(repository.cache().open(&id), Ok(Some(object)) if object.len() == size);
    if !is_there {
        match repository.fetcher().open_with(&id, &options).await {
            Ok(object) => {
                add(&counters.downloaded, 1);
                add(&counters.downloaded_bytes, size);
                if !matches!(repository.cache().open(&id), Ok(Some(_))) {
                    tracing::debug!(object = %id, path = ?object.path(), "not kept");
                    add(&counters.not_kept, 1);
                }
            }
            Err(error) => {
                counters.fail(&chain(&*error));
                return;
            }
        }
    }
    add(&counters.objects, 1);
    add(&counters.bytes, size);
}

/// What else a mount asks for: tags and the owner's description.
async fn fetch_letters(repository: &Repository, counters: &Counters) {
    let Some(manifest) = repository.manifest() else { return };
    for (hash, kind) in
        [(manifest.history, ObjectKind::History), (manifest.metainfo, ObjectKind::Metainfo)]
    {
        let Some(hash) = hash else { continue };
        let id = ObjectId::zlib(hash, kind);
        let bound = SizeBound::AtMost(MAX_HISTORY);
        if let Err(error) = repository.fetcher().open(&id, bound, "tags and description").await {
            counters.fail(&chain(&*error));
        }
    }
}

/// Tells upstream's client which revision is complete.
fn leave_breadcrumb(alien: &AlienCache, repository: &Repository) -> Result<(), Failure> {
    let Some(manifest) = repository.manifest() else { return Ok(()) };
    let revision = repository.current();
    let breadcrumb = Breadcrumb {
        root: revision.root_hash(),
        published: manifest.published,
        revision: revision.number(),
    };
    alien.set_breadcrumb(repository.fqrn().as_str(), breadcrumb).map_err(|error| {
        Failure::caused(ExitStatus::CacheDirectory, "cannot complete the alien cache", &error)
    })
}

fn tell(report: &Report, json: bool) -> Result<(), Failure> {
    let text = if json {
        crate::escape::json(report)
            .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot print", &error))?
            + "\n"
    } else {
        let mut text = format!(
            "{} revision {}: {} objects, {}; downloaded {}, {} in {:.1} s\n",
            report.fqrn,
            report.revision,
            report.objects,
            BinaryBytes(report.bytes),
            report.downloaded,
            BinaryBytes(report.downloaded_bytes),
            report.seconds
        );
        if report.failed > 0 {
            text.push_str(&format!("{} failed; repeat the command for them\n", report.failed));
        }
        if report.not_kept > 0 {
            let line = "found no room in the cache; see 'cvmfs-fuse cache info'";
            text.push_str(&format!("{} {line}\n", report.not_kept));
        }
        text
    };
    super::cache::print(&text).map(drop)
}
