//! The grammar of proxy lists (spec/network.md section 4.1).

use std::str::FromStr;

/// One way to a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// No proxy.
    Direct,
    /// URL of a proxy, with scheme.
    Url(String),
}

/// Groups of proxies: within a group they share the load, the groups are tried in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySpec {
    /// Never empty, nor is any group.
    groups: Vec<Vec<Proxy>>,
}

/// Why a text is no proxy list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxySpecError {
    /// Nothing in it.
    #[error("the proxy list is empty; write DIRECT to use none")]
    Empty,
    /// Proxy discovery.
    #[error("auto must be a whole group of the list, as in auto;DIRECT")]
    Auto,
    /// An entry that is no address.
    #[error("{0:?} is no proxy address; expected http://HOST:PORT or DIRECT")]
    Address(String),
}

impl Proxy {
    /// Returns the URL without a password, or `DIRECT`: for logs and attributes.
    pub fn display(&self) -> String {
        match self {
            Self::Direct => "DIRECT".to_owned(),
            Self::Url(url) => without_password(url),
        }
    }
}

/// Secrets in a proxy address are not for logs (facts/behaviours.md T22).
pub(super) fn without_password(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => {
            let _ = parsed.set_password(Some("***"));
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}

impl ProxySpec {
    /// No proxy at all.
    pub fn direct() -> Self {
        Self { groups: vec![vec![Proxy::Direct]] }
    }

    /// Adds fallback groups. They never hold DIRECT, and while there are any, neither do the
    /// regular groups (spec/network.md section 4.4).
    pub fn with_fallback(mut self, fallback: Option<&Self>) -> Self {
        let Some(fallback) = fallback else { return self };
        let indirect = |groups: &[Vec<Proxy>]| -> Vec<Vec<Proxy>> {
            let of = |group: &Vec<Proxy>| -> Vec<Proxy> {
                group.iter().filter(|proxy| **proxy != Proxy::Direct).cloned().collect()
            };
            groups.iter().map(of).filter(|group| !group.is_empty()).collect()
        };
        let fallback = indirect(&fallback.groups);
        if !fallback.is_empty() {
            self.groups = indirect(&self.groups);
            self.groups.extend(fallback);
        }
        self
    }

    /// Returns the groups in order.
    pub fn groups(&self) -> &[Vec<Proxy>] {
        &self.groups
    }
}

impl Default for ProxySpec {
    fn default() -> Self {
        Self::direct()
    }
}

impl FromStr for ProxySpec {
    type Err = ProxySpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut groups = Vec::new();
        for group in text.split(';') {
            let mut proxies = Vec::new();
            // Empty items and blanks are common in site configurations (facts 2.11).
            for item in group.split('|').map(str::trim).filter(|item| !item.is_empty()) {
                proxies.push(match item {
                    "DIRECT" => Proxy::Direct,
                    "auto" => return Err(ProxySpecError::Auto),
                    _ => {
                        let url = if item.contains("://") {
                            item.to_owned()
                        } else {
                            format!("http://{item}")
                        };
                        let usable = url::Url::parse(&url).is_ok_and(|parsed| {
                            matches!(parsed.scheme(), "http" | "https") && parsed.has_host()
                        });
                        if !usable {
                            return Err(ProxySpecError::Address(item.to_owned()));
                        }
                        Proxy::Url(url)
                    }
                });
            }
            if !proxies.is_empty() {
                groups.push(proxies);
            }
        }
        if groups.is_empty() {
            return Err(ProxySpecError::Empty);
        }
        Ok(Self { groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        let url = |text: &str| Proxy::Url(text.to_owned());
        let parsed = |text: &str| text.parse::<ProxySpec>().map(|spec| spec.groups);
        assert_eq!(parsed("DIRECT"), Ok(vec![vec![Proxy::Direct]]));
        assert_eq!(
            parsed("http://a:3128|b:3128; c;;DIRECT|"),
            Ok(vec![
                vec![url("http://a:3128"), url("http://b:3128")],
                vec![url("http://c")],
                vec![Proxy::Direct]
            ])
        );
        assert_eq!(parsed(" ;| "), Err(ProxySpecError::Empty));
        assert_eq!(parsed("auto;DIRECT"), Err(ProxySpecError::Auto));
        for bad in ["ftp://a", "http://", "http://a:port", "http://a b", "http://[::"] {
            assert!(matches!(parsed(bad), Err(ProxySpecError::Address(_))), "{bad}");
        }
    }
}
