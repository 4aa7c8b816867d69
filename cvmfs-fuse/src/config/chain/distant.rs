//! A configuration repository that is not mounted, read by ourselves: verified as any repository is, and
//! from the cache where no server answers.
//!
//! Its files are few and small. They are kept in memory as a tree like the one of a mounted repository: nothing
//! that it names is written anywhere.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cvmfs_core::cache::MemoryCache;
use cvmfs_core::catalog::{Content, EntryKind};
use cvmfs_core::chain::chain;
use cvmfs_core::fetch::FetchOptions;
use cvmfs_core::path::RepoPath;
use cvmfs_core::repository::Repository;
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};

use super::tree::{Item, Items, Tree};
use crate::config::{
    Account, Environment, MountOptions, RepositoryFlags, RepositorySettings, parse_fqrn,
};

/// Where its files are.
const ROOT: &[u8] = b"/etc/cvmfs";
/// How long all of it may take: as long as a mount of it would be waited for.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a copy is used in one process: the usual TTL of a repository.
const FRESH: Duration = Duration::from_secs(240);
/// How long a failure is: an automounter asks for each repository.
const REST: Duration = Duration::from_secs(10);
/// Files and directories, real ones have a hundred.
const MAX_ITEMS: usize = 4096;
/// Bytes of one file; real ones have a few thousand.
const MAX_FILE: u64 = 1 << 20;
/// Bytes of all.
const MAX_BYTES: u64 = 16 << 20;
/// Files that are fetched at a time.
const AT_A_TIME: usize = 16;

type Fetched = Result<Arc<Items>, Arc<str>>;

/// What this process knows: by the files of the machine, and the name.
static KNOWN: Mutex<Vec<(PathBuf, String, Instant, Fetched)>> = Mutex::new(Vec::new());

/// Fetches the files of a configuration repository that would be at `place`; says why not.
pub(super) fn tree(
    name: &str,
    place: PathBuf,
    environment: &Environment,
) -> Result<Tree, Arc<str>> {
    known(name, environment).map(|items| Tree::in_memory(items, place))
}

fn known(name: &str, environment: &Environment) -> Fetched {
    let is_it = |at: &Path, of: &str| at == environment.configuration && of == name;
    {
        let known = KNOWN.lock();
        let found = known.iter().find(|(at, of, ..)| is_it(at, of));
        if let Some((_, _, since, tree)) = found
            && since.elapsed() < if tree.is_ok() { FRESH } else { REST }
        {
            return tree.clone();
        }
    }
    let tree = fetch(name, environment);
    let mut known = KNOWN.lock();
    known.retain(|(at, of, ..)| !is_it(at, of));
    known.push((environment.configuration.clone(), name.to_owned(), Instant::now(), tree.clone()));
    tree
}

/// Fetches it in a thread of its own: whoever resolves settings may be in a runtime, or have none yet.
fn fetch(name: &str, environment: &Environment) -> Fetched {
    let late = || Arc::from(format!("it was not there after {} s", LIMIT.as_secs()));
    let (tell, told) = mpsc::channel();
    let (name, environment) = (name.to_owned(), environment.clone());
    let work = move || {
        let settings = match prepare(&name, &environment) {
            Ok(settings) => settings,
            Err(message) => return drop(tell.send(Err(message))),
        };
        let tree = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                // Timers belong to the runtime that they are made in.
                let read = async { tokio::time::timeout(LIMIT, read(&settings)).await };
                let tree = runtime.block_on(read).unwrap_or_else(|_| Err(late()));
                runtime.shutdown_background();
                tree
            }
            Err(error) => Err(error.to_string().into()),
        };
        // Whoever asked may have stopped waiting.
        let _ = tell.send(tree);
    };
    let started = std::thread::Builder::new().name("cvmfs-config".to_owned()).spawn(work);
    if let Err(error) = started {
        return Err(error.to_string().into());
    }
    let wait = || told.recv_timeout(LIMIT + Duration::from_secs(1)).unwrap_or_else(|_| Err(late()));
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}

/// Finds what is to be read, and makes this thread the user whose cache it will be in.
fn prepare(name: &str, environment: &Environment) -> Result<RepositorySettings, Arc<str>> {
    let settings = parse_fqrn(OsStr::new(name))
        .and_then(|fqrn| {
            RepositorySettings::resolve(fqrn, &RepositoryFlags::default(), environment)
        })
        .map_err(|failure| failure.message)?;
    if let Some(account) = Account::of_cache(&settings.cache.directory)
        && let Err(error) = account.assume_in_thread()
    {
        tracing::warn!(%error, "cannot use the cache as {}", account.shown());
    }
    Ok(settings)
}

async fn read(settings: &RepositorySettings) -> Fetched {
    // A cache that root made here could not be used by the account that is to serve.
    let is_to_be_given = !settings.cache.directory.exists()
        && Account::wanted(&MountOptions::defaults(true), &settings.parameters).is_some();
    let opened = match is_to_be_given {
        true => settings.open_with(Arc::new(MemoryCache::default()), 1).await,
        false => settings.open_for_reading(1).await,
    };
    let repository = opened.map_err(|failure| failure.message)?;
    let root = RepoPath::parse(ROOT).unwrap_or_else(RepoPath::root);
    let tree = walk(&repository, &root).await;
    tree.map_err(|error| format!("{}: {error}", String::from_utf8_lossy(ROOT)).into())
}

async fn walk(repository: &Repository, root: &RepoPath) -> Result<Arc<Items>, String> {
    let revision = repository.current();
    let mut items = Items::new();
    let mut files = Vec::new();
    let mut directories = vec![(root.clone(), PathBuf::new())];
    let mut bytes = 0_u64;
    while let Some((directory, place)) = directories.pop() {
        let entries = revision.list(&directory).await.map_err(|error| chain(&error))?;
        for entry in entries.iter() {
            let path = directory.join(&entry.name);
            let place = place.join(OsStr::from_bytes(&entry.name));
            match (entry.kind, entry.content.clone()) {
                (EntryKind::Directory, _) => {
                    items.insert(place.clone(), Item::Directory);
                    directories.push((path, place));
                }
                (EntryKind::Symlink, _) => {
                    let target = OsStr::from_bytes(&entry.symlink).into();
                    items.insert(place, Item::Link(target));
                }
                (_, Content::Whole(id)) if entry.size <= MAX_FILE => {
                    bytes += entry.size;
                    let options = FetchOptions::content(entry, &path, None, path.to_string());
                    files.push((place, id, options));
                }
                // Neither is a file with parameters.
                _ => tracing::debug!(%path, "not read as configuration"),
            }
            if items.len() + files.len() > MAX_ITEMS || bytes > MAX_BYTES {
                return Err("more than configuration needs".to_owned());
            }
        }
    }
    let fetcher = repository.fetcher();
    let fetches = files.into_iter().map(|(place, id, options)| async move {
        let object = fetcher.open_with(&id, &options).await.map_err(|error| chain(&*error))?;
        let content = object.read_all(MAX_FILE).map_err(|error| error.to_string())?;
        Ok::<_, String>((place, Item::File(content)))
    });
    let fetched = futures_util::stream::iter(fetches).buffer_unordered(AT_A_TIME);
    items.extend(fetched.try_collect::<Vec<_>>().await?);
    Ok(Arc::new(items))
}
