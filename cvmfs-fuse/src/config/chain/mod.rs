//! The configuration of this machine as `cvmfs2` has it: files of `/etc/cvmfs` in their order
//! (spec/config.md, sections 1 and 2), read by ourselves and never by a shell.
//!
//! | module | what it holds |
//! |---|---|
//! | `words` | text to words |
//! | `commands` | words to commands |
//! | `evaluate` | commands to values, and what was passed over |
//! | `own` | our own file, as TOML |
//! | `distant` | the files of a configuration repository that is not mounted |
//! | `shared` | the blocklist of a configuration repository |
//! | `autofs` | a configuration repository that is mounted when it is used |
//! | [`complete`] | values to what was not said by flags |
//! | [`check`] | what is wrong with it, and what to do |

mod autofs;
pub mod check;
mod commands;
pub mod complete;
mod distant;
mod evaluate;
pub(crate) mod own;
mod shared;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::fqrn::Fqrn;

use super::environment::Environment;
use super::parameters::{switch, table};
use crate::cli::exit::Failure;
use evaluate::State;
pub use evaluate::{Origin, Remark, Value};
use own::{Document, Silent};
pub use shared::SharedBlocklist;

/// Where repositories are mounted if nobody says something else.
pub(crate) const MOUNT_DIR: &str = "/cvmfs";
/// Names the repository with more configuration.
const CONFIG_REPOSITORY: &str = "CVMFS_CONFIG_REPOSITORY";
/// Files of one directory that are read: real ones have ten.
const MAX_SNIPPETS: usize = 256;

/// Longest wait for the directory of a configuration repository: a cold one is mounted meanwhile.
const REACH_LIMIT: Duration = Duration::from_secs(20);

/// What the files of this machine say about a repository, or about none.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// All variables.
    pub values: BTreeMap<String, Value>,
    /// What was passed over, and why.
    pub remarks: Vec<Remark>,
    /// The files that were read, in their order.
    pub files: Vec<PathBuf>,
    /// The configuration repository that is wanted and cannot be had.
    pub missing_repository: Option<Missing>,
    /// The blocklist of the configuration repository, and where it is to be read again; `None` without
    /// such a repository.
    pub shared: Option<(SharedBlocklist, Result<Blocklist, Failure>)>,
    /// Our own file is there and says nothing.
    pub broken: Option<Remark>,
    /// The files of one that is not mounted, for as long as values may name them.
    copy: Option<Arc<distant::Copied>>,
}

/// A configuration repository that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Why it could not be fetched. It is not mounted either.
    pub why: String,
}

impl Configuration {
    /// Reads the chain of this machine; without a name only what holds for all.
    pub fn load(environment: &Environment, fqrn: Option<&Fqrn>) -> Self {
        let mut state = begin(fqrn);
        let at = |name: &str| environment.configuration.join(name);
        let mut broken = None;
        let mut read = |file: &Path, is_theirs| own_file(file, is_theirs, &mut state, &mut broken);
        let mut own: Vec<_> = read(&at(own::NAME), false).into_iter().collect();
        // Whoever runs as another user may still have the home of the one before.
        own.extend(environment.own_configuration().and_then(|file| read(&file, true)));
        let everything: fn(&str) -> bool = |_| true;
        state.file(&at("default.conf"), everything, None);
        for snippet in snippets(&at("default.d")) {
            state.file(&snippet, everything, None);
        }
        // What names further files must be known before they are read.
        own.iter().for_each(|own| own.apply_one(CONFIG_REPOSITORY, &mut state, fqrn));
        state.protected.insert(CONFIG_REPOSITORY.to_owned());
        let text = |state: &State, name: &str| {
            state.values.get(name).map(|value| value.text.clone()).filter(|text| !text.is_empty())
        };
        let wanted = text(&state, CONFIG_REPOSITORY)
            .filter(|name| fqrn.is_some_and(|fqrn| fqrn.as_str() != name));
        let mounts = text(&state, "CVMFS_MOUNT_DIR").unwrap_or_else(|| MOUNT_DIR.to_owned());
        let place = wanted.as_ref().map(|name| Path::new(&mounts).join(name).join("etc/cvmfs"));
        // Asked once: a mount that hangs must not be waited for at each file.
        let mounted = place.as_deref().filter(|_| environment.reads_config_repository);
        if let Some(place) = mounted {
            autofs::mount(Path::new(&mounts), place, REACH_LIMIT);
        }
        let mut elsewhere = mounted.and_then(reachable);
        let (mut copy, mut missing_repository) = (None, None);
        if let (Some(name), None) = (&wanted, &elsewhere) {
            let place = place.clone().unwrap_or_default();
            match distant::copy(name, place, environment) {
                Ok(files) => {
                    elsewhere = Some(files.root().to_owned());
                    copy = Some(Arc::new(files));
                }
                Err(why) => {
                    let (name, why) = (name.clone(), why.to_string());
                    missing_repository = Some(Missing { name, why });
                }
            }
        }
        let shared = wanted.zip(place).map(|(name, place)| {
            let shared = SharedBlocklist { name, place, environment: environment.clone() };
            // One that is missing says nothing; whether that may be is decided elsewhere.
            let present = elsewhere.as_deref().map(|root| shared.read_in(root));
            (shared, present.unwrap_or_else(|| Ok(Blocklist::default())))
        });
        let distant = |state: &mut State, name: &str| {
            if let Some(root) = &elsewhere {
                state.file(&root.join(name), is_harmless, Some(root));
            }
        };
        distant(&mut state, "default.conf");
        state.file(&at("default.local"), everything, None);
        if let Some(fqrn) = fqrn {
            for (folder, name) in [("domain.d", fqrn.domain()), ("config.d", fqrn.as_str())] {
                distant(&mut state, &format!("{folder}/{name}.conf"));
                state.file(&at(&format!("{folder}/{name}.conf")), everything, None);
                state.file(&at(&format!("{folder}/{name}.local")), everything, None);
            }
        }
        if let Some(copy) = &copy {
            show_as(&mut state, copy);
        }
        own.iter().for_each(|own| own.apply(&mut state, fqrn));
        Self { missing_repository, shared, broken, copy, ..finish(state, fqrn) }
    }

    /// Reads these files instead of the chain (`-o config=A:B`, `--config`).
    pub fn of_files(files: &[PathBuf], fqrn: Option<&Fqrn>) -> Self {
        let mut state = begin(fqrn);
        let mut broken = None;
        for file in files {
            if file.extension().is_some_and(|extension| extension == "toml") {
                if let Some(own) = own_file(file, false, &mut state, &mut broken) {
                    own.apply(&mut state, fqrn);
                }
                continue;
            }
            if !state.file(file, |_| true, None) && !file.exists() {
                let origin = Origin { file: file.clone(), line: 1 };
                state.remarks.push(Remark { origin, text: "is not there".to_owned() });
            }
        }
        Self { broken, ..finish(state, fqrn) }
    }

    /// Returns a value that is not empty.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).filter(|value| !value.text.is_empty())
    }

    /// Returns its text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(|value| value.text.as_str())
    }

    /// Where a file is now that a value names: those of a configuration repository that is not
    /// mounted are elsewhere, and not for long.
    fn file_now(&self, named: &str) -> PathBuf {
        let named = Path::new(named);
        match self.copy.as_ref().and_then(|copy| copy.find(named)) {
            Some(there) => there,
            None => named.to_owned(),
        }
    }

    /// Gives a name without a dot the default domain, where there is one.
    pub fn full_name(&self, name: &std::ffi::OsStr) -> std::ffi::OsString {
        use std::os::unix::ffi::OsStrExt as _;
        let mut full = name.to_owned();
        if !name.as_bytes().contains(&b'.')
            && let Some(domain) = self.text("CVMFS_DEFAULT_DOMAIN")
        {
            full.push(".");
            full.push(domain);
        }
        full
    }

    /// Returns the full names of the repositories that this machine is for.
    pub fn repositories(&self) -> Vec<std::ffi::OsString> {
        let listed = self.text("CVMFS_REPOSITORIES").unwrap_or_default();
        let names = listed.split([',', ' ']).filter(|name| !name.is_empty());
        names.map(|name| self.full_name(name.as_ref())).collect()
    }

    /// Tells whether a switch is on: yes, on, true or 1 in any case; everything else is off.
    pub fn is_on(&self, name: &str) -> bool {
        self.text(name).and_then(switch) == Some(true)
    }
}

fn begin(fqrn: Option<&Fqrn>) -> State {
    let mut state = State::default();
    if let Some(fqrn) = fqrn {
        let value = Value { text: fqrn.as_str().to_owned(), origin: None };
        state.values.insert("CVMFS_FQRN".to_owned(), value);
    }
    state
}

/// Reads a file of ours; notes what is wrong with one that says nothing. One of a user that they may not
/// read is as good as none.
fn own_file(
    file: &Path,
    is_theirs: bool,
    state: &mut State,
    broken: &mut Option<Remark>,
) -> Option<Document> {
    match Document::read(file) {
        Ok(document) => return Some(document),
        Err(Silent::Forbidden(remark)) if !is_theirs => state.remarks.push(remark),
        Err(Silent::Broken(remark)) => drop(broken.get_or_insert(remark)),
        Err(Silent::Absent | Silent::Forbidden(_)) => {}
    }
    None
}

fn finish(mut state: State, fqrn: Option<&Fqrn>) -> Configuration {
    if let Some(fqrn) = fqrn {
        for value in state.values.values_mut() {
            value.text = fqrn.expand(&value.text);
        }
    }
    let State { values, remarks, files, .. } = state;
    Configuration { values, remarks, files, ..Configuration::default() }
}

/// Names files of a copy by where they would be if the repository were mounted.
fn show_as(state: &mut State, copy: &distant::Copied) {
    let shown = |file: &mut PathBuf| {
        if let Some(place) = copy.shown(file) {
            *file = place;
        }
    };
    state.files.iter_mut().for_each(shown);
    state.remarks.iter_mut().for_each(|remark| shown(&mut remark.origin.file));
    let origins = state.values.values_mut().filter_map(|value| value.origin.as_mut());
    origins.for_each(|origin| shown(&mut origin.file));
}

/// Lists `*.conf` of a directory by name.
fn snippets(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.take(MAX_SNIPPETS).filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let is_snippet = |path: &PathBuf| path.extension().is_some_and(|found| found == "conf");
    let mut paths: Vec<_> = paths.filter(is_snippet).collect();
    paths.sort();
    paths
}

/// Returns the true path of a directory, if somebody answers for it in time.
fn reachable(directory: &Path) -> Option<PathBuf> {
    let (tell, told) = std::sync::mpsc::channel();
    let directory = directory.to_owned();
    // Left behind if nobody answers.
    std::thread::Builder::new()
        .name("cvmfs-config".to_owned())
        .spawn(move || {
            let _ = tell.send(directory.canonicalize());
        })
        .ok()?;
    told.recv_timeout(REACH_LIMIT).ok()?.ok()
}

/// Tells whether a configuration repository may set this: what the table of parameters says, and
/// variables for links.
fn is_harmless(name: &str) -> bool {
    match table::find(name) {
        Some(known) => known.harmless,
        None => !name.starts_with("CVMFS_") && !name.starts_with('_'),
    }
}
