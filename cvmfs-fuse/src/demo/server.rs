//! A web server on loopback that knows the files of one repository.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::archive::Files;

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct DemoServer {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl DemoServer {
    /// Listens on a free port of 127.0.0.1 and serves `files` until dropped.
    ///
    /// Must be called within a tokio runtime, which runs the connections.
    pub async fn start(files: Files) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, Arc::new(files)));
        Ok(Self { address, accepting })
    }

    /// Returns the base URL of the repository `fqrn`.
    pub fn base_url(&self, fqrn: &str) -> String {
        format!("http://{}/{fqrn}", self.address)
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Owns the connections: they end when this task does.
async fn accept(listener: TcpListener, files: Arc<Files>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely; connections that end give some back.
                tracing::warn!(%error, "demo server cannot accept");
                match connections.join_next().await {
                    Some(_) => continue,
                    None => return,
                }
            }
        };
        let files = Arc::clone(&files);
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                std::future::ready(Ok::<_, Infallible>(answer(
                    request.method(),
                    request.uri().path(),
                    &files,
                )))
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "demo connection ended early");
            }
        });
    }
}

/// Answers one request. For HEAD hyper sends the same headers and drops the body.
fn answer(method: &Method, path: &str, files: &Files) -> Response<Full<Bytes>> {
    let (status, body) = if method != Method::GET && method != Method::HEAD {
        (StatusCode::METHOD_NOT_ALLOWED, Bytes::new())
    } else if let Some(content) = path.strip_prefix('/').and_then(|path| files.get(path)) {
        (StatusCode::OK, content.clone())
    } else {
        (StatusCode::NOT_FOUND, Bytes::new())
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn serves_files_and_nothing_else() {
        let files = Files::from([("r/a".to_owned(), Bytes::from_static(b"hello"))]);
        let server = DemoServer::start(files).await.unwrap();
        assert_eq!(server.base_url("r"), format!("http://{}/r", server.address));
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        // One connection for all: the last request closes it.
        for (method, path) in [("GET", "/r/a"), ("HEAD", "/r/a"), ("GET", "/r/b"), ("PUT", "/r/a")]
        {
            let close = if method == "PUT" { "Connection: close\r\n" } else { "" };
            let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{close}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
        }
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let statuses: Vec<_> =
            reply.lines().filter_map(|l| l.split("HTTP/1.1 ").nth(1)).map(|l| &l[..3]).collect();
        assert_eq!(statuses, ["200", "200", "404", "405"]);
        assert_eq!(reply.matches("content-length: 5").count(), 2);
        assert_eq!(reply.matches("hello").count(), 1);
    }
}
