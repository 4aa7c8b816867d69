//! Which server to ask, by which proxy: a state machine without I/O.
//!
//! This first form remembers the last good server and proxy and offers all ways in order from
//! there. Load balancing, burning, resets and geographic order come on top without a change for
//! the callers.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::Blame;
use super::proxy::{Proxy, ProxySpec};

/// Servers of one repository and the ways to them.
#[derive(Debug)]
pub struct MirrorSet {
    hosts: Vec<String>,
    proxies: Vec<Proxy>,
    host: AtomicUsize,
    proxy: AtomicUsize,
}

/// One way to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Index of the server.
    pub host: usize,
    /// Index of the proxy over all groups.
    pub proxy: usize,
}

impl MirrorSet {
    /// Takes base URLs (templates expanded) and proxies.
    pub fn new(hosts: Vec<String>, proxies: &ProxySpec) -> Self {
        let hosts = hosts.into_iter().map(|host| host.trim_end_matches('/').to_owned()).collect();
        Self {
            hosts,
            proxies: proxies.groups().concat(),
            host: AtomicUsize::new(0),
            proxy: AtomicUsize::new(0),
        }
    }

    /// Returns the base URLs.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns the proxy of a way.
    pub fn proxy(&self, way: &Way) -> &Proxy {
        &self.proxies[way.proxy]
    }

    /// Returns the server that the next request asks first.
    pub fn current_host(&self) -> usize {
        self.host.load(Ordering::Relaxed)
    }

    /// Starts one request's walk over the ways; `only_host` keeps it on one server.
    pub fn walk(&self, only_host: Option<usize>) -> Walk<'_> {
        Walk {
            set: self,
            first_host: only_host.unwrap_or_else(|| self.current_host()),
            first_proxy: self.proxy.load(Ordering::Relaxed),
            host_steps: 0,
            proxy_steps: 0,
            hosts: if only_host.is_some() { 1 } else { self.hosts.len() },
        }
    }

    /// Asks this server first from now on.
    pub fn prefer_host(&self, host: usize) {
        self.host.store(host, Ordering::Relaxed);
    }

    /// Remembers a way that worked for all later requests.
    pub fn succeeded(&self, way: &Way) {
        self.host.store(way.host, Ordering::Relaxed);
        self.proxy.store(way.proxy, Ordering::Relaxed);
    }
}

/// The ways of one request: every server is asked by every proxy at most once.
#[derive(Debug)]
pub struct Walk<'a> {
    set: &'a MirrorSet,
    first_host: usize,
    first_proxy: usize,
    host_steps: usize,
    proxy_steps: usize,
    hosts: usize,
}

impl Walk<'_> {
    /// Returns the way to try now; `None` when all failed.
    pub fn way(&self) -> Option<Way> {
        let (hosts, proxies) = (self.set.hosts.len(), self.set.proxies.len());
        (self.host_steps < self.hosts && hosts > 0 && proxies > 0).then(|| Way {
            host: (self.first_host + self.host_steps) % hosts,
            proxy: (self.first_proxy + self.proxy_steps) % proxies,
        })
    }

    /// Goes on after a failure.
    pub fn failed(&mut self, blame: Blame) {
        match blame {
            Blame::Local => self.host_steps = self.hosts,
            Blame::Proxy if self.proxy_steps + 1 < self.set.proxies.len() => self.proxy_steps += 1,
            Blame::Host | Blame::Proxy => {
                self.host_steps += 1;
                self.proxy_steps = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(set: &MirrorSet, blames: &[Blame]) -> Vec<(usize, usize)> {
        let mut walk = set.walk(None);
        let mut seen = Vec::new();
        let mut blames = blames.iter().cycle();
        while let Some(way) = walk.way() {
            seen.push((way.host, way.proxy));
            walk.failed(*blames.next().unwrap());
        }
        seen
    }

    #[test]
    fn every_way_once_and_from_the_last_good_one() {
        let hosts = vec!["http://a/".to_owned(), "http://b".to_owned()];
        let set = MirrorSet::new(hosts, &"p|q;DIRECT".parse().unwrap());
        assert_eq!(set.hosts(), ["http://a", "http://b"]);
        let all = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];
        assert_eq!(walked(&set, &[Blame::Proxy]), all);
        assert_eq!(walked(&set, &[Blame::Host]), [(0, 0), (1, 0)]);
        assert_eq!(walked(&set, &[Blame::Proxy, Blame::Host]), [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(walked(&set, &[Blame::Local]), [(0, 0)]);
        set.succeeded(&Way { host: 1, proxy: 2 });
        assert_eq!(walked(&set, &[Blame::Host]), [(1, 2), (0, 2)]);
        assert_eq!(set.walk(Some(0)).way(), Some(Way { host: 0, proxy: 2 }));
        assert!(MirrorSet::new(vec![], &ProxySpec::direct()).walk(None).way().is_none());
    }
}
