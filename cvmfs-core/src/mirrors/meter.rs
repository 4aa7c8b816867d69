//! Counts what each server is asked, and refuses what goes beyond the limits.
//!
//! It is a transport, so whatever asks through it is counted, the chain of trust as well as
//! measurements.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::limits::Limits;
use crate::net::transport::Body;
use crate::net::{AttemptError, Request, Transport};

/// What a request says that is not sent.
const USED_UP: &str = "not asked: the limit of requests or bytes of this round is used up";

pub(super) struct Meter {
    inner: Arc<dyn Transport>,
    limits: Limits,
    accounts: Arc<Vec<Account>>,
}

struct Account {
    /// With a slash at the end.
    prefix: String,
    used: Mutex<Used>,
}

/// What was asked of a server, or may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) requests: u64,
    pub(super) bytes: u64,
}

impl Meter {
    pub(super) fn new(inner: Arc<dyn Transport>, servers: &[String], limits: Limits) -> Self {
        let account = |server: &String| Account {
            prefix: format!("{}/", server.trim_end_matches('/')),
            used: Mutex::default(),
        };
        Self { inner, limits, accounts: Arc::new(servers.iter().map(account).collect()) }
    }

    /// Begins to count anew.
    pub(super) fn begin_round(&self) {
        for account in self.accounts.iter() {
            *account.used.lock() = Used::default();
        }
    }

    fn place(&self, url: &str) -> Option<usize> {
        // One server's address may be the beginning of another one's.
        let fits = |account: &Account| {
            url.starts_with(&account.prefix) || url == account.prefix.trim_end_matches('/')
        };
        let fitting = self.accounts.iter().enumerate().filter(|(_, account)| fits(account));
        fitting.max_by_key(|(_, account)| account.prefix.len()).map(|(place, _)| place)
    }

    /// Returns what a server was asked in this round.
    pub(super) fn used(&self, server: &str) -> Used {
        self.place(server).map_or(Used::default(), |place| *self.accounts[place].used.lock())
    }

    /// Returns requests and bytes of all servers in this round.
    pub(super) fn total(&self) -> (u64, u64) {
        let all = self.accounts.iter().map(|account| *account.used.lock());
        all.fold((0, 0), |(requests, bytes), used| (requests + used.requests, bytes + used.bytes))
    }

    /// Returns what one of so many ways may use of what is left.
    pub(super) fn share(&self, server: &str, ways: usize) -> Used {
        let used = self.used(server);
        let ways = u64::try_from(ways.max(1)).unwrap_or(u64::MAX);
        Used {
            requests: self.limits.requests.saturating_sub(used.requests) / ways,
            bytes: self.limits.bytes.saturating_sub(used.bytes) / ways,
        }
    }

    /// Takes requests that do not go through this transport; false if there are not as many left.
    pub(super) fn take(&self, server: &str, requests: u64) -> bool {
        let Some(place) = self.place(server) else { return false };
        let mut used = self.accounts[place].used.lock();
        let fits =
            used.requests + requests <= self.limits.requests && used.bytes < self.limits.bytes;
        if fits {
            used.requests += requests;
        }
        fits
    }

    /// Counts bytes that did not come through this transport.
    pub(super) fn add_bytes(&self, server: &str, bytes: u64) {
        if let Some(place) = self.place(server) {
            self.accounts[place].used.lock().bytes += bytes;
        }
    }
}

impl Transport for Meter {
    fn get(&self, request: Request) -> BoxFuture<'_, Result<Body, AttemptError>> {
        Box::pin(async move {
            let refused = || AttemptError::Unusable(USED_UP.to_owned());
            let place = self.place(&request.url).ok_or_else(refused)?;
            if !self.take(&request.url, 1) {
                return Err(refused());
            }
            let Body { start, announced_len, date, pieces } = self.inner.get(request).await?;
            let (accounts, most) = (Arc::clone(&self.accounts), self.limits.bytes);
            let counted = pieces.map(move |piece| {
                let piece = piece?;
                let mut used = accounts[place].used.lock();
                used.bytes += piece.len() as u64;
                match used.bytes > most {
                    true => Err(AttemptError::Unusable(USED_UP.to_owned())),
                    false => Ok(piece),
                }
            });
            Ok(Body { start, announced_len, date, pieces: counted.boxed() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Proxy;

    /// Answers everything with ten bytes.
    struct Ten;

    impl Transport for Ten {
        fn get(&self, _: Request) -> BoxFuture<'_, Result<Body, AttemptError>> {
            let pieces = futures_util::stream::iter([Ok(bytes::Bytes::from_static(&[0; 10]))]);
            Box::pin(std::future::ready(Ok(Body {
                start: 0,
                announced_len: None,
                date: None,
                pieces: pieces.boxed(),
            })))
        }
    }

    async fn get(meter: &Meter, url: &str) -> Result<usize, AttemptError> {
        let request = Request {
            url: url.to_owned(),
            proxy: Proxy::Direct,
            no_cache: false,
            window: None,
            from: 0,
            limit: std::time::Duration::from_secs(5),
        };
        let mut body = meter.get(request).await?;
        let mut len = 0;
        while let Some(piece) = body.pieces.next().await {
            len += piece?.len();
        }
        Ok(len)
    }

    #[tokio::test]
    async fn each_server_has_an_account_and_strangers_have_none() {
        let servers =
            ["http://a/r".to_owned(), "http://a/r2".to_owned(), "http://a/r/q".to_owned()];
        let limits = Limits { requests: 3, bytes: 25, seconds: 1 };
        let meter = Meter::new(Arc::new(Ten), &servers, limits);
        assert_eq!(get(&meter, "http://a/r/x").await.unwrap(), 10);
        assert_eq!(get(&meter, "http://a/r2/x").await.unwrap(), 10);
        assert!(get(&meter, "http://b/r/x").await.is_err());
        assert_eq!(get(&meter, "http://a/r/q/x").await.unwrap(), 10);
        assert_eq!(meter.used("http://a/r"), Used { requests: 1, bytes: 10 });
        assert_eq!(meter.share("http://a/r", 2), Used { requests: 1, bytes: 7 });
        assert_eq!(meter.total(), (3, 30));
        // The second piece goes beyond the bytes, the fourth request beyond the requests.
        assert_eq!(get(&meter, "http://a/r/y").await.unwrap(), 10);
        assert!(get(&meter, "http://a/r/z").await.unwrap_err().to_string().contains("limit"));
        assert_eq!(meter.used("http://a/r").requests, 3);
        assert!(get(&meter, "http://a/r/z").await.is_err());
        assert!(!meter.take("http://a/r", 1));
        assert!(meter.take("http://a/r2", 2) && !meter.take("http://a/r2", 1));
        meter.begin_round();
        assert_eq!(meter.total(), (0, 0));
    }
}
