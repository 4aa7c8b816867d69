//! The local blocklist: certificates and revisions never to accept (spec/format.md section 8,
//! where it is called blacklist).

use crate::format::certificate::{Certificate, parse_fingerprint};
use crate::fqrn::Fqrn;
use crate::hash::ContentHash;

/// What the administrators of this machine do not accept. The default blocks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocklist {
    fingerprints: Vec<ContentHash>,
    revisions: Vec<RevisionRule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RevisionRule {
    fqrn: String,
    /// The first revision that is not blocked.
    first_good: u64,
}

impl Blocklist {
    /// Parses a blocklist file; several files are put together with [`Blocklist::extend`].
    ///
    /// Lines that are neither a fingerprint nor `<FQRN REVISION` are ignored.
    pub fn parse(text: &[u8]) -> Self {
        let mut list = Self::default();
        for line in text.split(|&b| b == b'\n') {
            if let Some(rule) = line.strip_prefix(b"<") {
                list.revisions.extend(parse_rule(rule));
            } else {
                list.fingerprints.extend(parse_fingerprint(line));
            }
        }
        list
    }

    /// Adds all entries of `other`.
    pub fn extend(&mut self, other: Self) {
        self.fingerprints.extend(other.fingerprints);
        self.revisions.extend(other.revisions);
    }

    /// Returns the entry that forbids `certificate`.
    pub fn blocks_certificate(&self, certificate: &Certificate) -> Option<&ContentHash> {
        self.fingerprints.iter().find(|&fingerprint| certificate.has_fingerprint(fingerprint))
    }

    /// Returns the first revision of `fqrn` that is allowed, if `revision` is not.
    pub fn blocks_revision(&self, fqrn: &Fqrn, revision: u64) -> Option<u64> {
        let rules = self.revisions.iter().filter(|rule| rule.fqrn == fqrn.as_str());
        rules.map(|rule| rule.first_good).max().filter(|&first_good| revision < first_good)
    }
}

fn parse_rule(rule: &[u8]) -> Option<RevisionRule> {
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t');
    let rule = std::str::from_utf8(rule).ok()?;
    let (fqrn, number) = rule.split_at(rule.as_bytes().iter().position(is_blank)?);
    let number = number.trim_start_matches([' ', '\t']);
    if fqrn.is_empty() || number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // A number over 64 bits must not unblock what it was written to block.
    Some(RevisionRule { fqrn: fqrn.to_owned(), first_good: number.parse().unwrap_or(u64::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_rules() {
        let fqrn: Fqrn = "keys.cern.ch".parse().unwrap();
        for (text, revision, blocked) in [
            ("", 0, None),
            ("<keys.cern.ch 1000", 999, Some(1000)),
            ("<keys.cern.ch 1000\n", 1000, None),
            ("<keys.cern.ch\t 1000", 0, Some(1000)),
            ("<keys.cern.ch 1000\n<keys.cern.ch 5\n", 6, Some(1000)),
            ("<other.cern.ch 1000", 999, None),
            ("<keys.cern.ch1000", 999, None),
            ("<keys.cern.ch", 0, None),
            ("<keys.cern.ch ", 0, None),
            ("<keys.cern.ch 1000x", 999, None),
            ("<keys.cern.ch 1000 ", 999, None),
            ("<keys.cern.ch -1", 0, None),
            ("< keys.cern.ch 1000", 999, None),
            ("#<keys.cern.ch 1000", 999, None),
            ("<keys.cern.ch 99999999999999999999", 7, Some(u64::MAX)),
        ] {
            assert_eq!(
                Blocklist::parse(text.as_bytes()).blocks_revision(&fqrn, revision),
                blocked,
                "{text:?}"
            );
        }
    }

    #[test]
    fn certificates_under_any_algorithm() {
        let certificate =
            Certificate::parse(include_bytes!("../testdata/made.certificate.pem")).unwrap();
        let sha1 = certificate.fingerprint(crate::hash::HashAlgorithm::Sha1);
        let shake = certificate.fingerprint(crate::hash::HashAlgorithm::Shake128);
        for (text, blocked) in [
            (String::new(), None),
            ("00:7C:FA:EE:1A:2B:98:74:5D:14:A6:25:4E:C4:40:BC:BD:44:47:A3".to_owned(), None),
            (sha1.to_string().to_uppercase(), Some(sha1)),
            (format!("# lost key\n{shake} # 2026-01-01\n"), Some(shake)),
            // Right digits, wrong algorithm.
            (format!("{sha1}-rmd160"), None),
        ] {
            assert_eq!(
                Blocklist::parse(text.as_bytes()).blocks_certificate(&certificate),
                blocked.as_ref(),
                "{text}"
            );
        }
        let mut list = Blocklist::parse(b"<a.b 1");
        list.extend(Blocklist::parse(format!("{sha1}\n<a.b 3").as_bytes()));
        assert_eq!(list.blocks_certificate(&certificate), Some(&sha1));
        assert_eq!(list.blocks_revision(&"a.b".parse().unwrap(), 2), Some(3));
    }
}
