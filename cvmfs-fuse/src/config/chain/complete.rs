//! What was not said by flags, as the files of this machine say it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use cvmfs_core::fqrn::Fqrn;
use parking_lot::Mutex;

use super::check::{Finding, examine};
use super::{Configuration, Missing, Value};
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::environment::{Environment, SYSTEM_CONFIGURATION};
use crate::config::flags::RepositoryFlags;
use crate::config::parameters::{Parameters, switch};

/// Our directory within the one that is stated for `cvmfs2`, whose layout is another one.
const CACHE_FOLDER: &str = "cvmfs-fuse";

impl Configuration {
    /// Reads what holds for a repository: the files that flags name, or else the chain.
    pub fn of(
        flags: &RepositoryFlags,
        environment: &Environment,
        fqrn: Option<&Fqrn>,
    ) -> Result<Self, Failure> {
        let usable = |configuration: Self| match &configuration.broken {
            Some(remark) => {
                let advice = "correct it, or take it away";
                Err(Failure::new(ExitStatus::Options, format!("{remark}; {advice}")))
            }
            None => Ok(configuration),
        };
        let Some(list) = &flags.config else {
            return usable(Self::load(environment, fqrn));
        };
        let files = split(list);
        if let Some(missing) = files.iter().find(|file| !file.exists()) {
            let message = format!("--config {}: there is no such file", missing.display());
            return Err(Failure::new(ExitStatus::Options, message));
        }
        usable(Self::of_files(&files, fqrn))
    }

    /// Returns the cache directory that is stated, if one is.
    pub fn cache_directory(&self) -> Option<PathBuf> {
        cache_directory(&|name| self.text(name).map(str::to_owned))
    }

    /// Fills in what the flags leave open. What the flags say counts more.
    pub fn complete(&self, flags: &RepositoryFlags, environment: &Environment) -> RepositoryFlags {
        let mut flags = flags.clone();
        let text = |name: &str| self.text(name).map(str::to_owned);
        let is_pinned = flags.tag.is_some() || flags.root_hash.is_some() || flags.date.is_some();
        flags.server = flags.server.or_else(|| text("CVMFS_SERVER_URL"));
        flags.proxy = flags.proxy.or_else(|| text("CVMFS_HTTP_PROXY")).or_else(|| {
            // What the site of a single machine is, it finds out itself.
            let is_single = self.text("CVMFS_CLIENT_PROFILE") == Some("single");
            is_single.then(|| "auto;DIRECT".to_owned())
        });
        flags.public_key =
            flags.public_key.or_else(|| text("CVMFS_PUBLIC_KEY").map(OsString::from));
        if flags.public_key.is_none() {
            flags.public_key = self.text("CVMFS_KEYS_DIR").and_then(|dir| self.key_list(dir));
        }
        if !is_pinned {
            // As upstream: the narrower one counts.
            flags.root_hash = text("CVMFS_ROOT_HASH");
            if flags.root_hash.is_none() {
                flags.tag = text("CVMFS_REPOSITORY_TAG");
            }
            if flags.root_hash.is_none() && flags.tag.is_none() {
                flags.date = text("CVMFS_REPOSITORY_DATE");
            }
        }
        flags.blocklist = flags.blocklist.or_else(|| text("CVMFS_BLACKLIST").map(PathBuf::from));
        if self.get("CVMFS_USE_CDN").is_some() {
            flags.use_cdn = flags.use_cdn.or(Some(self.is_on("CVMFS_USE_CDN")));
        }
        // The directories of the machine's client are not for its users; what they say themselves is.
        let (own, is_stated) = (environment.own_configuration(), flags.config.is_some());
        let is_theirs = |value: &Value| {
            environment.is_root
                || is_stated
                || own
                    .as_ref()
                    .is_some_and(|own| value.origin.as_ref().is_some_and(|o| o.file == *own))
        };
        let theirs = |name: &str| {
            self.get(name).filter(|value| is_theirs(value)).map(|value| value.text.clone())
        };
        complete_cache(&mut flags, &theirs);
        let mut set: Vec<_> = Parameters::names()
            .filter_map(|name| Some(format!("{name}={}", self.text(name)?)))
            .filter(|text| Parameters::parse([text.as_str()]).is_ok())
            .collect();
        set.append(&mut flags.set);
        flags.set = set;
        // Whoever may read a link sees what it expands to.
        let variables = self
            .values
            .iter()
            .filter(|(name, value)| name.as_str() != "CVMFS_FQRN" && !has_password(&value.text));
        let mut variables: Vec<_> = variables
            .map(|(name, value)| OsString::from(format!("{name}={}", value.text)))
            .collect();
        variables.append(&mut flags.symlink_variable);
        flags.symlink_variable = variables;
        flags
    }

    /// Lists the keys of a directory as `--public-key` takes them; `None` if there are none.
    fn key_list(&self, directory: &str) -> Option<OsString> {
        let files = self.keys_in(Path::new(directory)).ok()?;
        let files: Vec<_> = files.into_iter().map(PathBuf::into_os_string).collect();
        (!files.is_empty()).then(|| files.join(OsStr::new(":")))
    }

    /// Says what was passed over, where, and what is likely meant: once in the life of a process,
    /// since an automounter reads the files for each repository.
    pub fn warn(&self) {
        static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        for line in unsaid(&examine(self), &mut SAID.lock()) {
            tracing::warn!("{line}");
        }
    }

    /// Refuses to go on without a configuration repository that is required.
    pub fn requires(&self) -> Result<(), Failure> {
        match &self.missing_repository {
            Some(Missing { name, why, exceeds }) if self.is_on("CVMFS_CONFIG_REPO_REQUIRED") => {
                let state = if *exceeds { "" } else { " not mounted," };
                Err(Failure::new(
                    ExitStatus::Unknown,
                    format!(
                        "the configuration repository {name} is required,{state} and cannot be \
                         read: {why}; correct that, or set CVMFS_CONFIG_REPO_REQUIRED=no"
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a repository that is not listed where only listed ones may be mounted.
    pub fn allows(&self, fqrn: &Fqrn) -> Result<(), Failure> {
        if !self.is_on("CVMFS_STRICT_MOUNT") {
            return Ok(());
        }
        let domain = self.text("CVMFS_DEFAULT_DOMAIN").unwrap_or_default();
        let listed = self.text("CVMFS_REPOSITORIES").unwrap_or_default();
        let is_it =
            |name: &str| name == fqrn.as_str() || format!("{name}.{domain}") == fqrn.as_str();
        let is_listed = listed.split([',', ' ']).any(is_it);
        if is_listed || self.text("CVMFS_CONFIG_REPOSITORY") == Some(fqrn.as_str()) {
            return Ok(());
        }
        Err(Failure::new(
            ExitStatus::Unknown,
            format!(
                "{fqrn} is not listed in CVMFS_REPOSITORIES, and CVMFS_STRICT_MOUNT allows no other; \
                 add it in {}/default.local",
                SYSTEM_CONFIGURATION
            ),
        ))
    }
}

fn cache_directory(text: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let directory = text("CVMFS_CACHE_DIR").or_else(|| text("CVMFS_CACHE_BASE"));
    directory.map(|path| Path::new(&path).join(CACHE_FOLDER))
}

fn complete_cache(flags: &mut RepositoryFlags, text: &dyn Fn(&str) -> Option<String>) {
    let cache = &mut flags.cache;
    if cache.alien_cache.is_none() && cache.cache_dir.is_none() {
        cache.alien_cache = text("CVMFS_ALIEN_CACHE").map(PathBuf::from);
    }
    if cache.cache_dir.is_none() {
        cache.cache_dir = cache_directory(text);
    }
    if cache.quota.is_none() && cache.alien_cache.is_none() {
        cache.quota = text("CVMFS_QUOTA_LIMIT").as_deref().and_then(quota);
    }
    let streams = text("CVMFS_STREAMING_CACHE");
    cache.streaming_cache |= streams.as_deref().and_then(switch) == Some(true);
}

/// Returns what was not said before. A line that moves or changes is a new one.
fn unsaid(findings: &[Finding], said: &mut BTreeSet<String>) -> Vec<String> {
    /// Beyond that, repeating costs less than remembering.
    const MOST: usize = 4096;
    if said.len() > MOST {
        said.clear();
    }
    let lines = findings.iter().map(|Finding { origin, text, advice, .. }| match origin {
        Some(origin) => format!("{origin}: {text}; {advice}"),
        None => format!("{text}; {advice}"),
    });
    lines.filter(|line| said.insert(line.clone())).collect()
}

/// Reads a limit in megabytes.
pub(super) fn quota(text: &str) -> Option<String> {
    match text.parse::<i64>().ok()? {
        -1 => Some("unlimited".to_owned()),
        megabytes if megabytes > 0 => Some(format!("{megabytes}M")),
        _ => None,
    }
}

/// Splits a list of files at its colons.
fn split(list: &OsString) -> Vec<PathBuf> {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let parts = list.as_bytes().split(|&byte| byte == b':').filter(|part| !part.is_empty());
    parts.map(|part| PathBuf::from(OsString::from_vec(part.to_vec()))).collect()
}

/// Tells whether a value has a URL with a user's name or password.
fn has_password(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let ends = |c: char| "/?#|;,".contains(c) || c.is_whitespace();
        rest.split(ends).next().is_some_and(|authority| authority.contains('@'))
    })
}
