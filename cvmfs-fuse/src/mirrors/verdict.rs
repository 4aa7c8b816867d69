//! The exit code of a comparison.

use clap::ValueEnum;
use cvmfs_core::mirrors::{Fault, FaultKind, Severity, Survey};

/// What the code of every finding is added to; below it are the codes of other failures.
pub const BASE: u8 = 64;

/// What can be wrong with mirrors, as far as programs tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Finding {
    /// A server does not answer, or does not have the repository
    Unreachable,
    /// A server is too far behind the newest revision
    Stale,
    /// Signatures or objects are not right, or objects are not there
    Corrupt,
    /// A whitelist is expired, or will be soon
    Whitelist,
}

impl Finding {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unreachable, Self::Stale, Self::Corrupt, Self::Whitelist];

    /// Returns its part of the exit code.
    pub fn bit(self) -> u8 {
        match self {
            Self::Unreachable => 1,
            Self::Stale => 2,
            Self::Corrupt => 4,
            Self::Whitelist => 8,
        }
    }

    /// Finds what a fault is; `None` for one that is worth a warning only.
    pub fn of(fault: &Fault) -> Option<Self> {
        if fault.severity == Severity::Warning {
            return None;
        }
        match fault.kind {
            FaultKind::Unreachable | FaultKind::Absent => Some(Self::Unreachable),
            FaultKind::Stale => Some(Self::Stale),
            FaultKind::Untrusted
            | FaultKind::Diverged
            | FaultKind::Corrupt
            | FaultKind::Missing
            | FaultKind::Failing => Some(Self::Corrupt),
            FaultKind::WhitelistExpired | FaultKind::WhitelistExpiring => Some(Self::Whitelist),
            FaultKind::NoKeepAlive | FaultKind::Clock => None,
        }
    }
}

/// Returns the exit code: 0, or [`BASE`] and the bits of all findings that count.
pub fn code(surveys: &[Survey], counted: &[Finding]) -> u8 {
    let faults = surveys.iter().flat_map(|survey| &survey.mirrors).flat_map(|m| &m.faults);
    let found = faults.filter_map(Finding::of).filter(|finding| counted.contains(finding));
    match found.fold(0, |bits, finding| bits | finding.bit()) {
        0 => 0,
        bits => BASE | bits,
    }
}
