//! Whom a connection is made with: a server or a proxy.

use base64::Engine as _;

use super::{ProbeError, Step};
use crate::net::transport::unescape;

/// Where a connection goes.
pub(super) struct Peer {
    pub(super) url: url::Url,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Peer {
    pub(super) fn parse(url: &str) -> Result<Self, ProbeError> {
        let unusable = |reason: String| ProbeError { step: Step::Resolve, reason };
        let url = url::Url::parse(url).map_err(|error| unusable(error.to_string()))?;
        let host = url.host_str().map(str::to_owned);
        let host = host.ok_or_else(|| unusable(format!("{url} has no host")))?;
        let port = url.port_or_known_default();
        let port = port.ok_or_else(|| unusable(format!("{url} has no port")))?;
        Ok(Self { url, host, port })
    }

    pub(super) fn is_secure(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The name and password in the URL of a proxy, as it wants to have them.
    pub(super) fn credentials(&self) -> Option<String> {
        use std::os::unix::ffi::OsStrExt as _;
        let (user, password) = (self.url.username(), self.url.password().unwrap_or_default());
        let plain = |text: &str| unescape(text).as_os_str().as_bytes().to_vec();
        let both = [plain(user), plain(password)].join(&b':');
        let encoded = base64::engine::general_purpose::STANDARD.encode(both);
        (!user.is_empty()).then(|| format!("Basic {encoded}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_credentials() {
        let peer = |url: &str| Peer::parse(url).map(|peer| (peer.host.clone(), peer.port));
        assert_eq!(peer("http://a/x").ok(), Some(("a".to_owned(), 80)));
        assert_eq!(peer("https://[::1]:8443").ok(), Some(("[::1]".to_owned(), 8443)));
        assert!(peer("a:80").is_err() && peer("file:///x").is_err());
        let credentials = |url| Peer::parse(url).ok().and_then(|peer| peer.credentials());
        assert_eq!(credentials("http://p:3128"), None);
        // user:p@ss
        assert_eq!(credentials("http://user:p%40ss@p:3128").as_deref(), Some("Basic dXNlcjpwQHNz"));
    }
}
