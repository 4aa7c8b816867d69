//! Why a download failed, attempt by attempt.

use std::time::Duration;

use crate::chain::chain;
use crate::decode::DecodeError;

/// Which part of the way is to blame, and so what is tried next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The next server.
    Host,
    /// The next proxy to the same server; without a proxy the next server.
    Proxy,
    /// Our own disk: no other way would help.
    Local,
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
    },
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
    /// A `file://` server's disk.
    #[error("local I/O failure: {0}")]
    Local(String),
    /// Our own cache could not take the object.
    #[error("cannot store the object: {0}")]
    Cache(String),
}

impl AttemptError {
    pub(super) fn from_reqwest(error: &reqwest::Error) -> Self {
        // The outermost text only repeats the URL, which every attempt carries anyway.
        let text = std::error::Error::source(error).map_or_else(|| chain(error), chain);
        if error.is_connect() {
            Self::Connect(text)
        } else if error.is_builder() {
            Self::Unusable(text)
        } else {
            Self::Cut(text)
        }
    }

    /// Tells what to try next (facts/behaviours.md section 2.11).
    pub fn blame(&self, through_proxy: bool) -> Blame {
        match self {
            Self::Status { code: 400 | 404 | 429 | 500.., by_proxy: false } => Blame::Host,
            Self::TooLarge(_) | Self::Corrupt(_) | Self::Unusable(_) => Blame::Host,
            Self::Status { .. }
            | Self::Connect(_)
            | Self::Silent(_)
            | Self::TooSlow { .. }
            | Self::Cut(_) => {
                if through_proxy {
                    Blame::Proxy
                } else {
                    Blame::Host
                }
            }
            Self::Local(_) => Blame::Host,
            Self::Cache(_) => Blame::Local,
        }
    }
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

/// Secrets in a proxy address are not for logs (facts/behaviours.md T22).
fn without_password(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => {
            let _ = parsed.set_password(Some("***"));
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}
