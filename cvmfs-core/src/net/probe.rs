//! One connection to a server, and how long each of its steps takes: what [`super::HttpTransport`]
//! cannot tell, since its pool decides when to connect.
//!
//! Two requests for the same small file: the second one shows whether the connection was kept, and
//! what a round trip costs by then.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::names::Names;
use super::proxy::Proxy;
use super::transport::{USER_AGENT, http_date};
use crate::chain::chain;

mod peer;

use peer::Peer;

/// Longest answer of a proxy that is asked for a tunnel.
const MAX_TUNNEL_ANSWER: usize = 8 * 1024;
/// Longest file that is probed with; it is a manifest.
const MAX_BODY: usize = 64 * 1024;

/// What a connection is made of, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The name of the server, or of the proxy.
    Resolve,
    /// TCP.
    Connect,
    /// The proxy's consent to a tunnel.
    Tunnel,
    /// The handshake of TLS.
    Tls,
    /// The request.
    Answer,
}

/// Why there was no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {reason}", match step {
    Step::Resolve => "name not resolved",
    Step::Connect => "no connection",
    Step::Tunnel => "no tunnel through the proxy",
    Step::Tls => "no TLS",
    Step::Answer => "no answer",
})]
pub struct ProbeError {
    /// How far it came.
    pub step: Step,
    /// For people.
    pub reason: String,
}

/// How a connection was.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// Whom it was made with: the server or the proxy.
    pub address: SocketAddr,
    /// The time for the name; `None` if an address was given.
    pub resolve: Option<Duration>,
    /// The time for TCP.
    pub connect: Duration,
    /// The time for TLS, and for the proxy's tunnel before it; `None` without TLS.
    pub tls: Option<Duration>,
    /// It speaks HTTP/2.
    pub is_http2: bool,
    /// The status of the first answer.
    pub status: u16,
    /// From the first request to the head of its answer.
    pub first_byte: Duration,
    /// The same for a second request; `None` if the connection was not kept.
    pub again: Option<Duration>,
    /// Bytes of both bodies.
    pub bytes: u64,
    /// The server's clock in Unix seconds; `None` if it tells no time.
    pub clock: Option<i64>,
}

/// Makes connections of its own, one for each probe.
pub struct Prober {
    names: Names,
    tls: Result<Arc<rustls::ClientConfig>, String>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Prober {
    /// Makes one that resolves as `names` does, and trusts these authorities (PEM bundles), or else
    /// those of the system.
    pub fn new(names: &Names, authorities: &[Vec<u8>]) -> Self {
        // Fails only if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = tls_config(authorities).map(Arc::new);
        Self { names: names.clone(), tls }
    }

    /// Connects and asks twice for `url`. Each step may take `limit`.
    pub async fn probe(
        &self,
        url: &str,
        proxy: &Proxy,
        limit: Duration,
    ) -> Result<Connection, ProbeError> {
        let target = Peer::parse(url)?;
        let via = match proxy {
            Proxy::Direct => None,
            Proxy::Url(url) => Some(Peer::parse(url)?),
        };
        let peer = via.as_ref().unwrap_or(&target);
        let (addresses, resolve) = self.resolve(peer).await?;
        let start = Instant::now();
        let (stream, address) = connect(&addresses, peer.port, limit).await?;
        let connect = start.elapsed();
        let mut stream: Box<dyn Stream> = Box::new(stream);
        let start = Instant::now();
        if let Some(proxy) = via.as_ref().filter(|proxy| proxy.is_secure()) {
            stream = self.handshake(proxy, stream, &[b"http/1.1"], limit).await?.0;
        }
        let mut is_http2 = false;
        if target.is_secure() {
            if let Some(proxy) = &via {
                tunnel(&mut stream, &target, proxy, limit).await?;
            }
            (stream, is_http2) =
                self.handshake(&target, stream, &[b"h2", b"http/1.1"], limit).await?;
        }
        let is_secure = target.is_secure() || via.as_ref().is_some_and(Peer::is_secure);
        let tls = is_secure.then(|| start.elapsed());
        // Only plain requests are for the proxy itself to read.
        let reader = via.as_ref().filter(|_| !target.is_secure());
        let mut asker = Asker::greet(stream, is_http2, limit).await?;
        let first = asker.ask(&target, reader, limit).await?;
        let again = match asker.is_kept(limit).await {
            true => asker.ask(&target, reader, limit).await.ok(),
            false => None,
        };
        Ok(Connection {
            address,
            resolve,
            connect,
            tls,
            is_http2,
            status: first.status,
            first_byte: first.time,
            bytes: first.bytes + again.as_ref().map_or(0, |again| again.bytes),
            again: again.map(|again| again.time),
            clock: first.clock,
        })
    }

    async fn resolve(&self, peer: &Peer) -> Result<(Vec<IpAddr>, Option<Duration>), ProbeError> {
        let start = Instant::now();
        // What is remembered would take no time.
        let found = self.names.forgetful().lookup(&peer.host).await;
        let addresses = found.map_err(|error| failed(Step::Resolve, &error))?.to_vec();
        let is_name = matches!(peer.url.host(), Some(url::Host::Domain(_)));
        Ok((addresses, is_name.then(|| start.elapsed())))
    }

    async fn handshake(
        &self,
        peer: &Peer,
        stream: Box<dyn Stream>,
        protocols: &[&[u8]],
        limit: Duration,
    ) -> Result<(Box<dyn Stream>, bool), ProbeError> {
        let refused = |reason: String| ProbeError { step: Step::Tls, reason };
        let mut config = (**self.tls.as_ref().map_err(|reason| refused(reason.clone()))?).clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let host = peer.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|error| failed(Step::Tls, &error))?;
        let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = within(Step::Tls, limit, shaken).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), is_http2))
    }
}

fn tls_config(authorities: &[Vec<u8>]) -> Result<rustls::ClientConfig, String> {
    let builder = rustls::ClientConfig::builder();
    let verified = if authorities.is_empty() {
        builder.with_platform_verifier().map_err(|error| chain(&error))?
    } else {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in authorities.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem)) {
            let certificate = certificate.map_err(|error| chain(&error))?;
            roots.add(certificate).map_err(|error| chain(&error))?;
        }
        builder.with_root_certificates(roots)
    };
    Ok(verified.with_no_client_auth())
}

fn failed(step: Step, error: &(dyn std::error::Error + 'static)) -> ProbeError {
    ProbeError { step, reason: chain(error) }
}

async fn within<T, E: std::error::Error + 'static>(
    step: Step,
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, ProbeError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(|error| failed(step, &error)),
        Err(_) => Err(ProbeError { step, reason: format!("nothing within {limit:?}") }),
    }
}

async fn connect(
    addresses: &[IpAddr],
    port: u16,
    limit: Duration,
) -> Result<(TcpStream, SocketAddr), ProbeError> {
    let reason = "its name has no address".to_owned();
    let mut failure = ProbeError { step: Step::Connect, reason };
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        match within(Step::Connect, limit, TcpStream::connect(address)).await {
            Ok(stream) => {
                // Without it small requests could wait for acknowledgements; the pool does it, too.
                stream.set_nodelay(true).map_err(|error| failed(Step::Connect, &error))?;
                return Ok((stream, address));
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Asks a proxy for a tunnel to the target (RFC 9110 section 9.3.6).
async fn tunnel(
    stream: &mut Box<dyn Stream>,
    target: &Peer,
    proxy: &Peer,
    limit: Duration,
) -> Result<(), ProbeError> {
    let authority = format!("{}:{}", target.host, target.port);
    let credentials = proxy
        .credentials()
        .map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
    let head = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {USER_AGENT}\r\n\
         {credentials}\r\n"
    );
    let mut answer = Vec::new();
    let asked = async {
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        let mut piece = [0; 1024];
        // Nothing follows the head: in TLS it is for the client to begin.
        while !answer.ends_with(b"\r\n\r\n") {
            let len = stream.read(&mut piece).await?;
            if len == 0 || answer.len() + len > MAX_TUNNEL_ANSWER {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&piece[..len]);
        }
        Ok::<_, std::io::Error>(())
    };
    within(Step::Tunnel, limit, asked).await?;
    let first = String::from_utf8_lossy(answer.split(|&b| b == b'\r').next().unwrap_or_default());
    let agrees = first.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
    if agrees { Ok(()) } else { Err(ProbeError { step: Step::Tunnel, reason: first.into() }) }
}

/// One answer: the time to its head, and what it said.
struct Answer {
    time: Duration,
    status: u16,
    bytes: u64,
    clock: Option<i64>,
}

enum Sender {
    One(http1::SendRequest<Empty<Bytes>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

/// Asks on one connection; its task ends with this value.
struct Asker {
    sender: Sender,
    driver: JoinHandle<()>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Asker {
    async fn greet(
        stream: Box<dyn Stream>,
        is_http2: bool,
        limit: Duration,
    ) -> Result<Self, ProbeError> {
        let io = TokioIo::new(stream);
        // How a connection ends is seen by who asks on it.
        Ok(if is_http2 {
            let greeting = http2::handshake(TokioExecutor::new(), io);
            let (sender, driver) = within(Step::Answer, limit, greeting).await?;
            Self { sender: Sender::Two(sender), driver: tokio::spawn(async { drop(driver.await) }) }
        } else {
            let (sender, driver) = within(Step::Answer, limit, http1::handshake(io)).await?;
            Self { sender: Sender::One(sender), driver: tokio::spawn(async { drop(driver.await) }) }
        })
    }

    async fn is_kept(&mut self, limit: Duration) -> bool {
        let ready = async {
            match &mut self.sender {
                Sender::One(sender) => sender.ready().await,
                Sender::Two(sender) => sender.ready().await,
            }
        };
        within(Step::Answer, limit, ready).await.is_ok()
    }

    async fn ask(
        &mut self,
        target: &Peer,
        proxy: Option<&Peer>,
        limit: Duration,
    ) -> Result<Answer, ProbeError> {
        let is_absolute = proxy.is_some() || matches!(self.sender, Sender::Two(_));
        let place = if is_absolute { target.url.as_str() } else { target.url.path() };
        let mut request = http::Request::get(place).header(http::header::USER_AGENT, USER_AGENT);
        if matches!(self.sender, Sender::One(_)) {
            let host = match target.url.port() {
                Some(port) => format!("{}:{port}", target.host),
                None => target.host.clone(),
            };
            request = request.header(http::header::HOST, host);
        }
        if let Some(credentials) = proxy.and_then(Peer::credentials) {
            request = request.header(http::header::PROXY_AUTHORIZATION, credentials);
        }
        let request = request.body(Empty::new()).map_err(|error| failed(Step::Answer, &error))?;
        let start = Instant::now();
        let answer = async {
            match &mut self.sender {
                Sender::One(sender) => sender.send_request(request).await,
                Sender::Two(sender) => sender.send_request(request).await,
            }
        };
        let answer = within(Step::Answer, limit, answer).await?;
        let (time, status) = (start.elapsed(), answer.status().as_u16());
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        // What comes out of a cache has the date of its making, and its age.
        let age: i64 = header(http::header::AGE).and_then(|age| age.parse().ok()).unwrap_or(0);
        let clock = header(http::header::DATE).and_then(http_date);
        let clock = clock.and_then(|date| date.checked_add(age));
        let body = Limited::new(answer.into_body(), MAX_BODY).collect();
        let body = match tokio::time::timeout(limit, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err(failed(Step::Answer, &*error)),
            Err(_) => {
                let reason = format!("the body did not end within {limit:?}");
                return Err(ProbeError { step: Step::Answer, reason });
            }
        };
        Ok(Answer { time, status, bytes: body.len() as u64, clock })
    }
}
