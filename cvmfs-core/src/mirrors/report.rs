//! What a round found, as plain data that can be written and read again as JSON. Times are milliseconds or Unix seconds, as the names say.

use serde::{Deserialize, Serialize};

use super::limits::Limits;

/// One round over all servers of a repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// The repository.
    pub fqrn: String,
    /// When the round began, in Unix seconds.
    pub at: i64,
    /// How long it took.
    pub seconds: f64,
    /// The newest verified revision; `None` if no server has any.
    pub newest: Option<Newest>,
    /// Objects chosen to be fetched from all servers.
    pub sampled: usize,
    /// Why none could be chosen.
    pub sampling_failed: Option<String>,
    /// All servers, in the order of the configuration.
    pub mirrors: Vec<MirrorReport>,
    /// What the servers say about the order, and what was measured.
    pub geo: Geo,
    /// What was allowed.
    pub limits: Limits,
}

impl Survey {
    /// Returns the servers, the best one first.
    pub fn ranked(&self) -> Vec<&MirrorReport> {
        let mut ranked: Vec<_> = self.mirrors.iter().collect();
        ranked.sort_by_key(|mirror| mirror.rank);
        ranked
    }

    /// Returns what is different from an earlier round: for each server the kinds of faults that
    /// came and went.
    pub fn changes_since(&self, earlier: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for mirror in &self.mirrors {
            let before = earlier.mirrors.iter().find(|other| other.server == mirror.server);
            let before = before.map_or(&[][..], |before| before.faults.as_slice());
            let has = |faults: &[Fault], wanted: &Fault| {
                faults.iter().any(|fault| fault.kind == wanted.kind && fault.way == wanted.way)
            };
            let changed = |fault: &Fault, began| Change {
                server: mirror.server.clone(),
                began,
                fault: fault.clone(),
            };
            changes
                .extend(mirror.faults.iter().filter(|f| !has(before, f)).map(|f| changed(f, true)));
            changes.extend(
                before.iter().filter(|f| !has(&mirror.faults, f)).map(|f| changed(f, false)),
            );
        }
        changes
    }
}

/// A fault that came or went from one round to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Whose.
    pub server: String,
    /// It came; else it is gone.
    pub began: bool,
    /// Which; as it was when it was seen last.
    pub fault: Fault,
}

/// The newest revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// Its number.
    pub revision: u64,
    /// Time of publication in Unix seconds; 0 if the manifest does not say.
    pub published: u64,
    /// Hash of its root catalog.
    pub root_catalog: String,
}

/// What was found about one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MirrorReport {
    /// Its base URL.
    pub server: String,
    /// Its place, the best one is 1. Right and new comes before fast.
    pub rank: usize,
    /// What the order among equally good ones rests on: milliseconds for a fixed mix of small and
    /// large files by its best way; `None` if there is none.
    pub cost_ms: Option<f64>,
    /// What its verified letters say; `None` if it has none.
    pub letters: Option<LettersReport>,
    /// How far it is behind the newest one; `None` if it is not.
    pub lag: Option<Lag>,
    /// By each way, in the order of the configuration.
    pub ways: Vec<WayReport>,
    /// Requests sent to it in this round.
    pub requests: u64,
    /// Bytes of bodies that it sent.
    pub bytes: u64,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

impl MirrorReport {
    /// Tells whether there is a fault of this kind.
    pub fn has(&self, kind: FaultKind) -> bool {
        self.faults.iter().any(|fault| fault.kind == kind)
    }
}

/// What verified letters say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LettersReport {
    /// Number of the revision.
    pub revision: u64,
    /// Time of publication in Unix seconds; 0 if the manifest does not say.
    pub published: u64,
    /// When the whitelist expires, in Unix seconds.
    pub whitelist_expires: i64,
    /// Seconds until then.
    pub whitelist_left: i64,
}

/// How far a server is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Revisions.
    pub revisions: u64,
    /// Seconds since the first revision that it lacks was published. Exact if it is one revision
    /// behind; else as if the ones between had come at equal intervals. 0 if manifests tell no time.
    pub seconds: i64,
}

/// One server by one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WayReport {
    /// URL of the proxy, without password, or `DIRECT`.
    pub proxy: String,
    /// Its connections; `None` if there was none, or for `file://`.
    pub connection: Option<ConnectionReport>,
    /// The time for manifest, whitelist and certificate together; `None` if they are not right.
    pub letters_ms: Option<f64>,
    /// What became of the objects.
    pub objects: Objects,
    /// Rates by size of objects and downloads at a time.
    pub throughput: Vec<Throughput>,
}

/// The steps of a connection: medians of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// With whom: address and port of the server or the proxy.
    pub address: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// The name; `None` if an address was given.
    pub dns_ms: Option<f64>,
    /// TCP.
    pub connect_ms: f64,
    /// TLS; `None` without.
    pub tls_ms: Option<f64>,
    /// From the request to the head of the answer, on a new connection.
    pub first_byte_ms: f64,
    /// The same on a connection that is there; `None` if it is not kept.
    pub kept_ms: Option<f64>,
    /// The server keeps connections.
    pub keep_alive: bool,
    /// The server's clock minus ours, in seconds; `None` if it tells none. A round's own length
    /// is in it.
    pub clock_skew: Option<i64>,
    /// Connections that were made, of those that were tried.
    pub made: usize,
    /// Connections that were tried.
    pub tried: usize,
}

impl ConnectionReport {
    /// Returns the time for everything up to the first byte on a new connection.
    pub fn total_ms(&self) -> f64 {
        self.dns_ms.unwrap_or(0.0)
            + self.connect_ms
            + self.tls_ms.unwrap_or(0.0)
            + self.first_byte_ms
    }
}

/// What became of sampled objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// The root catalog that the server's own manifest names.
    pub root_catalog: ObjectOutcome,
    /// Hash and size were right.
    pub verified: usize,
    /// Another content than their hash says.
    pub corrupt: usize,
    /// The server has none.
    pub missing: usize,
    /// Not fetched for another reason.
    pub failed: usize,
    /// What was wrong with some of them.
    pub notes: Vec<String>,
}

/// What became of one object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectOutcome {
    /// Too large for the limits, or there was no time.
    #[default]
    NotAsked,
    /// Hash and size were right.
    Verified,
    /// Another content than its hash says.
    Corrupt,
    /// The server has none.
    Missing,
    /// Not fetched for another reason.
    Failed,
}

/// Sizes that are measured apart, plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SizeClass {
    /// Up to 16 KiB: the round trip is all.
    Tiny,
    /// Up to 256 KiB.
    Small,
    /// Up to 2 MiB.
    Medium,
    /// Up to 16 MiB, the largest chunks that are published by default.
    Large,
}

impl SizeClass {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tiny, Self::Small, Self::Medium, Self::Large];

    /// Returns the largest size in it.
    pub fn most(self) -> u64 {
        match self {
            Self::Tiny => 16 << 10,
            Self::Small => 256 << 10,
            Self::Medium => 2 << 20,
            Self::Large => 16 << 20,
        }
    }

    /// Finds the class of a size; `None` if it is larger than is measured with.
    pub fn of(size: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|class| size <= class.most())
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}

/// A rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Sizes of the objects.
    pub class: SizeClass,
    /// Downloads at a time.
    pub parallel: usize,
    /// Downloads that ended.
    pub objects: usize,
    /// Bytes of all, also of those that did not end in time.
    pub bytes: u64,
    /// Time for all.
    pub seconds: f64,
    /// Bytes per second.
    pub rate: f64,
}

/// Orders of servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geo {
    /// What each server says.
    pub answers: Vec<GeoAnswer>,
    /// Places in the list of mirrors, the one with the fastest first byte first; only those that
    /// answered.
    pub measured: Vec<usize>,
    /// Pairs of servers that the first order told and the measured one see differently.
    pub disagreements: Option<usize>,
    /// Pairs that were compared.
    pub pairs: usize,
}

/// What one server says about the order of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeoAnswer {
    /// Who was asked.
    pub server: String,
    /// Places in the list of mirrors, the nearest first.
    pub order: Option<Vec<usize>>,
    /// Why there is no order.
    pub error: Option<String>,
}

/// Something that is wrong with a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind of.
    pub kind: FaultKind,
    /// How bad.
    pub severity: Severity,
    /// By which way; `None`: by all.
    pub way: Option<String>,
    /// For people.
    pub message: String,
}

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It can be used.
    Warning,
    /// It should not be used.
    Problem,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// No answer.
    Unreachable,
    /// It answers, and does not have the repository.
    Absent,
    /// Its letters fail a check of the chain of trust.
    Untrusted,
    /// Its whitelist is void.
    WhitelistExpired,
    /// Its whitelist will be void soon.
    WhitelistExpiring,
    /// It is behind the newest revision.
    Stale,
    /// It has another content under the same revision than the others.
    Diverged,
    /// An object has another content than its hash says.
    Corrupt,
    /// An object of its own revision is not there.
    Missing,
    /// Objects could not be fetched for other reasons.
    Failing,
    /// Connections are closed after each answer.
    NoKeepAlive,
    /// Its clock is wrong.
    Clock,
}

impl FaultKind {
    /// Returns its name, as it is in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Absent => "absent",
            Self::Untrusted => "untrusted",
            Self::WhitelistExpired => "whitelist-expired",
            Self::WhitelistExpiring => "whitelist-expiring",
            Self::Stale => "stale",
            Self::Diverged => "diverged",
            Self::Corrupt => "corrupt",
            Self::Missing => "missing",
            Self::Failing => "failing",
            Self::NoKeepAlive => "no-keep-alive",
            Self::Clock => "clock",
        }
    }
}
