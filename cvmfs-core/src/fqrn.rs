//! Fully qualified repository names.

use std::fmt;
use std::str::FromStr;

/// Longest name that upstream's mount helper takes (spec/config.md section 6).
pub const MAX_FQRN_LEN: usize = 60;

/// A repository name such as `cms.cern.ch`: `[A-Za-z0-9._-]`, with a dot, at most 60 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fqrn(String);

/// Why a text is no repository name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FqrnError {
    /// Another character than a letter, digit, dot, dash or underscore; or a dot at either end.
    #[error("{0:?} is no repository name: letters, digits, '.', '-' and '_' only")]
    Character(String),
    /// No dot: the domain is missing.
    #[error("{0:?} is not fully qualified: give name and domain, as in atlas.cern.ch")]
    NoDomain(String),
    /// Over [`MAX_FQRN_LEN`].
    #[error("repository name of {0} characters, at most {MAX_FQRN_LEN} are allowed")]
    TooLong(usize),
}

impl Fqrn {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the part before the first dot, `@org@` in templates.
    pub fn organisation(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// Returns the part after the first dot, which decides servers and keys.
    pub fn domain(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, domain)| domain)
    }

    /// Puts the name into a server template (spec/network.md section 2).
    pub fn expand(&self, template: &str) -> String {
        template.replace("@fqrn@", &self.0).replace("@org@", self.organisation())
    }
}

impl FromStr for Fqrn {
    type Err = FqrnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_FQRN_LEN {
            return Err(FqrnError::TooLong(text.len()));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if text.is_empty()
            || !text.bytes().all(allowed)
            || !text.as_bytes()[0].is_ascii_alphanumeric()
            || text.ends_with('.')
        {
            return Err(FqrnError::Character(text.to_owned()));
        }
        if !text.contains('.') {
            return Err(FqrnError::NoDomain(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Fqrn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fqrn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["cms.cern.ch", "a.b", "x_y-1.Test.org"] {
            assert_eq!(good.parse::<Fqrn>().unwrap().as_str(), good);
        }
        for bad in
            ["", "atlas", "a/b.c", "../x.y", ".a.b", "a.b.", "a b.c", "ä.b", &"a.".repeat(31)]
        {
            assert!(bad.parse::<Fqrn>().is_err(), "{bad:?}");
        }
        let fqrn: Fqrn = "atlas-nightlies.cern.ch".parse().unwrap();
        assert_eq!((fqrn.organisation(), fqrn.domain()), ("atlas-nightlies", "cern.ch"));
        assert_eq!(
            fqrn.expand("http://h/@org@/@fqrn@/@x@"),
            "http://h/atlas-nightlies/atlas-nightlies.cern.ch/@x@"
        );
    }
}
