//! The whitelist `.cvmfswhitelist`: which certificates may sign (spec/format.md section 7).

use jiff::civil::DateTime;

use crate::format::certificate::parse_fingerprint;
use crate::format::signed::MAX_LETTER_LEN;
use crate::hash::ContentHash;

/// Most bytes worth receiving as a whitelist.
pub const MAX_WHITELIST_LEN: usize = MAX_LETTER_LEN;

/// Length of `YYYYMMDDhhmmss`.
const DATE_LEN: usize = 14;

/// Why a text is no whitelist that this client can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhitelistError {
    /// Line 1 does not have 14 characters.
    #[error("line 1 is no date of the form YYYYMMDDhhmmss")]
    Created,
    /// Line 2 is no expiry date.
    #[error("line 2 is no expiry date of the form EYYYYMMDDhhmmss")]
    Expires,
    /// Line 3 names no repository.
    #[error("line 3 does not name the repository")]
    Name,
    /// The whitelist asks for PKCS#7 or for a chain of authorities, which no client supports.
    #[error("whitelist asks for the verification {0:?}, which is not supported")]
    Unsupported(String),
}

/// The fields of a whitelist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whitelist {
    /// When it was made, in Unix seconds; `None` if line 1 is no date, which upstream permits.
    pub created: Option<i64>,
    /// From when on it is void, in Unix seconds: always a full hour.
    pub expires: i64,
    /// The repository it claims to be of.
    pub fqrn: String,
    /// The certificates that may sign manifests, under any content hash algorithm.
    pub fingerprints: Vec<ContentHash>,
}

impl Whitelist {
    /// Parses the text of a whitelist, up to a line `--` if there is one.
    ///
    /// Lines after the third that are no fingerprints are ignored, as section 7.2 wants it.
    pub fn parse(text: &[u8]) -> Result<Self, WhitelistError> {
        let mut lines = text.split(|&b| b == b'\n').take_while(|&line| line != b"--").peekable();
        let created = lines.next().filter(|line| line.len() == DATE_LEN);
        let created = created.ok_or(WhitelistError::Created)?;
        let expires = lines
            .next()
            .and_then(|line| parse_date(line.strip_prefix(b"E")?))
            // Minutes and seconds do not count: the list ends with the hour before.
            .and_then(|date| date.with().minute(0).second(0).build().ok())
            .map(unix_seconds)
            .ok_or(WhitelistError::Expires)?;
        let fqrn = lines
            .next()
            .and_then(|line| String::from_utf8(line.strip_prefix(b"N")?.to_vec()).ok())
            .ok_or(WhitelistError::Name)?;
        // No fingerprint starts with these letters. Unknown values are refused like the known
        // ones: they would ask for a check that we do not make.
        if let Some(line) = lines.peek().filter(|line| matches!(line.first(), Some(b'V' | b'W'))) {
            return Err(WhitelistError::Unsupported(String::from_utf8_lossy(line).into_owned()));
        }
        let fingerprints = lines.filter_map(parse_fingerprint).collect();
        Ok(Self { created: parse_date(created).map(unix_seconds), expires, fqrn, fingerprints })
    }

    /// Tells whether the list is void at `now` (Unix seconds): the hour of expiry is too late.
    pub fn is_expired(&self, now: i64) -> bool {
        now >= self.expires
    }
}

/// Parses `YYYYMMDDhhmmss` in UTC.
fn parse_date(text: &[u8]) -> Option<DateTime> {
    if text.len() != DATE_LEN || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let two = |start: usize| text[start..start + 2].parse::<i8>().ok();
    DateTime::new(text[..4].parse().ok()?, two(4)?, two(6)?, two(8)?, two(10)?, two(12)?, 0).ok()
}

/// Works up to the last second of 9999, unlike `jiff::Timestamp`: such lists never expire.
fn unix_seconds(date: DateTime) -> i64 {
    date.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0)).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: &str = "00:7C:FA:EE:1A:2B:98:74:5D:14:A6:25:4E:C4:40:BC:BD:44:47:A3";
    const DIGITS: &str = "007cfaee1a2b98745d14a6254ec440bcbd4447a3";

    fn parse(text: &str) -> Result<Whitelist, WhitelistError> {
        Whitelist::parse(text.as_bytes())
    }

    #[test]
    fn positional_lines() {
        use WhitelistError::{Created, Expires, Name};
        for (text, error) in [
            ("", Created),
            ("20260101125959", Expires),
            ("2026010112595\nE20260101125959\nNabc\n", Created),
            ("202601011259590\nE20260101125959\nNabc\n", Created),
            // 14 characters, newline, 14 characters.
            ("20260101125959\n20260101125959\nNabc\n", Expires),
            ("20260101125959\nE2026010112595\nNabc\n", Expires),
            ("20260101125959\nE202601011259590\nNabc\n", Expires),
            ("20260101125959\nE2026010112595x\nNabc\n", Expires),
            ("20260101125959\nE20261301125959\nNabc\n", Expires),
            ("20260101125959\nE20260230125959\nNabc\n", Expires),
            ("20260101125959\nE20260101245959\nNabc\n", Expires),
            ("20260101125959\nE20260101125959", Name),
            ("20260101125959\nE20260101125959\n", Name),
            ("20260101125959\nE20260101125959\nabc\n", Name),
            ("20260101125959\nE20260101125959\n--\nNabc\n", Name),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        // Upstream ignores what line 1 says.
        let list = parse("abcdefghijklmn\nE19840403000000\nNabc\n").unwrap();
        let expected = Whitelist {
            created: None,
            expires: 449_798_400,
            fqrn: "abc".to_owned(),
            fingerprints: vec![],
        };
        assert_eq!(list, expected);
        let eternal = parse("19700102000001\nE99991231235959\nNabc").unwrap();
        assert_eq!((eternal.created, eternal.expires), (Some(86_401), 253_402_297_200));
    }

    #[test]
    fn only_the_hour_of_expiry_counts() {
        let list = parse("20260101125959\nE20260101125959\nNabc\n").unwrap();
        let noon = 1_767_268_800;
        assert_eq!(list.expires, noon);
        for (now, expired) in [
            (noon - 1, false),
            (noon, true),
            (noon + 1800, true),
            (i64::MIN, false),
            (i64::MAX, true),
        ] {
            assert_eq!(list.is_expired(now), expired, "{now}");
        }
        assert!(parse("20260101125959\nE19840403000000\nNabc\n").unwrap().is_expired(noon));
    }

    #[test]
    fn fingerprint_lines() {
        let head = "20260101125959\nE20260101125959\nNabc\n";
        for (line, hash) in [
            (FINGERPRINT.to_owned(), Some(DIGITS.to_owned())),
            (format!("{FINGERPRINT} # name, mail"), Some(DIGITS.to_owned())),
            (format!("{FINGERPRINT}\t"), Some(DIGITS.to_owned())),
            (format!("{FINGERPRINT}#x"), Some(DIGITS.to_owned())),
            (DIGITS.to_owned(), Some(DIGITS.to_owned())),
            (format!("{FINGERPRINT}-SHAKE128"), Some(format!("{DIGITS}-shake128"))),
            (format!("{FINGERPRINT}-rmd160 "), Some(format!("{DIGITS}-rmd160"))),
            (format!("{FINGERPRINT}-sha256"), None),
            (format!(" {FINGERPRINT}"), None),
            (format!("#{FINGERPRINT}"), None),
            (format!("{FINGERPRINT}:00"), None),
            // An MD5 fingerprint would be no proof of anything.
            (FINGERPRINT[..47].to_owned(), None),
            ("# comment".to_owned(), None),
            (String::new(), None),
        ] {
            let list = parse(&format!("{head}{line}\n")).unwrap();
            let expected: Vec<ContentHash> =
                hash.iter().map(|hash| hash.parse().unwrap()).collect();
            assert_eq!(list.fingerprints, expected, "{line:?}");
        }
        let two = parse(&format!(
            "{head}{FINGERPRINT}\nVpkcs7\n\n{FINGERPRINT}-RMD160\n--\n{FINGERPRINT}\n"
        ))
        .unwrap();
        assert_eq!(two.fingerprints.len(), 2);
    }

    #[test]
    fn other_ways_of_verification_are_refused() {
        let head = "20260101125959\nE20260101125959\nNabc\n";
        for (lines, named) in [
            ("Vpkcs7\nWcachain\n", "Vpkcs7"),
            ("Vpkcs7\n", "Vpkcs7"),
            ("Wcachain\n", "Wcachain"),
            ("Vnew\n", "Vnew"),
        ] {
            let error = parse(&format!("{head}{lines}{FINGERPRINT}\n")).unwrap_err();
            assert_eq!(error, WhitelistError::Unsupported(named.to_owned()));
            assert_eq!(
                error.to_string(),
                format!("whitelist asks for the verification {named:?}, which is not supported")
            );
        }
    }
}
