//! Exit codes and the one line on stderr that says why (spec/config.md, "Exit codes").

use std::fmt;
use std::process::ExitCode;

use cvmfs_core::chain::chain;
use serde::{Deserialize, Serialize};

/// How a command ended. Codes and texts are those of `cvmfs2`, which scripts and the CSI driver
/// match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ExitStatus {
    /// Success.
    Ok = 0,
    /// Everything without a code of its own; also: a path does not exist (`ls`, `cat`, `stat`).
    Unknown = 1,
    /// The command line is wrong, or does not say enough.
    Options = 2,
    /// The mountpoint does not exist, or may not be used.
    Permission = 3,
    /// The kernel refused to mount.
    Mount = 4,
    /// The control socket could not be made ready for the loader.
    LoaderTalk = 5,
    /// The FUSE requests could not be served.
    FuseLoop = 6,
    /// A library is missing.
    LoadLibrary = 7,
    /// A library does not fit.
    IncompatibleVersion = 8,
    /// The cache directory is not usable.
    CacheDirectory = 9,
    /// Processes that share a cache cannot agree.
    Peering = 10,
    /// The NFS maps are not usable.
    NfsMaps = 11,
    /// The cache limit cannot be enforced.
    Quota = 12,
    /// The process that writes crash reports did not start.
    Watchdog = 13,
    /// The control socket is not usable.
    Talk = 14,
    /// Master keys or blocklist cannot be read.
    Signature = 15,
    /// Manifest, whitelist, certificate or root catalog cannot be had, or failed a check.
    Catalog = 16,
    /// Another process holds the mount for maintenance.
    Maintenance = 17,
    /// The state could not be saved for a reload.
    SaveState = 18,
    /// The saved state could not be restored.
    RestoreState = 19,
    /// The repository is mounted elsewhere.
    AlreadyMounted = 20,
    /// Something is mounted on the mountpoint.
    DoubleMount = 21,
    /// The list of tags cannot be had, or has no such tag or date.
    History = 22,
    /// No proxy could be chosen.
    Proxy = 23,
    /// Another process uses the cache directory alone.
    WorkspaceLocked = 24,
    /// The revision is on the blocklist.
    RevisionBlocked = 25,
}

impl ExitStatus {
    /// Returns the code that the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Returns the code by which a helper of mount(8) ends, which has only these: 0 for success, 1 for a
    /// wrong use, 2 for a system error, 32 for a mount that failed.
    ///
    /// automount(8) gives the bits of these codes their meaning from mount(8): 16, ours for a failure of a
    /// catalog, is "mounted, but not written to mtab", and would be tried again for ever.
    pub fn mount_helper_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Options => 1,
            Self::Unknown => 2,
            _ => 32,
        }
    }

    /// Finds the status that a process ended with.
    pub fn of_code(code: u8) -> Option<Self> {
        ALL.iter().copied().find(|status| status.code() == code)
    }

    /// Returns the text that stands beside the code on stderr.
    pub fn text(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Unknown => "unknown error",
            Self::Options => "illegal options",
            Self::Permission => "permission denied",
            Self::Mount => "failed to mount",
            Self::LoaderTalk => "unable to init loader talk socket",
            Self::FuseLoop => "cannot run FUSE event loop",
            Self::LoadLibrary => "failed to load shared library",
            Self::IncompatibleVersion => "incompatible library version",
            Self::CacheDirectory => "cache directory/plugin problem",
            Self::Peering => "peering problem",
            Self::NfsMaps => "NFS maps init failure",
            Self::Quota => "quota init failure",
            Self::Watchdog => "watchdog failure",
            Self::Talk => "talk socket failure",
            Self::Signature => "signature verification failure",
            Self::Catalog => "file catalog failure",
            Self::Maintenance => "maintenance mode",
            Self::SaveState => "state saving failure",
            Self::RestoreState => "state restore failure",
            Self::AlreadyMounted => "already mounted",
            Self::DoubleMount => "double mount",
            Self::History => "history init failure",
            Self::Proxy => "proxy auto-discovery failed",
            Self::WorkspaceLocked => "workspace already locked",
            Self::RevisionBlocked => "revision blacklisted",
        }
    }
}

/// By code.
const ALL: [ExitStatus; 26] = [
    ExitStatus::Ok,
    ExitStatus::Unknown,
    ExitStatus::Options,
    ExitStatus::Permission,
    ExitStatus::Mount,
    ExitStatus::LoaderTalk,
    ExitStatus::FuseLoop,
    ExitStatus::LoadLibrary,
    ExitStatus::IncompatibleVersion,
    ExitStatus::CacheDirectory,
    ExitStatus::Peering,
    ExitStatus::NfsMaps,
    ExitStatus::Quota,
    ExitStatus::Watchdog,
    ExitStatus::Talk,
    ExitStatus::Signature,
    ExitStatus::Catalog,
    ExitStatus::Maintenance,
    ExitStatus::SaveState,
    ExitStatus::RestoreState,
    ExitStatus::AlreadyMounted,
    ExitStatus::DoubleMount,
    ExitStatus::History,
    ExitStatus::Proxy,
    ExitStatus::WorkspaceLocked,
    ExitStatus::RevisionBlocked,
];

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

/// Why a command failed, ready for people; travels through the ready pipe of the daemon as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Failure {
    /// What the process ends with.
    pub status: ExitStatus,
    /// What failed, where, and what to do next. No line break, no trailing period.
    pub message: String,
}

impl Failure {
    /// Joins a status and its explanation.
    pub fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// Explains an error with all its causes: `what: error: cause: cause`.
    pub fn caused(
        status: ExitStatus,
        what: &str,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self::new(status, format!("{what}: {}", chain(error)))
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn advise(mut self, advice: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(advice);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Server names and answers end up in messages: one line, and nothing for the terminal.
        f.write_str(&crate::escape::one_line(&self.message.replace('\n', " ")))?;
        write!(f, " ({} - {})", self.status.code(), self.status.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_texts_of_the_specification() {
        let table = [
            (ExitStatus::Ok, 0, "OK"),
            (ExitStatus::Unknown, 1, "unknown error"),
            (ExitStatus::Options, 2, "illegal options"),
            (ExitStatus::Permission, 3, "permission denied"),
            (ExitStatus::Mount, 4, "failed to mount"),
            (ExitStatus::CacheDirectory, 9, "cache directory/plugin problem"),
            (ExitStatus::Signature, 15, "signature verification failure"),
            (ExitStatus::Catalog, 16, "file catalog failure"),
            (ExitStatus::AlreadyMounted, 20, "already mounted"),
            (ExitStatus::History, 22, "history init failure"),
            (ExitStatus::Proxy, 23, "proxy auto-discovery failed"),
            (ExitStatus::RevisionBlocked, 25, "revision blacklisted"),
        ];
        for (status, code, text) in table {
            assert_eq!((status.code(), status.text()), (code, text));
        }
        for (code, status) in (0..).zip(ALL) {
            assert_eq!(ExitStatus::of_code(code), Some(status));
            assert!([0, 1, 2, 32].contains(&status.mount_helper_code()));
        }
        assert_eq!(ExitStatus::Catalog.mount_helper_code(), 32);
        assert_eq!(ExitStatus::of_code(26), None);
    }

    #[test]
    fn one_line_for_people_and_scripts() {
        let failure =
            Failure::new(ExitStatus::Catalog, "http://h\n\x1b[31msays no").advise("ask h");
        assert_eq!(
            failure.to_string(),
            "http://h \\x1b[31msays no; ask h (16 - file catalog failure)"
        );
    }

    #[test]
    fn survives_the_ready_pipe() {
        let failure = Failure::new(ExitStatus::DoubleMount, "busy");
        let json = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&json).unwrap(), failure);
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open x")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(
            Failure::caused(ExitStatus::Unknown, "demo", &error).message,
            "demo: cannot open x: disk on fire"
        );
    }
}
