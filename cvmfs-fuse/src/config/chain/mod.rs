//! The configuration of this machine as `cvmfs2` has it: files of `/etc/cvmfs` in their order
//! (spec/config.md, sections 1 and 2), read by ourselves and never by a shell.
//!
//! | module | what it holds |
//! |---|---|
//! | `words` | text to words |
//! | `commands` | words to commands |
//! | `evaluate` | commands to values, and what was passed over |
//! | `conditions`, `pattern` | `[ ... ]`, and the patterns of `case` |
//! | `budget` | limits of one evaluation |
//! | `foreign` | what a configuration repository may say and read |
//! | `tree` | its files, which nothing leads out of |
//! | `own` | our own file, as TOML |
//! | `distant` | the files of a configuration repository that is not mounted |
//! | `shared` | the blocklist of a configuration repository |
//! | `autofs` | a configuration repository that is mounted when it is used |
//! | [`complete`] | values to what was not said by flags |
//! | [`check`] | what is wrong with it, and what to do |

mod autofs;
mod budget;
pub mod check;
mod commands;
pub mod complete;
mod conditions;
mod distant;
mod evaluate;
pub(crate) mod foreign;
pub(crate) mod own;
mod pattern;
mod shared;
mod tree;
mod words;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::fqrn::Fqrn;

use super::environment::Environment;
use super::parameters::switch;
use crate::cli::exit::Failure;
use evaluate::State;
pub use evaluate::{Origin, Remark, Value};
use own::{Document, Silent};
pub use shared::SharedBlocklist;
use tree::Tree;

/// Where repositories are mounted if nobody says something else.
pub(crate) const MOUNT_DIR: &str = "/cvmfs";
/// The directory of a configuration repository with its files, name by name.
const INSIDE: &[&str] = &["etc", "cvmfs"];
/// Names the repository with more configuration.
const CONFIG_REPOSITORY: &str = "CVMFS_CONFIG_REPOSITORY";
/// Largest master key: real ones have under 1 KiB.
const MAX_KEY: u64 = 1 << 16;
/// Keys that a configuration repository may add by one parameter: real ones have three.
const MAX_KEYS: usize = 32;
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
    /// Our own file is there and says nothing, or a limit of the evaluation was exceeded.
    pub broken: Option<Remark>,
    /// Keys that the configuration repository adds to those of the machine, by the parameter that names them.
    pub added: BTreeMap<String, Value>,
    /// The files of the configuration repository.
    tree: Option<Arc<Tree>>,
}

/// A configuration repository that is unavailable, or says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
    /// It is there, and its files exceed a limit; else it is not mounted and could not be fetched.
    pub exceeds: bool,
}

impl Configuration {
    /// Reads the chain of this machine; without a name only what holds for all.
    ///
    /// A configuration repository whose files exceed a limit says nothing at all, as one that is missing.
    pub fn load(environment: &Environment, fqrn: Option<&Fqrn>) -> Self {
        let (found, exceeded) = Self::read(environment, fqrn, true);
        let Some(Remark { origin, text }) = exceeded else { return found };
        let name = found.text(CONFIG_REPOSITORY).unwrap_or_default().to_owned();
        let why = format!("{origin}: {text}");
        let missing_repository = Some(Missing { name, why, exceeds: true });
        Self { missing_repository, shared: found.shared, ..Self::read(environment, fqrn, false).0 }
    }

    /// Reads the chain, with or without the configuration repository; also returns the limit that its files
    /// exceed.
    fn read(
        environment: &Environment,
        fqrn: Option<&Fqrn>,
        with_repository: bool,
    ) -> (Self, Option<Remark>) {
        let mut state = begin(fqrn);
        let at = |name: &str| environment.configuration.join(name);
        let mut broken = None;
        let mut read = |file: &Path, is_theirs| own_file(file, is_theirs, &mut state, &mut broken);
        let mut own: Vec<_> = read(&at(own::NAME), false).into_iter().collect();
        // Whoever runs as another user may still have the home of the one before.
        own.extend(environment.own_configuration().and_then(|file| read(&file, true)));
        state.file(&at("default.conf"));
        for snippet in snippets(&at("default.d")) {
            state.file(&snippet);
        }
        // What names further files must be known before they are read.
        own.iter().for_each(|own| own.apply_one(CONFIG_REPOSITORY, &mut state, fqrn));
        state.protected.insert(CONFIG_REPOSITORY.to_owned());
        let text = |state: &State, name: &str| {
            state.values.get(name).map(|value| value.text.clone()).filter(|text| !text.is_empty())
        };
        let wanted = text(&state, CONFIG_REPOSITORY)
            .filter(|name| with_repository && fqrn.is_some_and(|fqrn| fqrn.as_str() != name));
        let (mut missing_repository, mut shared) = (None, None);
        if let Some(name) = wanted {
            let mounts = text(&state, "CVMFS_MOUNT_DIR").unwrap_or_else(|| MOUNT_DIR.to_owned());
            let repository = Path::new(&mounts).join(&name);
            let place = INSIDE.iter().fold(repository.clone(), |path, name| path.join(name));
            // Asked once: a mount that hangs must not be waited for at each file.
            let mounted = environment.reads_config_repository;
            if mounted {
                autofs::mount(Path::new(&mounts), &place, REACH_LIMIT);
            }
            let mounted = mounted.then(|| reachable(&repository, &place)).flatten();
            let there = match mounted {
                Some(tree) => Ok(tree),
                None => distant::tree(&name, place.clone(), environment).map(Arc::new),
            };
            let environment = environment.clone();
            let list = SharedBlocklist { name: name.clone(), repository, place, environment };
            match there {
                Ok(tree) => {
                    let present = list.read_in(&tree);
                    shared = Some((list, present));
                    state.tree = Some(tree);
                }
                Err(why) => {
                    // One that is missing says nothing; whether that may be is decided elsewhere.
                    shared = Some((list, Ok(Blocklist::default())));
                    let why = why.to_string();
                    missing_repository = Some(Missing { name, why, exceeds: false });
                }
            }
        }
        state.foreign_file("default.conf");
        state.file(&at("default.local"));
        if let Some(fqrn) = fqrn {
            for (folder, name) in [("domain.d", fqrn.domain()), ("config.d", fqrn.as_str())] {
                state.foreign_file(&format!("{folder}/{name}.conf"));
                state.file(&at(&format!("{folder}/{name}.conf")));
                state.file(&at(&format!("{folder}/{name}.local")));
            }
        }
        own.iter().for_each(|own| own.apply(&mut state, fqrn));
        let exceeded = state.over_repository.take();
        let broken = broken.or_else(|| state.over_machine.take());
        (Self { missing_repository, shared, broken, ..finish(state, fqrn) }, exceeded)
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
            if !state.given(file) && !file.exists() {
                let origin = Origin { file: file.clone(), line: 1 };
                state.remarks.push(Remark { origin, text: "is not there".to_owned() });
            }
        }
        let broken = broken.or_else(|| state.over_machine.take());
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

    /// Reads a key that a value names; nothing of a configuration repository leads out of it, whoever names it.
    pub(crate) fn key(&self, file: &Path) -> io::Result<Vec<u8>> {
        match self.tree.as_ref().filter(|tree| tree.names(file)) {
            Some(tree) => tree.read(file, MAX_KEY),
            None => read_local(file, MAX_KEY),
        }
    }

    /// Lists the keys `*.pub` of a directory that a value names.
    pub(crate) fn keys_in(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let Some(tree) = self.tree.as_ref().filter(|tree| tree.names(directory)) else {
            return super::trust::keys_in(directory);
        };
        let names = match tree.entries(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let files = names.into_iter().map(|name| directory.join(name));
        Ok(files.filter(|file| file.extension().is_some_and(|found| found == "pub")).collect())
    }

    /// Tells whether a value names a directory.
    pub(crate) fn is_directory(&self, path: &Path) -> bool {
        match self.tree.as_ref().filter(|tree| tree.names(path)) {
            Some(tree) => tree.kind(path, true).is_ok_and(|kind| kind == tree::Kind::Directory),
            None => path.is_dir(),
        }
    }

    /// Returns the keys that the configuration repository adds to those of the machine: files of its own, by
    /// their names. What it names elsewhere, and what cannot be read, is left out with a warning.
    pub(crate) fn added_keys(&self) -> Vec<(String, Vec<u8>)> {
        let Some(tree) = &self.tree else { return Vec::new() };
        let mut files = Vec::new();
        for (name, value) in &self.added {
            let named = match name.as_str() {
                "CVMFS_KEYS_DIR" => match tree.entries(Path::new(&value.text)) {
                    Ok(_) => self.keys_in(Path::new(&value.text)).unwrap_or_default(),
                    Err(error) => {
                        left_out(value, &value.text, &error);
                        continue;
                    }
                },
                _ => value
                    .text
                    .split(':')
                    .filter(|file| !file.is_empty())
                    .map(PathBuf::from)
                    .collect(),
            };
            files.extend(named.into_iter().take(MAX_KEYS).map(|file| (value, file)));
        }
        let keys = files.into_iter().filter_map(|(value, file)| {
            let name = file.display().to_string();
            match tree.read(&file, MAX_KEY) {
                Ok(key) => Some((name, key)),
                Err(error) => {
                    left_out(value, &name, &error);
                    None
                }
            }
        });
        keys.collect()
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

/// Input of the fuzz target `configuration_repository`: all of its files are the same.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_repository(data: &[u8]) {
    use tree::{Item, Items};
    const SECRET: &str = "only-for-this-machine";
    // An input that has it by itself proves nothing.
    if data.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
        return;
    }
    let content = bytes::Bytes::copy_from_slice(data);
    let mut items = Items::new();
    items.insert("domain.d".into(), Item::Directory);
    for name in ["default.conf", "common.conf", "domain.d/b.c.conf"] {
        items.insert(name.into(), Item::File(content.clone()));
    }
    items.insert("link".into(), Item::Link("../../../etc/passwd".into()));
    let tree = Tree::in_memory(Arc::new(items), "/cvmfs/c.b.c/etc/cvmfs".into());
    let fqrn: Fqrn = "a.b.c".parse().expect("a good name");
    let mut state = begin(Some(&fqrn));
    state.tree = Some(Arc::new(tree));
    let proxy = format!("http://user:{SECRET}@proxy:3128");
    let local = Path::new("/etc/cvmfs/default.local");
    for name in ["CVMFS_HTTP_PROXY", "CVMFS_SERVER_URL", "CVMFS_CACHE_BASE", "SITE"] {
        state.assign(local, 1, name, proxy.clone());
    }
    state.foreign_file("default.conf");
    state.foreign_file("domain.d/b.c.conf");
    assert_eq!(state.values["CVMFS_HTTP_PROXY"].text, proxy);
    assert_eq!(state.values["SITE"].text, proxy);
    let foreign = state.values.values().filter(|value| value.foreign);
    assert!(foreign.chain(state.added.values()).all(|value| !value.text.contains(SECRET)));
    assert!(state.files.len() <= 64);
}

/// Input of the fuzz target `configuration_file`: a file of the machine, and our own.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_file(data: &[u8]) {
    let mut state = begin(None);
    let mut own = begin(None);
    state.fuzz(Path::new("/nonexistent/default.local"), data);
    if let Ok(document) = Document::parse(Path::new("/nonexistent/own.toml"), data.to_vec()) {
        document.apply(&mut own, Some(&"a.b.c".parse().expect("a good name")));
    }
    let longest = state.values.values().map(|value| value.text.len()).max();
    assert!(longest.unwrap_or_default() <= 1 << 16);
}

fn left_out(value: &Value, file: &str, error: &io::Error) {
    let origin = value.origin.as_ref().map(ToString::to_string).unwrap_or_default();
    tracing::warn!("{origin}: {} is not used as a master key: {error}", file.escape_debug());
}

fn begin(fqrn: Option<&Fqrn>) -> State {
    let mut state = State::default();
    if let Some(fqrn) = fqrn {
        let value = Value { text: fqrn.as_str().to_owned(), ..Value::default() };
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
        for value in state.values.values_mut().chain(state.added.values_mut()) {
            value.text = fqrn.expand(&value.text);
        }
    }
    let State { values, added, remarks, files, tree, .. } = state;
    Configuration { values, added, remarks, files, tree, ..Configuration::default() }
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

/// Opens the files of a configuration repository that is mounted, if somebody answers for it in time.
fn reachable(repository: &Path, place: &Path) -> Option<Arc<Tree>> {
    let (tell, told) = std::sync::mpsc::channel();
    let (repository, place) = (repository.to_owned(), place.to_owned());
    // Left behind if nobody answers.
    std::thread::Builder::new()
        .name("cvmfs-config".to_owned())
        .spawn(move || {
            let _ = tell.send(Tree::mounted(&repository, place));
        })
        .ok()?;
    told.recv_timeout(REACH_LIMIT).ok()?.ok().map(Arc::new)
}

/// Reads a regular file of this machine, of at most `limit` bytes, without waiting for anybody.
pub(crate) fn read_local(file: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(file)?;
    read_regular(file, limit)
}

/// Reads at most `limit` bytes of what is open, if it is a regular file.
fn read_regular(file: std::fs::File, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}
