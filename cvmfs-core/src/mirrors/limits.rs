//! What a round may ask of each server, and what is a fault.

use serde::{Deserialize, Serialize};

/// Bounds of what one server is asked in one round, by all ways together. They are kept whatever
/// the servers answer; a measurement that does not fit any more is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Time in seconds.
    pub seconds: u64,
}

impl Limits {
    /// As many as a client that starts a small program.
    pub const REQUESTS: u64 = 120;
    /// Enough to see the rate of a gigabit line, little beside a preload: 32 MiB.
    pub const BYTES: u64 = 32 << 20;
    /// A mirror that needs longer is of no use, whatever the figures would be.
    pub const SECONDS: u64 = 60;
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: Self::REQUESTS, bytes: Self::BYTES, seconds: Self::SECONDS }
    }
}

/// What is no fault yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tolerance {
    /// Seconds that a mirror may be behind the newest one.
    pub lag: i64,
    /// Seconds before its expiry from which on a whitelist is reported.
    pub whitelist: i64,
}

impl Tolerance {
    /// Mirrors copy every hour or so; one that missed a few turns is reported.
    pub const LAG: i64 = 4 * 3600;
    /// Whitelists hold for a month and are renewed long before their end.
    pub const WHITELIST: i64 = 2 * 24 * 3600;
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { lag: Self::LAG, whitelist: Self::WHITELIST }
    }
}

/// What a round does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What servers may be asked.
    pub limits: Limits,
    /// What is a fault.
    pub tolerance: Tolerance,
    /// Connections made by each way; the median is reported.
    pub connections: usize,
    /// Downloads at a time for which the rate is measured, one after the other; none: objects are
    /// checked, and rates are not measured.
    pub parallel: Vec<usize>,
    /// Which objects are chosen; the same for the same revision. `None`: others each time.
    pub seed: Option<u64>,
}

impl Plan {
    /// Connections by each way.
    pub const CONNECTIONS: usize = 3;
    /// One after the other, and as many as a browser has.
    pub const PARALLEL: [usize; 2] = [1, 6];
    /// Most downloads at a time that may be asked for: what a transport has with one server is 64.
    pub const MAX_PARALLEL: usize = 32;

    /// For monitoring: one connection, signatures, and a few objects to be checked; no rates.
    pub fn light() -> Self {
        Self { connections: 1, parallel: Vec::new(), ..Self::default() }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            tolerance: Tolerance::default(),
            connections: Self::CONNECTIONS,
            parallel: Self::PARALLEL.to_vec(),
            seed: None,
        }
    }
}
