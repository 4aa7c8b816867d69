//! The HTTP clients, and with whom they may have idle connections.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use lru::LruCache;

use super::proxy::Proxy;

/// What a client is tied to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// reqwest ties a proxy to a client.
    pub(super) proxy: Proxy,
    /// It can tell who a server is. To read the hundreds of authorities of a system takes longer
    /// than all else at a mount, and most servers are asked by plain HTTP.
    pub(super) is_secure: bool,
}

/// One client for each kind.
///
/// A client keeps idle connections for each server that it was used for, and cannot be told to
/// close those with one server. So pairs of kind and server are counted, and a client goes with
/// its least recently used pair. Redirects to further servers are not counted.
#[derive(Debug)]
pub(super) struct Clients {
    clients: HashMap<Kind, reqwest::Client>,
    /// All pairs that may have idle connections.
    peers: LruCache<(Kind, String), ()>,
}

impl Clients {
    /// Makes an empty table for up to `peers` pairs of kind and server.
    pub(super) fn new(peers: usize) -> Self {
        let bound = NonZeroUsize::new(peers).unwrap_or(NonZeroUsize::MIN);
        Self { clients: HashMap::new(), peers: LruCache::new(bound) }
    }

    /// Returns the client of a kind, if there is one, and one that goes for this: the caller
    /// drops it, which closes its idle connections, outside the lock.
    pub(super) fn get(
        &mut self,
        kind: &Kind,
        server: &str,
    ) -> (Option<reqwest::Client>, Option<reqwest::Client>) {
        let Some(client) = self.clients.get(kind).cloned() else { return (None, None) };
        let closed = self.count(kind, server);
        // It may have been the one to go; then this request is the first of a new one.
        (self.clients.contains_key(kind).then_some(client), closed)
    }

    /// Keeps the client of a kind; returns those that go for this.
    pub(super) fn put(
        &mut self,
        kind: &Kind,
        server: &str,
        client: &reqwest::Client,
    ) -> [Option<reqwest::Client>; 2] {
        let replaced = self.clients.insert(kind.clone(), client.clone());
        [replaced, self.count(kind, server)]
    }

    /// Counts a pair; returns the client that must go.
    fn count(&mut self, kind: &Kind, server: &str) -> Option<reqwest::Client> {
        let ((gone, _), ()) = self
            .peers
            .push((kind.clone(), server.to_owned()), ())
            .filter(|((old_kind, old), ())| (old_kind, old.as_str()) != (kind, server))?;
        let others: Vec<_> = self.peers.iter().map(|(peer, ())| peer.clone()).collect();
        for peer in others.into_iter().filter(|(other, _)| *other == gone) {
            self.peers.pop(&peer);
        }
        self.clients.remove(&gone)
    }
}

/// Makes a client that trusts nobody: for plain HTTP, for which repositories are made.
pub(super) fn build_plain(builder: reqwest::ClientBuilder) -> reqwest::Result<reqwest::Client> {
    builder.tls_certs_only([]).build()
}

/// Makes a client that trusts these authorities (PEM bundles), or else those of the system; tells
/// whether there were any. Without a single one reqwest makes no client at all.
pub(super) fn build_secure(
    new_builder: impl Fn() -> reqwest::Result<reqwest::ClientBuilder>,
    authorities: &[Vec<u8>],
) -> reqwest::Result<(reqwest::Client, bool)> {
    let mut given = Vec::new();
    for pem in authorities {
        given.extend(reqwest::Certificate::from_pem_bundle(pem)?);
    }
    if !given.is_empty() {
        return Ok((new_builder()?.tls_certs_only(given).build()?, true));
    }
    match new_builder()?.build() {
        Ok(client) => Ok((client, true)),
        Err(_) => Ok((build_plain(new_builder()?)?, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Kind {
        let proxy = match name {
            "" => Proxy::Direct,
            name => Proxy::Url(format!("http://{name}")),
        };
        Kind { proxy, is_secure: name == "q" }
    }

    #[test]
    fn no_client_has_more_pairs_than_are_counted() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut clients = Clients::new(3);
        let client = reqwest::Client::new();
        // Pairs used one after the other, and whether their client was there already.
        for (name, server, expected) in [
            ("", "a", false),
            ("", "a", true),
            ("", "b", true),
            ("p", "a", false),
            ("", "a", true),
            // Pushes out ("", "b"), and with it the client without a proxy.
            ("q", "a", false),
            ("p", "a", true),
            ("", "a", false),
            ("q", "a", true),
            // The fourth pair: the one of p goes.
            ("q", "b", true),
            ("p", "a", false),
        ] {
            let known = clients.get(&kind(name), server).0;
            assert_eq!(known.is_some(), expected, "{name} {server}");
            if known.is_none() {
                clients.put(&kind(name), server, &client);
            }
            assert!(clients.peers.len() <= 3);
            for (used, _) in clients.peers.iter().map(|(peer, ())| peer) {
                assert!(clients.clients.contains_key(used), "{used:?}");
            }
            for kind in clients.clients.keys() {
                assert!(clients.peers.iter().any(|((used, _), ())| used == kind), "{kind:?}");
            }
        }
    }
}
