//! The environment of the process and the places of this machine: read here, once, and nowhere else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Variable with the log filter, e.g. `cvmfs_core=debug`; flags `-v` win.
pub const LOG_VARIABLE: &str = "CVMFS_FUSE_LOG";

/// Configuration directory of CernVM-FS clients, shared with upstream; only read.
pub const SYSTEM_CONFIGURATION: &str = "/etc/cvmfs";
/// Variable with another directory in its place.
const CONFIGURATION_VARIABLE: &str = "CVMFS_FUSE_CONFIG_DIR";
/// Cache of mounts that root makes; upstream uses `/var/lib/cvmfs`, with another layout.
const SYSTEM_CACHE: &str = "/var/lib/cvmfs-fuse";

/// What the surroundings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The process runs as root, maybe in a user namespace.
    pub is_root: bool,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub cache_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// [`LOG_VARIABLE`].
    pub log: Option<String>,
    /// `http_proxy`; only looked at where proxies are to be found (`auto`).
    pub http_proxy: Option<String>,
    /// Configuration, keys and blocklist of this machine.
    pub configuration: PathBuf,
    /// A configuration repository may be read where it is mounted: not by the process that
    /// mounts it.
    pub reads_config_repository: bool,
}

impl Environment {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        Self {
            is_root: nix::unistd::geteuid().is_root(),
            home: variable("HOME").map(PathBuf::from),
            cache_home: variable("XDG_CACHE_HOME").map(PathBuf::from),
            config_home: variable("XDG_CONFIG_HOME").map(PathBuf::from),
            log: variable(LOG_VARIABLE).and_then(|value| value.into_string().ok()),
            http_proxy: variable("http_proxy").and_then(|value| value.into_string().ok()),
            configuration: variable(CONFIGURATION_VARIABLE)
                .map_or_else(|| PathBuf::from(SYSTEM_CONFIGURATION), PathBuf::from),
            reads_config_repository: true,
        }
    }

    /// Returns the cache directory to use without `--cache-dir`; `None` for a user without home.
    pub fn default_cache_dir(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some(PathBuf::from(SYSTEM_CACHE));
        }
        self.of_user(self.cache_home.as_ref(), ".cache").map(|base| base.join("cvmfs-fuse"))
    }

    /// Returns the cache directories of this user and of the machine that nobody has to state.
    pub fn cache_dirs(&self) -> Vec<PathBuf> {
        let mut all: Vec<_> = self.default_cache_dir().into_iter().collect();
        all.push(PathBuf::from(SYSTEM_CACHE));
        all.dedup();
        all
    }

    /// Returns `XDG_RUNTIME_DIR`, if it is an absolute path.
    pub fn runtime_dir() -> Option<PathBuf> {
        variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// Returns the configuration file of a user; root has those of the machine.
    pub fn own_configuration(&self) -> Option<PathBuf> {
        let base = self.of_user(self.config_home.as_ref(), ".config").filter(|_| !self.is_root)?;
        Some(base.join("cvmfs-fuse/config.toml"))
    }

    /// A base directory of a user. The XDG specification: a relative path is invalid and is to be
    /// ignored.
    fn of_user(&self, stated: Option<&PathBuf>, below_home: &str) -> Option<PathBuf> {
        let absolute = |path: &&PathBuf| path.is_absolute();
        let home = || self.home.as_ref().filter(absolute).map(|home| home.join(below_home));
        stated.filter(absolute).cloned().or_else(home)
    }

    /// Returns where a broker listens whose place nobody stated: one for the machine.
    pub fn default_broker(&self) -> PathBuf {
        "/run/cvmfs-fuse/broker.sock".into()
    }

    /// Returns a directory of this user where anybody can have one.
    pub fn scratch_dir(&self) -> PathBuf {
        self.scratch_dir_of(nix::unistd::geteuid().as_raw())
    }

    /// The same for a user as whom we do not run.
    pub fn scratch_dir_of(&self, uid: u32) -> PathBuf {
        std::env::temp_dir().join(format!("cvmfs-fuse-{uid}"))
    }

    /// Makes [`Environment::scratch_dir_of`] a user, if it is missing, and returns it.
    ///
    /// # Errors
    /// If somebody else has taken the name, which anybody can guess, or may write there.
    pub fn own_scratch_dir(&self, uid: u32) -> std::io::Result<PathBuf> {
        use cvmfs_cache::safe_path::{PRIVATE, make_new_directory};
        let directory = self.scratch_dir_of(uid);
        match make_new_directory(&directory, PRIVATE) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = rustix::fs::lstat(&directory)?;
        let is_directory = rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir();
        let is_private = found.st_mode & 0o2077 == 0;
        if !is_directory || !is_private || found.st_uid != nix::unistd::geteuid().as_raw() {
            return Err(std::io::Error::other(format!(
                "{} belongs to user {} and has mode {:o}: others may have made it; remove it, or give \
                 another directory",
                directory.display(),
                found.st_uid,
                found.st_mode & 0o7777
            )));
        }
        Ok(directory)
    }

    /// Returns where upstream's clients keep the blocklist.
    pub fn blocklist_file(&self) -> PathBuf {
        self.configuration.join("blacklist")
    }

    /// Returns where upstream's clients keep master keys.
    pub fn keys_dir(&self) -> PathBuf {
        self.configuration.join("keys")
    }
}

/// Reads one variable; empty counts as unset.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Makes a path independent of the current directory, which a daemon leaves. Follows no links.
pub fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_directories() {
        let at = |is_root, home: Option<&str>, cache_home: Option<&str>| {
            Environment {
                is_root,
                home: home.map(PathBuf::from),
                cache_home: cache_home.map(PathBuf::from),
                config_home: None,
                log: None,
                http_proxy: None,
                configuration: PathBuf::from("/etc/cvmfs"),
                reads_config_repository: true,
            }
            .default_cache_dir()
            .map(|dir| dir.display().to_string())
        };
        for (is_root, home, cache_home, expected) in [
            (true, Some("/root"), Some("/x"), Some("/var/lib/cvmfs-fuse")),
            (false, Some("/home/a"), None, Some("/home/a/.cache/cvmfs-fuse")),
            (false, Some("/home/a"), Some("/x"), Some("/x/cvmfs-fuse")),
            (false, Some("/home/a"), Some("rel"), Some("/home/a/.cache/cvmfs-fuse")),
            (false, Some("rel"), None, None),
            (false, None, None, None),
        ] {
            assert_eq!(at(is_root, home, cache_home).as_deref(), expected);
        }
    }
}
