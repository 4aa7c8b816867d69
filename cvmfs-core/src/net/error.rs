//! Why a download failed, attempt by attempt.

use std::time::Duration;

use super::proxy::without_password;
use crate::chain::chain;
use crate::decode::DecodeError;
use crate::descriptors::is_out_of_descriptors;
use crate::share::Exhausted;

/// What kind of failure it was, and so what is tried next (spec/network.md section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// The server's name has no address.
    HostResolve,
    /// The server cannot be reached, or the transfer broke.
    HostTransfer,
    /// The server answered with an error.
    HostHttp,
    /// The proxy's name has no address.
    ProxyResolve,
    /// The proxy cannot be reached, or the transfer broke.
    ProxyTransfer,
    /// The proxy answered with an error of its own.
    ProxyHttp,
    /// The body is not the object.
    BadData,
    /// Too slow for its size, while another route is left.
    Slow,
    /// No turn at this server or proxy. Says nothing about it: users wait for each other.
    Busy,
    /// Our own disk: no other way would help.
    Final,
}

impl FailureClass {
    /// Tells whether the next proxy is tried, and not the next server.
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::ProxyResolve | Self::ProxyTransfer | Self::ProxyHttp)
    }

    /// Tells whether the same way may be tried again.
    pub fn is_transfer(self) -> bool {
        matches!(self, Self::HostTransfer | Self::ProxyTransfer)
    }
}

/// What the choice of the next way depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub class: FailureClass,
    /// Likely to be gone at the next try: worth one even where retries are switched off, if
    /// there is no other way.
    pub transient: bool,
    /// The server asked for patience.
    pub retry_after: Option<Duration>,
}

/// Why one attempt by one way failed. Texts follow upstream's where it has one, since tools match
/// them (spec/format.md section 9).
#[derive(Debug, Clone, thiserror::Error)]
pub enum AttemptError {
    /// Another status than 200.
    #[error("{} (HTTP {code})", if *.by_proxy { "proxy returned HTTP error" } else { "host returned HTTP error" })]
    Status {
        /// The status.
        code: u16,
        /// The proxy says that the error is its own.
        by_proxy: bool,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// A name without address.
    #[error("failed to resolve the address: {0}")]
    Resolve(String),
    /// Too many transfers with this server or proxy are under way already.
    #[error("no free connection: {0}")]
    Busy(Exhausted),
    /// No connection.
    #[error("host connection problem: {0}")]
    Connect(String),
    /// Nothing came for this long.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// Slower than the limit.
    #[error("host serving data too slowly: {bytes} bytes in {seconds} s")]
    TooSlow {
        /// Bytes received.
        bytes: u64,
        /// In this time.
        seconds: u64,
    },
    /// Slower than what is left to be useful, while another route is left.
    #[error("host serving data too slowly while another is left: {bytes} bytes in {seconds} s")]
    Outpaced {
        /// Bytes received.
        bytes: u64,
        /// In this time.
        seconds: u64,
    },
    /// The body ended early or the connection broke.
    #[error("host data transfer cut short: {0}")]
    Cut(String),
    /// More bytes than the object can have.
    #[error("resource too big to download: over {0} bytes")]
    TooLarge(u64),
    /// The body is not the object.
    #[error("corrupted data received: {0}")]
    Corrupt(String),
    /// The transport cannot be set up.
    #[error("unusable address: {0}")]
    Unusable(String),
    /// HTTPS, and nobody on this machine to vouch for servers, as in an empty container.
    #[error("this machine has no certificates of authorities, which HTTPS needs")]
    NoAuthorities,
    /// It sent a whole file where a part was wanted.
    #[error("the server does not send parts of files (no HTTP ranges)")]
    NoParts,
    /// A `file://` server's disk.
    #[error("local I/O failure: {0}")]
    Local(String),
    /// We have no descriptor left.
    #[error("out of file descriptors: {0}")]
    Descriptors(String),
    /// Our own cache could not take the object.
    #[error("cannot store the object: {0}")]
    Cache(String),
}

impl AttemptError {
    pub(super) fn from_reqwest(error: &reqwest::Error) -> Self {
        // The outermost text only repeats the URL, which every attempt carries anyway.
        let text = std::error::Error::source(error).map_or_else(|| chain(error), chain);
        if out_of_descriptors(error) {
            Self::Descriptors(text)
        } else if error.is_connect() && text.contains("dns error") {
            Self::Resolve(text)
        } else if error.is_connect() {
            Self::Connect(text)
        } else if error.is_builder() {
            Self::Unusable(text)
        } else {
            Self::Cut(text)
        }
    }

    /// Classifies the failure of a way (spec/network.md section 7.1).
    pub fn failure(&self, through_proxy: bool) -> Failure {
        use FailureClass::{
            BadData, Busy, Final, HostHttp, HostResolve, HostTransfer, ProxyHttp, ProxyResolve,
            ProxyTransfer, Slow,
        };
        let side = |proxy, host| if through_proxy { proxy } else { host };
        let class = match self {
            Self::Status { by_proxy: true, .. } => side(ProxyHttp, HostHttp),
            // Patience helps, so it is repeated like a broken transfer.
            Self::Status { code: 429, .. } => HostTransfer,
            Self::Status { code: 400 | 404 | 500.. | 300..=399, .. } => HostHttp,
            Self::Status { .. } => side(ProxyHttp, HostHttp),
            Self::Resolve(_) => side(ProxyResolve, HostResolve),
            Self::Connect(_) | Self::Silent(_) | Self::TooSlow { .. } | Self::Cut(_) => {
                side(ProxyTransfer, HostTransfer)
            }
            Self::Busy(_) => Busy,
            Self::Outpaced { .. } => Slow,
            Self::Local(_) => HostTransfer,
            Self::TooLarge(_) | Self::Unusable(_) | Self::NoAuthorities | Self::NoParts => HostHttp,
            Self::Corrupt(_) => BadData,
            Self::Cache(_) | Self::Descriptors(_) => Final,
        };
        let (transient, retry_after) = match self {
            Self::Cut(_) => (true, None),
            Self::Status { code: 429, retry_after, .. } => (true, *retry_after),
            Self::Status { code: 503, retry_after: Some(time), .. } => (true, Some(*time)),
            _ => (false, None),
        };
        Failure { class, transient, retry_after }
    }

    /// Tells whether what was received before it is good as far as it goes.
    pub(super) fn keeps_what_came(&self) -> bool {
        matches!(
            self,
            Self::Silent(_) | Self::TooSlow { .. } | Self::Outpaced { .. } | Self::Cut(_)
        )
    }
}

/// Looks for EMFILE among the causes: it says nothing about the server.
fn out_of_descriptors(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(is_out_of_descriptors)
}

impl From<DecodeError> for AttemptError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooLarge { limit, .. } => Self::TooLarge(limit),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

/// One failed attempt.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What was asked for.
    pub url: String,
    /// The proxy, if any.
    pub proxy: Option<String>,
    /// What happened.
    pub error: AttemptError,
}

/// No way led to the object.
#[derive(Debug, Clone, Default, thiserror::Error)]
pub struct DownloadError {
    /// All attempts, in order.
    pub attempts: Vec<Attempt>,
}

impl DownloadError {
    /// Tells whether the server answered that it has no such file: its last word, by whatever way.
    pub fn is_absence(&self) -> bool {
        let is_not_found = |attempt: &Attempt| {
            matches!(attempt.error, AttemptError::Status { code: 404, by_proxy: false, .. })
        };
        self.attempts.last().is_some_and(is_not_found)
    }
}

impl std::fmt::Display for DownloadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, attempt) in self.attempts.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}", attempt.url)?;
            if let Some(proxy) = &attempt.proxy {
                write!(f, " through {}", without_password(proxy))?;
            }
            write!(f, ": {}", attempt.error)?;
        }
        if self.attempts.is_empty() {
            f.write_str("no server is configured")?;
        }
        Ok(())
    }
}
