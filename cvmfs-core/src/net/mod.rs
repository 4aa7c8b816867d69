//! The network side: choose a way, try it, report the outcome, go on.
//!
//! | module | what it holds |
//! |---|---|
//! | [`transport`] | one GET |
//! | [`proxy`] | the grammar of proxy lists |
//! | [`mirror`] | which server and proxy next |
//! | [`error`] | attempts and what they died of |
//!
//! Every wait is bounded: connecting, headers and each silence by [`Timeouts`], slow trickles by
//! the low-speed limit, the size by the caller's cap, the number of attempts by the ways there are.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;

pub mod error;
pub mod mirror;
pub mod proxy;
pub mod transport;

pub use error::{Attempt, AttemptError, Blame, DownloadError};
pub use mirror::MirrorSet;
pub use proxy::{Proxy, ProxySpec};
pub use transport::{HttpTransport, Request, Timeouts, Transport};

use mirror::Way;
use transport::{Body, escape_url};

/// Fetches paths of one repository from whichever server answers rightly.
pub struct Downloader {
    transport: Arc<dyn Transport>,
    mirrors: MirrorSet,
    timeouts: Timeouts,
}

/// Takes the pieces of one body. Each attempt gets a new one.
pub trait Sink<T>: Send {
    /// Takes the next piece; an error ends the attempt.
    fn piece(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), AttemptError>>;
    /// Ends the body; an error counts against the server like a bad status.
    fn end(self) -> BoxFuture<'static, Result<T, AttemptError>>;
}

impl Downloader {
    /// Joins transport and servers.
    pub fn new(transport: Arc<dyn Transport>, mirrors: MirrorSet, timeouts: Timeouts) -> Self {
        Self { transport, mirrors, timeouts }
    }

    /// Returns the servers.
    pub fn mirrors(&self) -> &MirrorSet {
        &self.mirrors
    }

    /// Makes a server the one that later requests ask first: it proved to have good letters.
    pub fn prefer_host(&self, host: usize) {
        self.mirrors.prefer_host(host);
    }

    /// Fetches `path` (below the base URL) into sinks until one accepts it.
    ///
    /// A body that turns out damaged is asked for once more past all caches on the same way, then
    /// from the next server. `cap` is the most stored bytes worth receiving.
    pub async fn fetch<T, S: Sink<T>>(
        &self,
        path: &str,
        cap: u64,
        only_host: Option<usize>,
        mut new_sink: impl FnMut() -> S,
    ) -> Result<T, DownloadError> {
        let mut failure = DownloadError::default();
        let mut walk = self.mirrors.walk(only_host);
        let mut no_cache = false;
        while let Some(way) = walk.way() {
            let request = self.request(path, &way, no_cache);
            let url = request.url.clone();
            match self.attempt(request, cap, new_sink()).await {
                Ok(done) => {
                    if only_host.is_none() {
                        self.mirrors.succeeded(&way);
                    }
                    return Ok(done);
                }
                Err(error) => {
                    tracing::debug!(%url, %error, "download attempt failed");
                    let proxy = match self.mirrors.proxy(&way) {
                        Proxy::Direct => None,
                        Proxy::Url(url) => Some(url.clone()),
                    };
                    let blame = error.blame(proxy.is_some());
                    let again = matches!(error, AttemptError::Corrupt(_)) && !no_cache;
                    failure.attempts.push(Attempt { url, proxy, error });
                    no_cache = again;
                    if !again {
                        walk.failed(blame);
                    }
                }
            }
        }
        Err(failure)
    }

    /// Fetches a small file that no hash names, such as the manifest, from one server.
    pub async fn fetch_letter(
        &self,
        path: &str,
        cap: u64,
        host: usize,
    ) -> Result<Bytes, DownloadError> {
        self.fetch(path, cap, Some(host), MemorySink::default).await
    }

    fn request(&self, path: &str, way: &Way, no_cache: bool) -> Request {
        let url = escape_url(&format!("{}/{path}", self.mirrors.hosts()[way.host]));
        Request { url, proxy: self.mirrors.proxy(way).clone(), no_cache }
    }

    async fn attempt<T, S: Sink<T>>(
        &self,
        request: Request,
        cap: u64,
        mut sink: S,
    ) -> Result<T, AttemptError> {
        let silence = self.timeouts.silence(&request.proxy);
        let Body { announced_len, mut pieces } = self.transport.get(request).await?;
        if announced_len.is_some_and(|len| len > cap) {
            return Err(AttemptError::TooLarge(cap));
        }
        let mut received = 0u64;
        let mut window = (Instant::now(), 0u64);
        loop {
            let piece = tokio::time::timeout(silence, pieces.next())
                .await
                .map_err(|_| AttemptError::Silent(silence))?;
            let Some(piece) = piece else { break };
            let piece = piece?;
            received += piece.len() as u64;
            if received > cap {
                return Err(AttemptError::TooLarge(cap));
            }
            sink.piece(piece).await?;
            let (start, before) = window;
            let elapsed = start.elapsed();
            if elapsed >= silence {
                let bytes = received - before;
                let seconds = elapsed.as_secs().max(1);
                if bytes / seconds < self.timeouts.low_speed_limit {
                    return Err(AttemptError::TooSlow { bytes, seconds });
                }
                window = (Instant::now(), received);
            }
        }
        if let Some(len) = announced_len.filter(|len| *len != received) {
            return Err(AttemptError::Cut(format!("{received} of {len} bytes")));
        }
        sink.end().await
    }
}

/// Keeps a small body in memory.
#[derive(Default)]
struct MemorySink(Vec<u8>);

impl Sink<Bytes> for MemorySink {
    fn piece(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), AttemptError>> {
        self.0.extend_from_slice(&piece);
        Box::pin(std::future::ready(Ok(())))
    }

    fn end(self) -> BoxFuture<'static, Result<Bytes, AttemptError>> {
        Box::pin(std::future::ready(Ok(Bytes::from(self.0))))
    }
}
