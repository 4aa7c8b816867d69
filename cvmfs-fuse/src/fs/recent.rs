//! The last failures that a user could see, for `cvmfs-fuse why`: which path, which object, which
//! servers and proxies, and when. An errno says none of that.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::SystemTime;

use cvmfs_core::chain::chain;
use cvmfs_core::fetch::FetchError;
use cvmfs_core::net::{Attempt, Proxy};
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::RevisionError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::FsError;

/// Failures kept; each below 16 KiB.
const MAX_KEPT: usize = 64;
/// Attempts kept of one.
const MAX_ATTEMPTS: usize = 16;
/// Longest text kept: paths have 4096 bytes.
const MAX_TEXT: usize = 4096;

/// One failure, and how often it was repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentFailure {
    /// The repository, where a mount has several.
    pub repository: Option<String>,
    /// The path in the repository; `None` if it is not known.
    pub path: Option<String>,
    /// The object that could not be had.
    pub object: Option<String>,
    /// What was asked for, as in the log.
    pub operation: String,
    /// What the caller got.
    pub errno: i32,
    /// All causes, for people.
    pub reason: String,
    /// What was tried, in order; the last ones of many.
    pub attempts: Vec<FailedAttempt>,
    /// Seconds since 1970 of the first time.
    pub first: i64,
    /// Of the last time.
    pub last: i64,
    /// How often.
    pub count: u64,
    /// Who asked last; 0 if it is not seen from here.
    pub pid: u32,
}

/// One way that did not lead to the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttempt {
    /// What was asked for.
    pub url: String,
    /// Through whom; without password.
    pub proxy: Option<String>,
    /// What happened.
    pub error: String,
}

/// The last failures of a mount.
#[derive(Debug, Default)]
pub struct RecentFailures {
    kept: Mutex<VecDeque<RecentFailure>>,
    /// Input/output errors of all time, and when the last one was.
    errors: AtomicU64,
    last_error: AtomicI64,
}

impl RecentFailures {
    /// Notes a failure.
    pub fn note(&self, operation: &str, pid: u32, error: &FsError) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.ok().and_then(|now| i64::try_from(now.as_secs()).ok()).unwrap_or(0);
        self.note_at(now, operation, pid, error);
    }

    fn note_at(&self, now: i64, operation: &str, pid: u32, error: &FsError) {
        if error.errno() == libc::EIO {
            self.errors.fetch_add(1, Ordering::Relaxed);
            self.last_error.store(now, Ordering::Relaxed);
        }
        let (repository, inner) = match error {
            FsError::Within { fqrn, source } => (Some(fqrn.to_string()), &**source),
            FsError::Repository { fqrn, .. } | FsError::TooManyRepositories { fqrn, .. } => {
                (Some(fqrn.to_string()), error)
            }
            other => (None, other),
        };
        let (path, fetch) = parts(inner);
        let mut failure = RecentFailure {
            repository,
            path: path.map(|path| cut(&String::from_utf8_lossy(path.as_bytes()))),
            object: fetch.and_then(object_of),
            operation: operation.to_owned(),
            errno: error.errno(),
            reason: cut(&chain(error)),
            attempts: fetch.map(attempts_of).unwrap_or_default(),
            first: now,
            last: now,
            count: 1,
            pid,
        };
        let mut kept = self.kept.lock();
        let same = kept.iter().position(|old| {
            (&old.repository, &old.path, &old.object, old.errno)
                == (&failure.repository, &failure.path, &failure.object, failure.errno)
        });
        if let Some(before) = same.and_then(|at| kept.remove(at)) {
            // The reasons are those of the last time; they may differ.
            (failure.first, failure.count) = (before.first, before.count.saturating_add(1));
        }
        kept.push_back(failure);
        if kept.len() > MAX_KEPT {
            // The oldest of the repository that has the most: one cannot make the others' forgotten.
            let mut counts = std::collections::HashMap::new();
            for failure in kept.iter() {
                *counts.entry(failure.repository.clone()).or_insert(0_usize) += 1;
            }
            let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name);
            let oldest = kept.iter().position(|failure| Some(&failure.repository) == most.as_ref());
            drop(oldest.and_then(|at| kept.remove(at)));
        }
    }

    /// Returns the value of an attribute that tells of them (spec/filesystem.md section 10).
    pub fn attribute(&self, name: &[u8]) -> Option<Vec<u8>> {
        let text = match name {
            b"user.nioerr" => self.errors.load(Ordering::Relaxed).to_string(),
            b"user.timestamp_last_ioerr" => self.last_error.load(Ordering::Relaxed).to_string(),
            _ => return None,
        };
        Some(text.into_bytes())
    }

    /// Returns what is known, the last one first.
    pub fn all(&self) -> Vec<RecentFailure> {
        self.kept.lock().iter().rev().cloned().collect()
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.errors.store(0, Ordering::Relaxed);
        self.kept.lock().clear();
    }
}

/// Returns the path that a failure is about, and why an object could not be had.
fn parts(error: &FsError) -> (Option<&RepoPath>, Option<&FetchError>) {
    match error {
        FsError::Fetch { path, source } => (Some(path), Some(source)),
        FsError::Revision { path, source: RevisionError::Fetch { source, .. } } => {
            (Some(path), Some(source))
        }
        FsError::Revision { path, .. }
        | FsError::Read { path, .. }
        | FsError::Broken { path, .. }
        | FsError::Refused { path, .. }
        | FsError::NotADirectory(path)
        | FsError::IsADirectory(path)
        | FsError::NotALink(path)
        | FsError::Special(path) => (Some(path), None),
        _ => (None, None),
    }
}

fn object_of(error: &FetchError) -> Option<String> {
    match error {
        FetchError::Download { id, .. }
        | FetchError::NoRoom { id, .. }
        | FetchError::Aborted { id, .. } => Some(id.to_string()),
        _ => None,
    }
}

fn attempts_of(error: &FetchError) -> Vec<FailedAttempt> {
    let FetchError::Download { source, .. } = error else { return Vec::new() };
    let skipped = source.attempts.len().saturating_sub(MAX_ATTEMPTS);
    let shown = |attempt: &Attempt| FailedAttempt {
        url: cut(&attempt.url),
        proxy: attempt.proxy.clone().map(|url| Proxy::Url(url).display()),
        error: cut(&attempt.error.to_string()),
    };
    source.attempts.iter().skip(skipped).map(shown).collect()
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cvmfs_core::net::{AttemptError, DownloadError};
    use cvmfs_core::object::{ObjectId, ObjectKind};

    use super::*;

    fn fetch(path: &str, reason: &str) -> FsError {
        let hash = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        let attempt = Attempt {
            url: "http://s/data/01/23".to_owned(),
            proxy: Some("http://u:secret@p:3128".to_owned()),
            error: AttemptError::Connect(reason.to_owned()),
        };
        let source = DownloadError { attempts: vec![attempt; MAX_ATTEMPTS + 3] };
        let id = ObjectId::zlib(hash, ObjectKind::Data);
        let source = Arc::new(FetchError::Download { id, label: path.to_owned(), source });
        FsError::Fetch { path: RepoPath::parse(path.as_bytes()).unwrap(), source }
    }

    #[test]
    fn repeated_failures_are_one_and_secrets_are_none() {
        let recent = RecentFailures::default();
        recent.note_at(10, "read", 7, &fetch("/a", "refused"));
        recent.note_at(11, "read", 8, &fetch("/b", "refused"));
        let fqrn = "a.b.c".parse().unwrap();
        let within = FsError::Within { fqrn, source: Box::new(fetch("/a", "refused")) };
        recent.note_at(12, "read", 9, &within);
        recent.note_at(13, "read", 9, &fetch("/a", "no route"));
        let all = recent.all();
        let told: Vec<_> = all
            .iter()
            .map(|f| {
                (f.repository.as_deref(), f.path.as_deref().unwrap(), f.first, f.last, f.count)
            })
            .collect();
        assert_eq!(
            told,
            [(None, "/a", 10, 13, 2), (Some("a.b.c"), "/a", 12, 12, 1), (None, "/b", 11, 11, 1)]
        );
        assert_eq!((all[0].errno, all[0].attempts.len()), (libc::EIO, MAX_ATTEMPTS));
        assert!(all[0].attempts[0].error.contains("no route"), "{all:?}");
        assert!(all[0].object.as_deref().unwrap().starts_with("0123456789"), "{all:?}");
        assert!(!serde_json::to_string(&all).unwrap().contains("secret"));
    }

    #[test]
    fn memory_is_bounded() {
        let recent = RecentFailures::default();
        for number in 0..3 * MAX_KEPT {
            recent.note_at(1, "read", 7, &fetch(&format!("/{number}"), &"x".repeat(1 << 20)));
        }
        let all = recent.all();
        assert_eq!(all.len(), MAX_KEPT);
        assert_eq!(all[0].path.as_deref(), Some("/191"));
        assert!(all.iter().all(|failure| failure.reason.len() <= MAX_TEXT));
        recent.clear();
        assert!(recent.all().is_empty());
    }
}
