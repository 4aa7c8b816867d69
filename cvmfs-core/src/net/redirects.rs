//! Where a server may send a request, if redirects are followed at all.
//!
//! What comes from there is checked like everything else; but a request itself can do harm: to
//! services of this machine or of a cloud's link-local network that trust whoever can reach them. So
//! a server on the network cannot send us to loopback or link-local addresses, and one that proved
//! who it is cannot send us to one that does not.

use std::net::IpAddr;

use url::{Host, Url};

/// Redirects followed for one request (spec/network.md section 3).
const MAX_REDIRECTS: usize = 4;

/// Returns the rule for a client.
pub(super) fn policy(follow: bool) -> reqwest::redirect::Policy {
    if !follow {
        return reqwest::redirect::Policy::none();
    }
    reqwest::redirect::Policy::custom(|attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error("too many redirects");
        }
        // The redirect is the answer then, which is an error.
        match attempt.previous().last() {
            Some(from) if may_follow(from, attempt.url()) => attempt.follow(),
            _ => attempt.stop(),
        }
    })
}

fn may_follow(from: &Url, to: &Url) -> bool {
    let scheme =
        matches!((from.scheme(), to.scheme()), ("http", "http" | "https") | ("https", "https"));
    scheme && (!is_local(to) || is_local(from))
}

/// Tells whether a URL names an address that means something else on each machine.
fn is_local(url: &Url) -> bool {
    let address: IpAddr = match url.host() {
        Some(Host::Ipv4(address)) => address.into(),
        Some(Host::Ipv6(address)) => address.to_canonical(),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            return name == "localhost" || name.ends_with(".localhost");
        }
        None => return true,
    };
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_servers_send_nobody_to_local_services_or_back_to_plain_http() {
        let may =
            |from: &str, to: &str| may_follow(&Url::parse(from).unwrap(), &Url::parse(to).unwrap());
        for (from, to, expected) in [
            ("http://a.org/x", "http://b.org/x", true),
            ("http://a.org/x", "https://b.org/x", true),
            ("https://a.org/x", "https://b.org/x", true),
            ("https://a.org/x", "http://b.org/x", false),
            ("https://a.org/x", "http://a.org/x", false),
            ("http://a.org/x", "file:///etc/shadow", false),
            ("http://a.org/x", "ftp://b.org/x", false),
            ("http://a.org/x", "http://127.0.0.1:2375/x", false),
            ("http://a.org/x", "http://2130706433/x", false),
            ("http://a.org/x", "http://0.0.0.0/x", false),
            ("http://a.org/x", "http://localhost/x", false),
            ("http://a.org/x", "http://localhost./x", false),
            ("http://a.org/x", "http://169.254.169.254/latest/meta-data", false),
            ("http://a.org/x", "http://[::1]/x", false),
            ("http://a.org/x", "http://[::ffff:127.0.0.1]/x", false),
            ("http://a.org/x", "http://[fe80::1]/x", false),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:2/x", true),
        ] {
            assert_eq!(may(from, to), expected, "{from} -> {to}");
        }
    }
}
