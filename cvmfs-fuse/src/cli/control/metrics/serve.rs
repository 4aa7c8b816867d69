//! The endpoint: metrics for programs, a page for people. Peers that are silent, slow or many cost
//! a place for some seconds and nothing else.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use cvmfs_cache::safe_path::bind_socket;
use http::header::HeaderName;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::admission::Admission;
use super::{Listen, exposition};
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::runtime;
use crate::talk::mounts;

/// Connections at a time; more wait in the queue of the kernel.
const MAX_PEERS: usize = 32;
/// Longest life of a connection: scrapers come back.
const LIFE: Duration = Duration::from_secs(30);
/// How long a peer may take to say what it wants.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// For so long what the mounts said is given again, so that many who ask are one.
const FRESH: Duration = Duration::from_secs(1);
/// Pause after the kernel gave no connection, as when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(200);
/// The page needs nothing but itself and the figures. No other script than its own runs, whatever a name or a
/// message has in it.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let script = PAGE.split_once("<script>").and_then(|(_, rest)| rest.split_once("</script>"));
    let digest = Sha256::digest(script.map_or("", |(script, _)| script));
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        base64::engine::general_purpose::STANDARD.encode(digest)
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});
/// Mode of a Unix socket: who may reach it is decided by its directory.
const SOCKET_MODE: u32 = 0o666;
/// Shows what `/status.json` says, and draws what changes.
const PAGE: &str = include_str!("page.html");

/// What all mounts said a moment ago.
#[derive(Clone)]
struct Figures {
    at: Instant,
    metrics: Bytes,
    status: Bytes,
}

struct Desk {
    admission: Admission,
    /// Peers come over TCP.
    by_network: bool,
    last: Mutex<Option<Figures>>,
    /// One asks at a time.
    asking: tokio::sync::Mutex<()>,
}

/// Serves until a signal comes.
pub(super) fn run(listen: &Listen, admission: Admission) -> Result<ExitStatus, Failure> {
    let trouble = |error: &io::Error| {
        Failure::caused(ExitStatus::Unknown, &format!("cannot listen on {listen:?}"), error)
    };
    runtime()?.block_on(async {
        let ended = async {
            let mut term =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                found = tokio::signal::ctrl_c() => found,
                _ = term.recv() => Ok(()),
            }
        };
        match listen {
            Listen::Port(address) => {
                let listener = TcpListener::bind(address).await.map_err(|error| trouble(&error))?;
                let address = listener.local_addr().map_err(|error| trouble(&error))?;
                if !address.ip().is_loopback() && !admission.has_token() {
                    tracing::warn!(
                        %address,
                        "anybody who reaches this address sees the metrics; --token-file FILE asks for a token"
                    );
                }
                print(&format!("listening on http://{address}/\n"))?;
                let desk = Desk::new(admission, true);
                let accepting = accept(desk, async || Ok(listener.accept().await?.0));
                tokio::select! { () = accepting => {}, _ = ended => {} }
            }
            Listen::File(path) => {
                // In place of one that is left of an earlier endpoint; nothing else is taken away. The file
                // goes with its value.
                let (listener, _file) =
                    bind_socket(path, SOCKET_MODE).map_err(|error| trouble(&error))?;
                let listener = listener
                    .set_nonblocking(true)
                    .and_then(|()| UnixListener::from_std(listener))
                    .map_err(|error| trouble(&error))?;
                print(&format!("listening on unix:{}\n", path.display()))?;
                let desk = Desk::new(admission, false);
                let accepting = accept(desk, async || Ok(listener.accept().await?.0));
                tokio::select! { () = accepting => {}, _ = ended => {} }
            }
        }
        Ok(ExitStatus::Ok)
    })
}

/// Serves who comes, until it is dropped.
async fn accept<S>(desk: Arc<Desk>, mut next: impl AsyncFnMut() -> io::Result<S>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let seats = Arc::new(Semaphore::new(MAX_PEERS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        match next().await {
            Ok(peer) => attend(peer, &desk, seat),
            Err(error) => {
                tracing::debug!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn attend<S>(peer: S, desk: &Arc<Desk>, seat: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let desk = Arc::clone(desk);
    tokio::spawn(async move {
        let _seat = seat;
        let service = service_fn(move |request: Request<Incoming>| {
            let desk = Arc::clone(&desk);
            async move { Ok::<_, Infallible>(desk.answer(&request).await) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
        let served =
            tokio::time::timeout(LIFE, builder.serve_connection(TokioIo::new(peer), service));
        if let Ok(Err(error)) = served.await {
            tracing::debug!(%error, "a peer ended early");
        }
    });
}

impl Desk {
    fn new(admission: Admission, by_network: bool) -> Arc<Self> {
        let (last, asking) = (Mutex::default(), tokio::sync::Mutex::default());
        Arc::new(Self { admission, by_network, last, asking })
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let admitted = self.admission.check(request.uri(), request.headers(), self.by_network);
        if let Err(denied) = admitted {
            let (status, text) = denied.answer();
            let mut response = response(status, "text/plain", text.into());
            if status == StatusCode::UNAUTHORIZED {
                let scheme = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            return response;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", Bytes::new());
        }
        match request.uri().path() {
            "/" => response(StatusCode::OK, "text/html; charset=utf-8", PAGE.into()),
            "/metrics" => match self.figures().await {
                Some(figures) => {
                    response(StatusCode::OK, exposition::CONTENT_TYPE, figures.metrics)
                }
                None => response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", Bytes::new()),
            },
            "/status.json" => match self.figures().await {
                Some(figures) => response(StatusCode::OK, "application/json", figures.status),
                None => response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", Bytes::new()),
            },
            _ => response(StatusCode::NOT_FOUND, "text/plain", "see /metrics\n".into()),
        }
    }

    /// Returns what the mounts say, at most a second old.
    async fn figures(&self) -> Option<Figures> {
        let fresh = || self.last.lock().clone().filter(|figures| figures.at.elapsed() < FRESH);
        if let Some(figures) = fresh() {
            return Some(figures);
        }
        let _asking = self.asking.lock().await;
        if let Some(figures) = fresh() {
            return Some(figures);
        }
        let asked = tokio::task::spawn_blocking(|| {
            let found = mounts::all().ok()?;
            let mut list = Vec::new();
            for mount in &found {
                match &mount.status {
                    Ok(all) => {
                        list.extend(all.iter().filter_map(|one| serde_json::to_value(one).ok()))
                    }
                    Err(error) => list.push(serde_json::json!({
                        "mountpoint": mount.mount.mountpoint, "problem": error.to_string(),
                    })),
                }
            }
            let status = crate::escape::json(&list).ok()?;
            Some((exposition::text(&found), status))
        });
        let (metrics, status) = asked.await.ok()??;
        let figures =
            Figures { at: Instant::now(), metrics: metrics.into(), status: status.into() };
        *self.last.lock() = Some(figures.clone());
        Some(figures)
    }
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}
