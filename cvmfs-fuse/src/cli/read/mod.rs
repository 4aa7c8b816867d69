//! `ls`, `cat` and `stat`: a repository read through the library, without FUSE.
//!
//! A path that cannot be shown is reported on stderr and the next one is tried; a repository that
//! cannot be opened ends the command. Output that nobody reads any more (`| head`) ends it quietly.

mod cat;
mod find;
mod ls;
mod present;
mod stat;
mod target;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::sync::Arc;

use cvmfs_core::catalog::{Content, DirectoryEntry};
use cvmfs_core::fetch::{FetchError, Fetcher};
use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::object::ObjectId;
use cvmfs_core::path::RepoPath;
use cvmfs_core::repository::Repository;
use cvmfs_core::revision::{Revision, RevisionError};

use super::args::{CatArgs, LsArgs, StatArgs};
use super::exit::{ExitStatus, Failure};
use super::{complain, runtime};
use crate::config::{Environment, RepositoryFlags, RepositorySettings};
use crate::escape;
use cvmfs_core::chain::chain;
use find::FindError;
pub(super) use target::Target;

/// Names are short and listings long: many names for one system call.
const BUFFER_LEN: usize = 64 * 1024;

/// Runs `ls`.
pub(super) fn ls(args: &LsArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    runtime()?.block_on(async {
        let mut reader =
            Reader::new(&args.repository, environment, Output::stdout(), &args.targets);
        let outcome = ls::run(&mut reader, args).await;
        reader.finish(outcome)
    })
}

/// Runs `cat`.
pub(super) fn cat(args: &CatArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    runtime()?.block_on(async {
        let mut reader =
            Reader::new(&args.repository, environment, Output::stdout(), &args.targets);
        let outcome = cat::run(&mut reader, args).await;
        reader.finish(outcome)
    })
}

/// Runs `stat`.
pub(super) fn stat(args: &StatArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    runtime()?.block_on(async {
        let mut reader =
            Reader::new(&args.repository, environment, Output::stdout(), &args.targets);
        let outcome = stat::run(&mut reader, args).await;
        reader.finish(outcome)
    })
}

/// Finds what a path means, for commands that begin there.
pub(super) async fn resolve(
    revision: &Revision,
    path: &RepoPath,
) -> Result<(RepoPath, Arc<DirectoryEntry>), Failure> {
    let found = find::find(revision, path, true).await.map_err(|error| {
        let error = ReadError::from(error);
        let target = Target { fqrn: revision.fqrn().clone(), path: path.clone() };
        Failure::new(error.status(), format!("{}: {}", target.shown(), chain(&error)))
    })?;
    Ok((found.path, found.entry))
}

/// Returns the objects that a file consists of.
pub(super) async fn content_of(
    flags: &RepositoryFlags,
    environment: &Environment,
    text: &OsStr,
) -> Result<Vec<ObjectId>, Failure> {
    let target = Target::parse(text)?;
    let settings = RepositorySettings::resolve(target.fqrn.clone(), flags, environment)?;
    settings.act_as_owner()?;
    let revision = settings.open_for_reading(1).await?.current();
    let (path, entry) = resolve(&revision, &target.path).await?;
    match &entry.content {
        Content::Whole(id) => Ok(vec![*id]),
        Content::Chunked(_) => {
            let chunks = revision
                .chunks(&path)
                .await
                .map_err(|error| Failure::caused(ExitStatus::Catalog, &target.shown(), &error))?;
            Ok(chunks.iter().map(|chunk| chunk.object).collect())
        }
        Content::Broken(_) | Content::None => {
            Err(Failure::new(ExitStatus::Unknown, format!("{}: is no file", target.shown())))
        }
    }
}

/// Why a command ends before its last target.
enum Stop {
    /// A repository cannot be opened, or an argument is wrong.
    Failure(Failure),
    /// stdout cannot be written.
    Output(io::Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Why one path cannot be shown.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Revision(#[from] RevisionError),
    #[error(transparent)]
    Fetch(Arc<FetchError>),
    #[error("cannot read the cached object")]
    Cache(#[source] io::Error),
    #[error("the cached object was cut while it was read")]
    CacheCut,
    #[error("is a directory")]
    IsADirectory,
    #[error("is no regular file")]
    NotAFile,
    #[error("has an unusable catalog entry: {0}")]
    Broken(&'static str),
}

impl ReadError {
    /// 1 for what the repository says, 16 for what it should have said.
    fn status(&self) -> ExitStatus {
        match self {
            Self::Revision(error) | Self::Find(FindError::Revision(error)) => match error {
                RevisionError::Fetch { .. }
                | RevisionError::Catalog { .. }
                | RevisionError::Cycle(_) => ExitStatus::Catalog,
                RevisionError::NotADirectory(_) | RevisionError::NotFound(_) => ExitStatus::Unknown,
            },
            Self::Find(_)
            | Self::Fetch(_)
            | Self::Cache(_)
            | Self::CacheCut
            | Self::IsADirectory
            | Self::NotAFile
            | Self::Broken(_) => ExitStatus::Unknown,
        }
    }
}

/// Opens repositories as targets name them, and keeps the books about what went wrong.
struct Reader<'a> {
    flags: &'a RepositoryFlags,
    environment: &'a Environment,
    /// How many there will be; they share the descriptors.
    repositories: usize,
    open: HashMap<Fqrn, Arc<Repository>>,
    output: Output,
    /// The first failure decides about the exit code.
    status: ExitStatus,
}

impl<'a> Reader<'a> {
    fn new(
        flags: &'a RepositoryFlags,
        environment: &'a Environment,
        output: Output,
        targets: &[OsString],
    ) -> Self {
        let repositories = target::repositories(targets);
        Self {
            flags,
            environment,
            repositories,
            open: HashMap::new(),
            output,
            status: ExitStatus::Ok,
        }
    }

    /// Parses a target and opens its repository at the first use.
    async fn target(&mut self, text: &OsStr) -> Result<(Target, Arc<Revision>), Failure> {
        let target = Target::parse(text)?;
        let revision = self.repository(&target.fqrn).await?.current();
        Ok((target, revision))
    }

    async fn fetcher(&mut self, fqrn: &Fqrn) -> Result<Arc<Fetcher>, Failure> {
        Ok(Arc::clone(self.repository(fqrn).await?.fetcher()))
    }

    async fn repository(&mut self, fqrn: &Fqrn) -> Result<Arc<Repository>, Failure> {
        if let Some(repository) = self.open.get(fqrn) {
            return Ok(Arc::clone(repository));
        }
        let settings = RepositorySettings::resolve(fqrn.clone(), self.flags, self.environment)?;
        settings.act_as_owner()?;
        let repository = settings.open_for_reading(self.repositories).await?;
        self.open.insert(fqrn.clone(), Arc::clone(&repository));
        Ok(repository)
    }

    /// Says on stderr why a target is not shown.
    fn report(&mut self, target: &Target, error: &ReadError) {
        // What was printed before shall stand before this on a terminal.
        let _ = self.output.flush();
        let failure = Failure::new(error.status(), format!("{}: {}", target.shown(), chain(error)));
        complain(&failure);
        if self.status == ExitStatus::Ok {
            self.status = failure.status;
        }
    }

    fn finish(mut self, outcome: Result<(), Stop>) -> Result<ExitStatus, Failure> {
        let flushed = self.output.flush();
        match outcome.and_then(|()| flushed.map_err(Stop::Output)) {
            Ok(()) => Ok(self.status),
            Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(self.status)
            }
            Err(Stop::Output(error)) => {
                Err(Failure::caused(ExitStatus::Unknown, "cannot write to stdout", &error))
            }
            Err(Stop::Failure(failure)) => Err(failure),
        }
    }
}

/// Where results go; knows whether a person reads them.
struct Output {
    writer: Box<dyn Write>,
    is_terminal: bool,
}

impl Output {
    fn stdout() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { writer: Box::new(BufWriter::with_capacity(BUFFER_LEN, stdout.lock())), is_terminal }
    }

    /// Writes a name: escaped for people, raw for programs.
    fn name(&mut self, name: &[u8]) -> io::Result<()> {
        if self.is_terminal {
            self.write_all(escape::for_terminal(name).as_bytes())
        } else {
            self.write_all(name)
        }
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writer.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests;
