//! One server by one way: what its connections are like, and whether its letters are right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::meter::Meter;
use super::report::{ConnectionReport, Objects, Throughput};
use crate::cache::MemoryCache;
use crate::fetch::Fetcher;
use crate::format::manifest::Manifest;
use crate::letters::{Judge, Letters, SeenWhitelists, ServerError};
use crate::net::probe::{Connection, ProbeError, Prober};
use crate::net::transport::escape_url;
use crate::net::{Downloader, Proxy, ProxySpec, Selection, SelectionOptions};
use crate::repository::RepositoryConfig;
use crate::trust::Verified;

/// What is asked for to measure a connection; every server has it.
const PROBE: &str = "/.cvmfspublished";
/// Requests of one probe.
const PROBE_REQUESTS: u64 = 2;

/// What is asked, of whom.
pub(super) struct Question<'a> {
    pub(super) config: &'a RepositoryConfig,
    pub(super) prober: &'a Prober,
    pub(super) meter: &'a Arc<Meter>,
    pub(super) connections: usize,
    pub(super) server: &'a str,
    pub(super) proxy: &'a Proxy,
    /// Unix seconds at the start of the round.
    pub(super) now: i64,
}

/// What was found by one way.
pub(super) struct Way {
    pub(super) proxy: Proxy,
    pub(super) connection: Option<ConnectionReport>,
    pub(super) letters: Result<FoundLetters, Refusal>,
    pub(super) objects: Objects,
    pub(super) throughput: Vec<Throughput>,
}

/// Verified letters.
pub(super) struct FoundLetters {
    pub(super) manifest: Verified<Manifest>,
    pub(super) whitelist_expires: i64,
    pub(super) took: Duration,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Nobody answers.
    #[error(transparent)]
    Connection(#[from] ProbeError),
    /// Letters are not there or not right.
    #[error(transparent)]
    Letters(#[from] ServerError),
    /// The limits do not allow to ask.
    #[error("not asked: the limit of requests or bytes of this round is used up")]
    UsedUp,
    /// The time of the round is over.
    #[error("not done within {0} s")]
    TooSlow(u64),
}

impl Way {
    fn new(proxy: &Proxy, letters: Result<FoundLetters, Refusal>) -> Self {
        Self {
            proxy: proxy.clone(),
            connection: None,
            letters,
            objects: Objects::default(),
            throughput: Vec::new(),
        }
    }

    pub(super) fn too_slow(proxy: &Proxy, seconds: u64) -> Self {
        Self::new(proxy, Err(Refusal::TooSlow(seconds)))
    }

    /// Connects some times, then asks for the letters as a mount does.
    pub(super) async fn ask(question: Question<'_>) -> Self {
        let proxy = question.proxy;
        let connection = match question.server.starts_with("file:") {
            true => None,
            false => match question.connect().await {
                Ok(connection) => Some(connection),
                Err(error) => return Self::new(proxy, Err(error)),
            },
        };
        Self { connection, ..Self::new(proxy, question.letters().await) }
    }
}

impl Question<'_> {
    async fn connect(&self) -> Result<ConnectionReport, Refusal> {
        let url = escape_url(format!("{}{PROBE}", self.server).as_bytes());
        let limit = self.config.timeouts.silence(self.proxy);
        let mut made: Vec<Connection> = Vec::new();
        let (mut tried, mut failure) = (0, None);
        for _ in 0..self.connections.max(1) {
            if !self.meter.take(self.server, PROBE_REQUESTS) {
                break;
            }
            tried += 1;
            match self.prober.probe(&url, self.proxy, limit).await {
                Ok(connection) => {
                    self.meter.add_bytes(self.server, connection.bytes);
                    made.push(connection);
                }
                Err(error) => {
                    failure = Some(error);
                    // One who does not answer is not waited for once more.
                    break;
                }
            }
        }
        match (report(&made, tried, self.now), failure) {
            (Some(report), _) => Ok(report),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(Refusal::UsedUp),
        }
    }

    async fn letters(&self) -> Result<FoundLetters, Refusal> {
        let downloader = downloader(self.config, self.meter, self.server, self.proxy);
        let fetcher = Fetcher::new(Arc::new(MemoryCache::default()), downloader, false);
        let RepositoryConfig { fqrn, keys, blocklist, .. } = self.config;
        // It only looks: what the servers have is to be shown, not what is accepted.
        let seen = SeenWhitelists::default();
        let judge = Judge { fqrn, keys, blocklist, now: self.now, seen: &seen };
        let start = Instant::now();
        let letters = Letters::fetch(judge, &fetcher, 0, None, None, None).await?;
        Ok(FoundLetters {
            manifest: letters.manifest,
            whitelist_expires: letters.whitelist.expires,
            took: start.elapsed(),
        })
    }
}

/// Makes what asks one server by one way, without repetitions: what fails once is a finding.
pub(super) fn downloader(
    config: &RepositoryConfig,
    meter: &Arc<Meter>,
    server: &str,
    proxy: &Proxy,
) -> Downloader {
    let spec = match proxy {
        Proxy::Direct => ProxySpec::direct(),
        // It is one entry of a list that was parsed.
        Proxy::Url(url) => url.parse().unwrap_or_default(),
    };
    let options = SelectionOptions { max_retries: 0, ..config.selection };
    let selection = Selection::new(vec![server.to_owned()], &spec, options);
    let transport = Arc::clone(meter);
    Downloader::new(transport, selection, config.timeouts).resolving(config.names.clone())
}

/// Medians of all connections that were made.
fn report(made: &[Connection], tried: usize, now: i64) -> Option<ConnectionReport> {
    let last = made.last()?;
    let of = |step: fn(&Connection) -> Option<Duration>| median(made.iter().filter_map(step));
    Some(ConnectionReport {
        address: last.address.to_string(),
        protocol: if last.is_http2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        dns_ms: of(|connection| connection.resolve),
        connect_ms: of(|connection| Some(connection.connect)).unwrap_or_default(),
        tls_ms: of(|connection| connection.tls),
        first_byte_ms: of(|connection| Some(connection.first_byte)).unwrap_or_default(),
        kept_ms: of(|connection| connection.again),
        keep_alive: made.iter().all(|connection| connection.again.is_some()),
        clock_skew: last.clock.map(|clock| clock.saturating_sub(now)),
        made: made.len(),
        tried,
    })
}

/// Returns the median in milliseconds.
fn median(times: impl Iterator<Item = Duration>) -> Option<f64> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).map(|time| time.as_secs_f64() * 1e3)
}
