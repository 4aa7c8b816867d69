//! One GET: over HTTP through a pooled client, or from a directory (`file://` servers).

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use lru::LruCache;
use parking_lot::Mutex;

use super::clients::{self, Clients, Kind};
use super::error::AttemptError;
use super::proxy::Proxy;
use super::redirects;
use crate::chain::chain;
use crate::descriptors::{DescriptorBudget, is_out_of_descriptors};
use crate::share::{Shares, Turn};

/// Pieces in which files are read.
const FILE_PIECE_LEN: usize = 256 * 1024;
/// Transfers with one server or proxy at a time; further ones wait, so that a thousand readers
/// do not open a thousand connections. More than upstream's 16, because a few stalled objects must
/// not hold up the others.
const MAX_TRANSFERS: usize = 64;
/// How long a transfer waits for its turn; the ones before it are bounded by their own limits.
const TURN_LIMIT: Duration = Duration::from_secs(60);
/// Peers whose turns are kept: addresses of proxies change over a long life.
const MAX_TURNS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// How long an idle connection is kept: shorter than the keep-alive of common servers (60-75 s).
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// Who we say we are.
pub(super) const USER_AGENT: &str =
    concat!("cvmfs Fuse ", env!("CARGO_PKG_VERSION"), " (cvmfs-fuse)");

/// How long each step of a request may take. Every wait of the network side ends by one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting and waiting for headers through a proxy.
    pub proxy: Duration,
    /// Connecting and waiting for headers without a proxy.
    pub direct: Duration,
    /// Slowest transfer in bytes per second, measured over the whole timeout.
    pub low_speed_limit: u64,
}

impl Default for Timeouts {
    /// The defaults of upstream (facts/behaviours.md section 2.12).
    fn default() -> Self {
        Self {
            proxy: Duration::from_secs(5),
            direct: Duration::from_secs(10),
            low_speed_limit: 1024,
        }
    }
}

impl Timeouts {
    /// Returns the limit for each silent phase of a request by this way.
    pub fn silence(&self, proxy: &Proxy) -> Duration {
        match proxy {
            Proxy::Direct => self.direct,
            Proxy::Url(_) => self.proxy,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Full URL, escaped.
    pub url: String,
    /// By which way.
    pub proxy: Proxy,
    /// Ask caches on the way for a fresh copy.
    pub no_cache: bool,
    /// The part of the file that is wanted; `None` is all of it.
    pub window: Option<Window>,
    /// Skip this many bytes of what is wanted: they are here already. The server may ignore it.
    pub from: u64,
    /// Bounds connecting and the wait for headers.
    pub limit: Duration,
}

/// A part of a file. Servers that cannot send a part by itself are of no use for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// First byte.
    pub offset: u64,
    /// Bytes; not 0.
    pub len: u64,
}

impl Request {
    /// Returns the value of the header `Range`, unless all of the file is wanted.
    fn range(&self) -> Option<String> {
        match self.window {
            Some(Window { offset, len }) => {
                Some(format!("bytes={}-{}", offset + self.from, offset + len.max(1) - 1))
            }
            None => (self.from > 0).then(|| format!("bytes={}-", self.from)),
        }
    }

    /// Returns the first byte of the file that is asked for.
    fn first_byte(&self) -> u64 {
        self.window.map_or(0, |window| window.offset) + self.from
    }
}

/// A body on its way.
pub struct Body {
    /// First byte of the body: what was asked for, or 0 where the server sends all of it.
    pub start: u64,
    /// Bytes announced from `start` on; never trusted, only used to give up early.
    pub announced_len: Option<u64>,
    /// The server's time in Unix seconds, if it told.
    pub date: Option<i64>,
    /// The pieces.
    pub pieces: BoxStream<'static, Result<Bytes, AttemptError>>,
}

/// Fetches one URL. Connecting and headers are bounded in time here, pieces by the caller.
pub trait Transport: Send + Sync + 'static {
    /// Starts the request and returns when the headers are there and say success.
    fn get(&self, request: Request) -> BoxFuture<'_, Result<Body, AttemptError>>;

    /// Notes whether the last answer through a proxy that a hash or a signature decides on was
    /// right. All repositories of a process share what is known.
    fn note_proxy(&self, proxy: &Proxy, was_right: bool) {
        let _ = (proxy, was_right);
    }

    /// Tells whether a proxy gave a right answer, and no wrong one since.
    fn is_proven(&self, proxy: &Proxy) -> bool {
        let _ = proxy;
        false
    }
}

/// How servers are talked to.
#[derive(Debug, Clone, Default)]
pub struct TransportOptions {
    /// Time limits.
    pub timeouts: Timeouts,
    /// Follow redirects. They could lead anywhere, so by default they are errors.
    pub follow_redirects: bool,
    /// PEM certificates of authorities that may vouch for HTTPS servers; none means those of the
    /// system.
    pub authorities: Vec<Vec<u8>>,
    /// Who knows the addresses of servers.
    pub names: super::Names,
    /// How many idle connections there may be.
    pub descriptors: DescriptorBudget,
}

/// HTTP and HTTPS over reqwest with rustls, `file://` from the disk; one pool for all repositories.
pub struct HttpTransport {
    options: TransportOptions,
    clients: Mutex<Clients>,
    /// The system has no certificates of authorities, and none were given.
    lacks_authorities: AtomicBool,
    /// Turns at each server or proxy, shared fairly by all users of the process.
    turns: Mutex<LruCache<String, Arc<Shares>>>,
    /// Proxies that gave right answers.
    proven: Mutex<LruCache<Proxy, ()>>,
}

impl HttpTransport {
    /// Makes a transport with an empty pool.
    pub fn new(options: TransportOptions) -> Self {
        // Fails only if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clients = Mutex::new(Clients::new(options.descriptors.peers));
        Self {
            options,
            clients,
            lacks_authorities: AtomicBool::new(false),
            turns: Mutex::new(LruCache::new(MAX_TURNS)),
            proven: Mutex::new(LruCache::new(MAX_TURNS)),
        }
    }

    /// Returns the client for a request, which will have idle connections with its server.
    fn client(&self, request: &Request) -> Result<reqwest::Client, AttemptError> {
        // A redirect may lead to a server that has to prove who it is.
        let is_secure = needs_authorities(request) || self.options.follow_redirects;
        let kind = Kind { proxy: request.proxy.clone(), is_secure };
        let (proxy, server) = (&kind.proxy, server_of(&request.url));
        let (known, closed) = self.clients.lock().get(&kind, &server);
        drop(closed);
        if let Some(client) = known {
            return Ok(client);
        }
        let unusable = |error: reqwest::Error| AttemptError::Unusable(chain(&error));
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .redirect(redirects::policy(self.options.follow_redirects))
                .connect_timeout(self.options.timeouts.silence(proxy))
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(self.options.descriptors.idle_of_peer)
                .tcp_nodelay(true)
                .dns_resolver(Arc::new(self.options.names.clone()))
                // The environment's proxies are not ours (spec/network.md section 3).
                .no_proxy();
            Ok(match proxy {
                Proxy::Direct => builder,
                Proxy::Url(url) => builder.proxy(reqwest::Proxy::all(url)?),
            })
        };
        let client = if is_secure {
            let (client, trusts_somebody) =
                clients::build_secure(builder, &self.options.authorities).map_err(unusable)?;
            self.lacks_authorities.store(!trusts_somebody, Ordering::Relaxed);
            client
        } else {
            builder().and_then(clients::build_plain).map_err(unusable)?
        };
        let closed = self.clients.lock().put(&kind, &server, &client);
        drop(closed);
        Ok(client)
    }

    /// Waits for a turn at the peer of a request: its proxy, or else its server.
    async fn turn(&self, request: &Request) -> Result<Turn, AttemptError> {
        let peer = match &request.proxy {
            Proxy::Url(url) => url.clone(),
            Proxy::Direct => server_of(&request.url),
        };
        let new = || Shares::new(MAX_TRANSFERS);
        let turns = Arc::clone(self.turns.lock().get_or_insert(peer, new));
        turns.turn(TURN_LIMIT).await.map_err(AttemptError::Busy)
    }

    async fn get_http(&self, request: Request) -> Result<Body, AttemptError> {
        let turn = self.turn(&request).await?;
        let limit = request.limit;
        let client = self.client(&request)?;
        if self.lacks_authorities.load(Ordering::Relaxed) && needs_authorities(&request) {
            return Err(AttemptError::NoAuthorities);
        }
        let mut builder = client.get(&request.url);
        if request.no_cache {
            builder = builder.header("Pragma", "no-cache").header("Cache-Control", "no-cache");
        }
        if let Some(range) = request.range() {
            builder = builder.header("Range", range);
        }
        let response = tokio::time::timeout(limit, builder.send())
            .await
            .map_err(|_| AttemptError::Silent(limit))?
            .map_err(|error| AttemptError::from_reqwest(&error))?;
        let status = response.status();
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let start = match status {
            reqwest::StatusCode::OK if request.window.is_none() => 0,
            reqwest::StatusCode::OK => return Err(AttemptError::NoParts),
            reqwest::StatusCode::PARTIAL_CONTENT
                if text("Content-Range").and_then(range_start) == Some(request.first_byte()) =>
            {
                request.from
            }
            _ => {
                let by_proxy = headers.contains_key("X-Squid-Error")
                    || text("Proxy-Status").is_some_and(|value| value.contains("error="));
                // Only the form in seconds; the other one would need the server's clock.
                let retry_after = text("Retry-After")
                    .and_then(|value| value.trim().parse().ok())
                    .map(Duration::from_secs);
                let code = status.as_u16();
                return Err(AttemptError::Status { code, by_proxy, retry_after });
            }
        };
        let date = text("Date").and_then(http_date);
        let announced_len = response.content_length();
        let pieces = response
            .bytes_stream()
            .map(move |piece| {
                // The turn ends with the body.
                let _ = &turn;
                piece.map_err(|error| AttemptError::from_reqwest(&error))
            })
            .boxed();
        Ok(Body { start, announced_len, date, pieces })
    }
}

/// Tells whether a server or proxy is to prove who it is.
fn needs_authorities(request: &Request) -> bool {
    let is_secure = |url: &str| url.starts_with("https:");
    is_secure(&request.url) || matches!(&request.proxy, Proxy::Url(url) if is_secure(url))
}

/// Scheme, host and port of a URL.
fn server_of(url: &str) -> String {
    url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

/// First byte of `bytes FIRST-LAST/LEN`.
fn range_start(value: &str) -> Option<u64> {
    value.trim().strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// Unix seconds of a `Date` header (RFC 9110 section 5.6.7).
pub(super) fn http_date(value: &str) -> Option<i64> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(value)
        .ok()
        .map(jiff::Timestamp::as_second)
}

impl Transport for HttpTransport {
    fn get(&self, request: Request) -> BoxFuture<'_, Result<Body, AttemptError>> {
        Box::pin(async move {
            match request.url.strip_prefix("file://") {
                Some(path) => get_file(unescape(path), &request).await,
                None => self.get_http(request).await,
            }
        })
    }

    fn note_proxy(&self, proxy: &Proxy, was_right: bool) {
        let mut proven = self.proven.lock();
        if !was_right {
            proven.pop(proxy);
        } else if proven.get(proxy).is_none() {
            proven.put(proxy.clone(), ());
        }
    }

    fn is_proven(&self, proxy: &Proxy) -> bool {
        self.proven.lock().contains(proxy)
    }
}

async fn get_file(path: PathBuf, request: &Request) -> Result<Body, AttemptError> {
    let (first, from) = (request.first_byte(), request.from);
    let wanted = request.window.map_or(u64::MAX, |window| window.len.saturating_sub(from));
    let local = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            AttemptError::Status { code: 404, by_proxy: false, retry_after: None }
        }
        _ if is_out_of_descriptors(&error) => AttemptError::Descriptors(error.to_string()),
        _ => AttemptError::Local(error.to_string()),
    };
    let (file, start, len) = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        let start = first.min(metadata.len());
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start))?;
        Ok((file, from.min(start), wanted.min(metadata.len() - start)))
    })
    .await
    .map_err(|error| AttemptError::Local(error.to_string()))?
    .map_err(local)?;
    let pieces = futures_util::stream::try_unfold((file, len), move |(file, left)| async move {
        let read = tokio::task::spawn_blocking(move || {
            let len = usize::try_from(left).map_or(FILE_PIECE_LEN, |left| left.min(FILE_PIECE_LEN));
            let mut piece = vec![0; len];
            let n = std::io::Read::read(&mut &file, &mut piece)?;
            piece.truncate(n);
            Ok::<_, std::io::Error>((file, piece))
        });
        let (file, piece) = read
            .await
            .map_err(|error| AttemptError::Local(error.to_string()))?
            .map_err(|error| AttemptError::Local(error.to_string()))?;
        let left = left.saturating_sub(piece.len() as u64);
        Ok((!piece.is_empty()).then(|| (Bytes::from(piece), (file, left))))
    });
    Ok(Body { start, announced_len: Some(len), date: None, pieces: pieces.boxed() })
}

/// Escapes as upstream does (spec/network.md section 3): `?`, `=` and `%` too, so no query strings.
pub fn escape_url(url: &[u8]) -> String {
    let mut escaped = String::with_capacity(url.len());
    for &byte in url {
        if byte.is_ascii_alphanumeric() || b"/:.@+-_~[],".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

pub(super) fn unescape(path: &str) -> PathBuf {
    let bytes = path.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_escaped_and_file_paths_restored() {
        assert_eq!(escape_url(b"http://h:8000/a b?c=%41"), "http://h:8000/a%20b%3Fc%3D%2541");
        assert_eq!(
            escape_url("http://ab0341.\u{a1}\u{ff}\u{3e6}\u{b79d}".as_bytes()),
            "http://ab0341.%C2%A1%C3%BF%CF%A6%EB%9E%9D"
        );
        assert_eq!(unescape(&escape_url(b"/tmp/a b%41")), PathBuf::from("/tmp/a b%41"));
        assert_eq!(unescape("/x%"), PathBuf::from("/x%"));
    }

    #[test]
    fn ranges_cover_the_wanted_part_without_what_is_here() {
        let request = |window, from| Request {
            url: String::new(),
            proxy: Proxy::Direct,
            no_cache: false,
            window,
            from,
            limit: Duration::ZERO,
        };
        let window = Some(Window { offset: 100, len: 50 });
        for (window, from, range) in [
            (None, 0, None),
            (None, 7, Some("bytes=7-")),
            (window, 0, Some("bytes=100-149")),
            (window, 7, Some("bytes=107-149")),
        ] {
            assert_eq!(request(window, from).range().as_deref(), range);
        }
        assert_eq!(request(window, 7).first_byte(), 107);
    }

    #[tokio::test]
    async fn parts_of_files_end_where_they_should() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, (0..=255).collect::<Vec<u8>>()).unwrap();
        for (window, from, bytes) in [
            (None, 250, 250..=255),
            (Some(Window { offset: 10, len: 5 }), 0, 10..=14),
            (Some(Window { offset: 10, len: 5 }), 2, 12..=14),
            (Some(Window { offset: 254, len: 9 }), 0, 254..=255),
        ] {
            let request = Request {
                url: format!("file://{}", path.display()),
                proxy: Proxy::Direct,
                no_cache: false,
                window,
                from,
                limit: Duration::from_secs(5),
            };
            let transport = HttpTransport::new(TransportOptions::default());
            let body = transport.get(request).await.unwrap();
            assert_eq!(body.start, from);
            let pieces: Vec<_> = body.pieces.collect().await;
            let got: Vec<u8> = pieces.into_iter().flat_map(Result::unwrap).collect();
            assert_eq!(got, bytes.collect::<Vec<u8>>());
        }
    }
}
