//! What people ask of a cache: what is in it, is it right, make it smaller.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use cvmfs_core::cache::{CacheError, ObjectCache as _};
use cvmfs_core::hash::ContentHash;
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use parking_lot::Mutex;
use rustix::io::Errno;
use serde::Serialize;

use crate::checksum::{self, Verdict};
use crate::disk::DiskCache;
use crate::index::IndexedObject;
use crate::keeper::{Evicted, Tender, list_fan};
use crate::layout::{
    OBJECTS, QUARANTINE, TRANSACTIONS, VERSION, failed, fan_name, object_name, parse_object_name,
    random,
};
use crate::quota::Partition;
use crate::safe_path;
use crate::seal::{self, Found};
use crate::sharing::Sharing;

/// Layouts of earlier versions, which nothing reads any more.
const OLD_VERSIONS: [&str; 1] = ["v1"];
/// Objects looked at between two reports of progress.
const REPORT_EVERY: u64 = 64;

/// Tries to clean while a sibling evicts.
const CLEAN_ATTEMPTS: usize = 20;
/// Pause between them.
const CLEAN_PAUSE: Duration = Duration::from_millis(50);

/// The state of a cache directory.
#[derive(Debug, Clone, Serialize)]
pub struct CacheInfo {
    /// Where it is.
    pub directory: PathBuf,
    /// Name of its layout.
    pub layout: &'static str,
    /// Who may write: `private`, `group GID`, `anyone`.
    pub sharing: String,
    /// Nothing can be stored.
    pub read_only: bool,
    /// Nothing is evicted, as on network file systems.
    pub unmanaged: bool,
    /// Bytes of all objects.
    pub used: u64,
    /// Objects.
    pub objects: u64,
    /// The limit in bytes; `None` if there is none.
    pub quota: Option<u64>,
    /// Where eviction begins.
    pub high_water: Option<u64>,
    /// Where it ends.
    pub low_water: Option<u64>,
    /// Bytes of the partition.
    pub partition_size: Option<u64>,
    /// Bytes of it that are free.
    pub partition_free: Option<u64>,
    /// Processes that have it open, without this one.
    pub processes: usize,
    /// Objects that they keep from eviction.
    pub pinned: usize,
    /// Things set aside because they were not what they should be.
    pub quarantined: usize,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Objects looked at.
    pub checked: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are not what they should be, and why.
    pub damaged: Vec<Damage>,
    /// Objects without a checksum: their size is right, more cannot be told.
    pub unverifiable: u64,
    /// Files in the directories of objects that are none.
    pub foreign: u64,
    /// Files that are being written, or were left by a dead process.
    pub unfinished: usize,
    /// What is damaged was set aside, and index and counter were made to agree with the rest.
    pub repaired: bool,
}

/// One damaged object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Name below `objects`.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// How far a long command is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Done so far.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl DiskCache {
    /// Tells the state of the directory.
    pub fn info(&self) -> CacheInfo {
        let store = &self.store;
        let reading = store.gauge.read();
        let limits = store.update_limits();
        let partition = Partition::of(&store.layout.root());
        let others = store.session.as_ref().map(crate::session::Session::others);
        let others = others.unwrap_or_default();
        CacheInfo {
            directory: store.layout.directory().to_owned(),
            layout: VERSION,
            sharing: match store.layout.sharing() {
                Sharing::Private => "private".to_owned(),
                Sharing::Group(gid) => format!("group {gid}"),
                Sharing::Anyone => "anyone".to_owned(),
            },
            read_only: store.layout.is_read_only(),
            unmanaged: store.session.is_none(),
            used: reading.bytes,
            objects: reading.objects,
            quota: limits.map(|limits| limits.quota),
            high_water: limits.map(|limits| limits.high_water),
            low_water: limits.map(|limits| limits.low_water),
            partition_size: partition.map(|partition| partition.size),
            partition_free: partition.map(|partition| partition.free),
            processes: others.live,
            pinned: others.pinned.len(),
            quarantined: store.layout.list(QUARANTINE).map_or(0, |names| names.len()),
        }
    }

    /// Returns the names of the objects that live processes keep from eviction, as in
    /// [`IndexedObject`].
    pub fn pinned(&self) -> HashSet<String> {
        let others = self.store.session.as_ref().map(crate::session::Session::others);
        others.map(|others| others.pinned).unwrap_or_default()
    }

    /// Hands the objects of the index to `each`, last used first, until it says no. What other
    /// processes did in the last second may be missing.
    pub fn for_each(&self, each: &mut dyn FnMut(IndexedObject) -> bool) {
        let mut tender = Tender::new(Arc::clone(&self.store));
        tender.flush();
        tender.with_index(|index| index.for_each(each));
    }

    /// Compares every object with its seal and its checksum, on `threads` threads.
    pub fn check(
        &self,
        repair: bool,
        threads: usize,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> CheckReport {
        let next = AtomicU16::new(0);
        let (objects, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let report = Mutex::new(CheckReport::default());
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    while let Ok(fan) = u8::try_from(next.fetch_add(1, Ordering::Relaxed)) {
                        let found = self.check_fan(fan, repair, &|size| {
                            let done = objects.fetch_add(1, Ordering::Relaxed) + 1;
                            let bytes = bytes.fetch_add(size, Ordering::Relaxed) + size;
                            if done.is_multiple_of(REPORT_EVERY) {
                                progress(Progress { objects: done, bytes });
                            }
                        });
                        report.lock().add(found);
                    }
                });
            }
        });
        let mut report = report.into_inner();
        progress(Progress { objects: report.checked, bytes: report.bytes });
        report.damaged.sort_by(|a, b| a.name.cmp(&b.name));
        report.unfinished = self.store.layout.list(TRANSACTIONS).map_or(0, |names| names.len());
        if repair {
            let mut tender = Tender::new(Arc::clone(&self.store));
            tender.flush();
            report.repaired = tender.count(false);
        }
        report
    }

    fn check_fan(&self, fan: u8, repair: bool, done: &dyn Fn(u64)) -> CheckReport {
        let store = &self.store;
        let mut report = CheckReport::default();
        for file in store.layout.list(&fan_name(fan)).unwrap_or_default() {
            let name = format!("{fan:02x}/{file}");
            let Some(id) = parse_object_name(&name) else {
                report.foreign += 1;
                continue;
            };
            let (size, fault) = match seal::open(&store.layout, &format!("{OBJECTS}/{name}")) {
                Ok(Found::Absent) => continue,
                Ok(Found::Foreign(reason)) => (0, Some(reason.to_owned())),
                Err(error) => (0, Some(error.to_string())),
                Ok(Found::Object(file, found)) => {
                    let fault = match checksum::verify(&file, found.len()) {
                        Ok(Verdict::Right) => None,
                        Ok(Verdict::Wrong) => {
                            Some("its bytes are not those that were stored".to_owned())
                        }
                        Ok(Verdict::Unknown) => {
                            report.unverifiable += 1;
                            None
                        }
                        Err(error) => Some(error.to_string()),
                    };
                    (found.len(), fault)
                }
            };
            report.checked += 1;
            report.bytes += size;
            done(size);
            if let Some(reason) = fault {
                if repair {
                    self.refuse(&id, &reason, true);
                }
                report.damaged.push(Damage { name, reason });
            }
        }
        report
    }

    /// Removes an object; returns its size, `None` if it was not there.
    pub fn evict(&self, id: &ObjectId) -> Result<Option<u64>, CacheError> {
        let size = match self.store.layout.look(&format!("{OBJECTS}/{}", object_name(id))) {
            Ok(found) => u64::try_from(found.st_size).unwrap_or(0),
            Err(_) => return Ok(None),
        };
        self.discard(id).map(|()| Some(size))
    }

    /// Removes all objects with this hash, of whatever kind and reading; returns their sizes.
    pub fn evict_hash(&self, hash: ContentHash) -> Result<Vec<u64>, CacheError> {
        use ObjectKind::{Catalog, Certificate, Chunk, Data, History, Metainfo};
        let mut sizes = Vec::new();
        for kind in [Data, Chunk, Catalog, Certificate, History, Metainfo] {
            for compression in [Compression::Zlib, Compression::None] {
                sizes.extend(self.evict(&ObjectId { hash, kind, compression })?);
            }
        }
        Ok(sizes)
    }

    /// Removes the least recently used objects until no more than `to` bytes are stored, without
    /// those that live processes pin. `progress` is told what was done between batches.
    pub fn clean(&self, to: u64, progress: &mut dyn FnMut(Evicted)) -> Evicted {
        let mut tender = Tender::new(Arc::clone(&self.store));
        tender.flush();
        tender.with_index(|_| Ok(()));
        let mut done = Evicted::default();
        for _ in 0..CLEAN_ATTEMPTS {
            let before = done;
            let more = tender.evict(to, &mut |more| {
                progress(before.and(more));
                true
            });
            done = done.and(more);
            // A sibling may be evicting, to a target of its own.
            if self.store.gauge.read().bytes <= to || more.objects > 0 {
                break;
            }
            #[expect(clippy::disallowed_methods, reason = "a sibling's lock is no event")]
            std::thread::sleep(CLEAN_PAUSE);
        }
        done
    }

    /// Tells whether all that is stored is known to the index: for tests and `cache check`.
    pub fn is_consistent(&self) -> bool {
        let mut tender = Tender::new(Arc::clone(&self.store));
        tender.flush();
        (0..=u8::MAX).all(|fan| {
            let mut stored: Vec<_> =
                list_fan(&self.store, fan).into_iter().map(|one| one.name).collect();
            let mut known = tender.with_index(|index| index.names_in(fan)).unwrap_or_default();
            stored.sort();
            known.sort();
            stored == known
        })
    }
}

impl CheckReport {
    fn add(&mut self, other: Self) {
        self.checked += other.checked;
        self.bytes += other.bytes;
        self.damaged.extend(other.damaged);
        self.unverifiable += other.unverifiable;
        self.foreign += other.foreign;
    }
}

/// Removes everything that caches of this program keep below a directory, and nothing else.
/// Mounts that use it go on and fill it again. Returns whether there was anything.
pub fn wipe(directory: &Path) -> Result<bool, CacheError> {
    let mut found = false;
    let base = match safe_path::open_directory(directory) {
        Ok(base) => base,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("use cache directory", directory)(error)),
    };
    for version in std::iter::once(VERSION).chain(OLD_VERSIONS) {
        let path = directory.join(version);
        // Away at once, so that those who use it begin anew instead of filling what is going.
        let aside = format!(".{version}-wiped-{:016x}", random());
        match rustix::fs::renameat(&base, version, &base, &aside) {
            Ok(()) => found = true,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(failed("remove", &path)(error)),
        }
        safe_path::remove_tree(base.as_fd(), &aside).map_err(failed("remove", &path))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
