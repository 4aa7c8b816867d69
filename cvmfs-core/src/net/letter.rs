//! Small files that no hash names, such as the manifest, from one server.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::proxy::Proxy;
use super::{AttemptError, DownloadError, Downloader, Found, Resource, Sink, Walk};

/// Tells whether bytes are what they should be, as far as they prove it themselves.
pub(crate) type Genuine<'a> = &'a (dyn Fn(&[u8]) -> bool + Sync);

impl Downloader {
    /// Fetches a small file that no hash names, such as the manifest, from one server.
    pub async fn fetch_letter(
        &self,
        path: &str,
        cap: u64,
        host: usize,
    ) -> Result<Bytes, DownloadError> {
        let resource = Resource { path: path.as_bytes(), window: None, cap };
        let walk = Walk::new(Some(host), 0);
        let no_doubt = |_: &Proxy| false;
        let found = self.fetch_by(resource, walk, || false, no_doubt, MemorySink::default).await?;
        Ok(found.value)
    }

    /// Fetches a small file like [`Downloader::fetch_letter`]. If a proxy gives what is not
    /// `genuine`, or says that there is no such file and never gave a right answer before, the
    /// server is asked past it, where there is a route. What a server gives is returned whatever it
    /// is, for the caller to judge.
    pub(crate) async fn fetch_signed(
        &self,
        path: &str,
        cap: u64,
        host: usize,
        genuine: Genuine<'_>,
    ) -> Result<Bytes, DownloadError> {
        let resource = Resource { path: path.as_bytes(), window: None, cap };
        let fetch = |walk: Walk| {
            // A repository that does not exist must not be asked for by all routes each time.
            let may_doubt = |proxy: &Proxy| !self.transport.is_proven(proxy);
            self.fetch_by(resource, walk, || false, may_doubt, MemorySink::default)
        };
        let Found { value, walk, way, failure } = fetch(Walk::new(Some(host), 0)).await?;
        let is_genuine = genuine(&value);
        if walk.is_doubting() {
            if is_genuine {
                self.was_right(&walk, &way);
                return Ok(value);
            }
            // Neither is right, and the first answer may have been the server's.
            return Err(failure);
        }
        if is_genuine || way.proxy == Proxy::Direct || !self.selection.lock().has_past(&way) {
            return Ok(value);
        }
        tracing::debug!(path, proxy = %way.proxy.display(), "not what a server sends; past the proxy");
        match fetch(Walk::past(way, 0)).await {
            Ok(found) if genuine(&found.value) => {
                self.was_right(&found.walk, &found.way);
                Ok(found.value)
            }
            Ok(_) | Err(_) => Ok(value),
        }
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
