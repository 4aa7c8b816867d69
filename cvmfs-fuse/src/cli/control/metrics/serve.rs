//! The endpoint: metrics for programs, a page for people. Peers that are silent, slow or many cost
//! a place for some seconds and nothing else.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
/// The page needs nothing but itself and the figures.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
/// Shows what `/status.json` says, and draws what changes.
const PAGE: &str = include_str!("page.html");

/// What all mounts said a moment ago.
#[derive(Clone)]
struct Figures {
    at: Instant,
    metrics: Bytes,
    status: Bytes,
}

#[derive(Default)]
struct Desk {
    last: Mutex<Option<Figures>>,
    /// One asks at a time.
    asking: tokio::sync::Mutex<()>,
}

/// Serves until a signal comes.
pub(super) fn run(listen: &Listen) -> Result<ExitStatus, Failure> {
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
                if !address.ip().is_loopback() {
                    tracing::warn!(%address, "anybody who reaches this address sees the metrics");
                }
                print(&format!("listening on http://{address}/\n"))?;
                let accepting = accept(async || Ok(listener.accept().await?.0));
                tokio::select! { () = accepting => {}, _ = ended => {} }
            }
            Listen::File(path) => {
                // What is left of an earlier one; nothing else is taken away.
                if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
                {
                    let _ = std::fs::remove_file(path);
                }
                let listener = UnixListener::bind(path).map_err(|error| trouble(&error))?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
                    .map_err(|error| trouble(&error))?;
                print(&format!("listening on unix:{}\n", path.display()))?;
                let accepting = accept(async || Ok(listener.accept().await?.0));
                tokio::select! { () = accepting => {}, _ = ended => {} }
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(ExitStatus::Ok)
    })
}

/// Serves who comes, until it is dropped.
async fn accept<S>(mut next: impl AsyncFnMut() -> io::Result<S>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let desk = Arc::new(Desk::default());
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
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
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
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
