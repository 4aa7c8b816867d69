//! Which requests the endpoint answers: those for this machine, of who knows the token.
//!
//! A page of another site can make a browser ask this endpoint, under a name of its own that it lets point to
//! 127.0.0.1 (DNS rebinding), and then read the answer. The `Host` header tells: such a request has the name of
//! that site. An IP address in it is harmless, whichever it is, because an address cannot be pointed elsewhere.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;

use http::{HeaderMap, StatusCode, Uri, header};

use super::MetricsArgs;
use crate::cli::exit::{ExitStatus, Failure};

/// Where the kernel tells the name of the machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
/// Longest token.
const MAX_TOKEN: u64 = 4096;

/// What a request must have.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    /// In lower case.
    names: Vec<String>,
    /// A digest, because digests are compared in constant time.
    token: Option<blake3::Hash>,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// It is for another machine.
    Host,
    /// It has no token, or another one.
    Token,
}

impl Denied {
    /// Returns the status of the answer, and what it says.
    pub(super) fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "not a name of this machine; --host NAME adds one\n",
            ),
            Self::Token => (StatusCode::UNAUTHORIZED, "it takes the token of --token-file\n"),
        }
    }
}

impl Admission {
    /// Reads the token, and collects the names.
    pub(super) fn of(args: &MetricsArgs) -> Result<Self, Failure> {
        let mut names = vec!["localhost".to_owned()];
        if let Ok(own) = std::fs::read_to_string(HOST_NAME) {
            let short = own.trim().split('.').next().unwrap_or_default();
            names.extend([own.trim(), short].map(str::to_ascii_lowercase));
        }
        names.extend(args.host.iter().map(|name| name.to_ascii_lowercase()));
        names.retain(|name| !name.is_empty());
        let token = args.token_file.as_ref().map(|path| {
            let what = format!("cannot use --token-file {}", path.display());
            let failed =
                |error: &std::io::Error| Failure::caused(ExitStatus::Options, &what, error);
            let mut text = String::new();
            File::open(path)
                .and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text))
                .map_err(|error| failed(&error))?;
            match text.trim() {
                "" => Err(Failure::new(ExitStatus::Options, format!("{what}: it is empty"))),
                token => Ok(blake3::hash(token.as_bytes())),
            }
        });
        Ok(Self { names, token: token.transpose()? })
    }

    /// Tells whether a token is needed.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Looks at a request. At a Unix socket no name is looked at: no page of a browser gets there.
    pub(super) fn check(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        by_network: bool,
    ) -> Result<(), Denied> {
        if by_network {
            let mut hosts = headers.get_all(header::HOST).iter();
            let named = hosts.next().and_then(|host| host.to_str().ok());
            let is_alone = hosts.next().is_none();
            let in_uri = uri.authority().is_none_or(|authority| self.knows(authority.as_str()));
            if !named.is_some_and(|host| self.knows(host)) || !is_alone || !in_uri {
                return Err(Denied::Host);
            }
        }
        let Some(token) = &self.token else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        match given {
            Some((scheme, given))
                if scheme.eq_ignore_ascii_case("bearer")
                    && blake3::hash(given.trim().as_bytes()) == *token =>
            {
                Ok(())
            }
            _ => Err(Denied::Token),
        }
    }

    /// Tells whether a name, maybe with a port, is one of this machine.
    fn knows(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        name.parse::<IpAddr>().is_ok()
            || self.names.iter().any(|known| known.eq_ignore_ascii_case(name.trim_end_matches('.')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(admission: &Admission, headers: &[(&str, &str)]) -> Result<(), Denied> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = header::HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        admission.check(&Uri::from_static("/metrics"), &map, true)
    }

    #[test]
    fn metrics_are_for_requests_to_this_machine() {
        let args = MetricsArgs {
            listen: None,
            host: vec!["Node7.Example.org".to_owned()],
            token_file: None,
        };
        let admission = Admission::of(&args).unwrap();
        for good in [
            "localhost",
            "LOCALHOST:9867",
            "127.0.0.1:1",
            "[::1]:9867",
            "[::1]",
            "192.0.2.7:80",
            "node7.example.org",
            "node7.example.org.:9867",
        ] {
            assert_eq!(checked(&admission, &[("host", good)]), Ok(()), "{good}");
        }
        for bad in
            ["evil.example.org", "localhost.evil.org:9867", "x", "", "127.0.0.1.evil.org", "[evil]"]
        {
            assert_eq!(checked(&admission, &[("host", bad)]), Err(Denied::Host), "{bad}");
        }
        assert_eq!(checked(&admission, &[]), Err(Denied::Host));
        let twice = [("host", "localhost"), ("host", "evil.org")];
        assert_eq!(checked(&admission, &twice), Err(Denied::Host));
        let absolute = Uri::from_static("http://evil.org/metrics");
        let mut map = HeaderMap::new();
        map.insert(header::HOST, "localhost".parse().unwrap());
        assert_eq!(admission.check(&absolute, &map, true), Err(Denied::Host));
        assert_eq!(admission.check(&absolute, &HeaderMap::new(), false), Ok(()));
    }

    #[test]
    fn a_token_is_the_whole_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let args = |path: &std::path::Path| MetricsArgs {
            listen: None,
            host: Vec::new(),
            token_file: Some(path.to_owned()),
        };
        assert!(Admission::of(&args(file.path())).is_err(), "an empty token lets everybody in");
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let admission = Admission::of(&args(file.path())).unwrap();
        let with = |value| checked(&admission, &[("host", "localhost"), ("authorization", value)]);
        assert_eq!(with("Bearer s3cret"), Ok(()));
        assert_eq!(with("bearer s3cret"), Ok(()));
        for bad in ["Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cretx", "Basic s3cret", "s3cret"]
        {
            assert_eq!(with(bad), Err(Denied::Token), "{bad}");
        }
        assert_eq!(checked(&admission, &[("host", "localhost")]), Err(Denied::Token));
        assert!(Admission::of(&args("/nonexistent".as_ref())).is_err());
    }
}
