//! Proxies that answer in place of servers: with wrong bytes, with 404 for everything, with the page
//! of a captive portal.
//!
//! Such an answer looks like a fault of the server, so the next server is asked, through the same
//! proxy. When all servers seem to fail, the request goes past the proxy: through another one, or
//! without any, if the configuration has such a route. If the server gives the right answer there,
//! whose hash or signature proves it, the proxy was wrong. A proxy that never gave a right answer is
//! left at once, any other one at its third wrong answer in a row, as if it did not answer.

use std::time::{Duration, Instant};

use super::super::error::{Failure, FailureClass};
use super::super::proxy::Proxy;
use super::{Next, Selection, Walk, Way};

/// Attempts past doubted proxies: what is really absent must not be asked for by all routes.
const MAX_DOUBTS: usize = 4;
/// Wrong answers in a row after which a proxy is left that has given right ones. One can come from a
/// cache that was damaged or has kept an old 404.
const MAX_PROVEN_WRONG: u32 = 3;

impl Walk {
    /// Notes that the proxy of `way` may have given the answer, and not the server.
    pub(in super::super) fn doubt(&mut self, way: &Way) {
        if self.doubts == 0 && way.proxy != Proxy::Direct && !self.doubted.contains(way) {
            self.doubted.push(way.clone());
        }
    }

    /// Starts past the proxy of `way`, for what proved wrong only after it had arrived.
    pub(in super::super) fn past(way: Way, shard_key: u32) -> Self {
        let mut walk = Self::new(Some(way.host), shard_key);
        walk.tried.push(way.clone());
        walk.doubted.push(way);
        walk.doubts = 1;
        walk
    }

    /// Tells whether the present attempt goes past a proxy that is doubted.
    pub(in super::super) fn is_doubting(&self) -> bool {
        self.doubts > 0
    }
}

impl Selection {
    /// Goes past the proxies that are doubted, if there are such and other routes.
    pub(super) fn past_doubted(&self, walk: &mut Walk) -> Next {
        walk.way = None;
        if walk.doubted.is_empty() {
            return Next::GiveUp;
        }
        walk.doubts = 1;
        let doubted = walk.doubted.clone();
        // A server is at fault only as far as others than doubted proxies said so.
        walk.failed_hosts.retain(|host| !doubted.iter().any(|way| way.host == *host));
        for host in doubted.iter().map(|way| way.host) {
            for proxy in doubted.iter().map(|way| &way.proxy) {
                walk.tried.push(Way { host, proxy: proxy.clone() });
            }
        }
        match self.untried(walk) {
            Some(_) => Next::Again(Duration::ZERO),
            None => Next::GiveUp,
        }
    }

    /// Tells whether there is a route to a server past the proxy of `way`.
    pub fn has_past(&self, way: &Way) -> bool {
        self.untried(&Walk::past(way.clone(), 0)).is_some()
    }

    /// Decides after a failed attempt past the doubted proxies. It changes nothing for others: what
    /// is asked for may really be absent.
    pub(super) fn failed_past_doubted(&self, walk: &mut Walk, way: Way, failure: &Failure) -> Next {
        walk.way = None;
        walk.doubts += 1;
        if failure.class.is_proxy() || failure.class == FailureClass::BadData {
            walk.tried.push(way);
        } else {
            // No other route makes this server answer otherwise.
            walk.failed_hosts.push(way.host);
        }
        let is_over = walk.doubts > MAX_DOUBTS || failure.class == FailureClass::Final;
        match self.untried(walk).filter(|_| !is_over) {
            Some(_) => Next::Again(Duration::ZERO),
            None => Next::GiveUp,
        }
    }

    /// Notes that a request succeeded past the proxies that it doubts: they gave wrong answers.
    /// `was_right` tells whether a proxy has ever given a right one.
    pub fn proven_wrong(
        &mut self,
        walk: &Walk,
        was_right: impl Fn(&Proxy) -> bool,
        now: Instant,
    ) -> Vec<Proxy> {
        let mut left = Vec::new();
        for Way { proxy, .. } in &walk.doubted {
            if left.contains(proxy) {
                continue;
            }
            let count = self.proven_wrong.entry(proxy.clone()).or_default();
            *count += 1;
            if *count >= MAX_PROVEN_WRONG || !was_right(proxy) {
                tracing::warn!(
                    proxy = %proxy.display(),
                    "the proxy gives answers that are not those of the servers"
                );
                left.push(proxy.clone());
            }
        }
        for proxy in &left {
            self.burn(proxy, now);
        }
        left
    }

    /// Notes a right answer through a proxy.
    pub fn proven_right(&mut self, proxy: &Proxy) {
        if !self.proven_wrong.is_empty() {
            self.proven_wrong.remove(proxy);
        }
    }
}
