//! The answer of a script, taken apart into choices.

use std::net::Ipv6Addr;

use super::error::{PacError, quote};
use super::{Choice, MAX_CHOICES, MAX_PROXY};

/// The port of a `PROXY` or `HTTP` entry that names none.
const HTTP_PORT: u16 = 80;
/// The port of an `HTTPS` entry that names none.
const HTTPS_PORT: u16 = 443;

/// Reads an answer such as `PROXY a:3128; PROXY b:3128; DIRECT`.
///
/// Entries of kinds this client cannot use (`SOCKS` and unknown ones) are passed over. A malformed
/// proxy is an error rather than passed over: a mistyped list would otherwise quietly become a
/// direct connection.
pub(super) fn choices(answer: &str) -> Result<Vec<Choice>, PacError> {
    let mut out = Vec::new();
    for entry in answer.split(';').map(str::trim) {
        let (kind, rest) = match entry.split_once(char::is_whitespace) {
            Some((kind, rest)) => (kind, rest.trim_start()),
            None => (entry, ""),
        };
        let choice = match kind.to_ascii_uppercase().as_str() {
            "DIRECT" => Choice::Direct,
            "PROXY" | "HTTP" => Choice::Proxy(proxy(entry, rest, HTTP_PORT)?),
            "HTTPS" => Choice::Proxy(format!("https://{}", proxy(entry, rest, HTTPS_PORT)?)),
            _ => continue,
        };
        if out.len() == MAX_CHOICES {
            return Err(PacError::Choices);
        }
        out.push(choice);
    }
    if out.is_empty() {
        out.push(Choice::Direct);
    }
    Ok(out)
}

/// Checks `host:port`, adding the port where there is none.
fn proxy(entry: &str, text: &str, default_port: u16) -> Result<String, PacError> {
    let malformed = || PacError::Proxy { entry: quote(entry) };
    if text.len() > MAX_PROXY {
        return Err(malformed());
    }
    let (host, port) = split_port(text).ok_or_else(malformed)?;
    let port = match port {
        // `u16::from_str` alone would accept a leading plus sign.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(malformed)?
        }
        Some(_) => return Err(malformed()),
        None => default_port,
    };
    if is_host(host) { Ok(format!("{host}:{port}")) } else { Err(malformed()) }
}

/// Splits a port from a host, which may be an IPv6 address in brackets.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let end = if text.starts_with('[') { text.find(']')? + 1 } else { 0 };
    let (bracketed, tail) = text.split_at_checked(end)?;
    if end > 0 {
        return match tail {
            "" => Some((bracketed, None)),
            _ => tail.strip_prefix(':').map(|port| (bracketed, Some(port))),
        };
    }
    Some(text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))))
}

/// Whether this is a host name, an IPv4 address or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    super::host::is_name(host)
}
