//! The manifest `.cvmfspublished`: what the current revision is (spec/format.md section 5).

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::format::signed::MAX_LETTER_LEN;
use crate::hash::ContentHash;

/// Most bytes worth receiving as a manifest.
pub const MAX_MANIFEST_LEN: usize = MAX_LETTER_LEN;

/// MD5 of the empty string, the path of the root catalog.
const ROOT_PATH: &[u8] = b"d41d8cd98f00b204e9800998ecf8427e";

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A required line is missing.
    #[error("incomplete manifest: no line {0:?}")]
    Missing(char),
    /// A line has a value of the wrong form.
    #[error("bad value in manifest line {key:?}: {value:?}")]
    Value {
        /// The first character of the line.
        key: char,
        /// The rest of the line.
        value: String,
    },
    /// The manifest is not about the root of a repository.
    #[error("catalog root path mismatch")]
    RootPath,
}

/// The fields of a manifest, as far as a client can use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// `C`: the root catalog.
    pub root_catalog: ContentHash,
    /// `B`: plain size of the root catalog in bytes; `None` if absent or 0.
    pub root_catalog_size: Option<u64>,
    /// `D`: time to live in seconds.
    pub ttl: u64,
    /// `S`: number of the revision.
    pub revision: u64,
    /// `N`: the repository it claims to be of.
    pub fqrn: String,
    /// `X`: the certificate whose key signed it.
    pub certificate: ContentHash,
    /// `H`: the database of tags.
    pub history: Option<ContentHash>,
    /// `M`: the owner's description.
    pub metainfo: Option<ContentHash>,
    /// `Y`: hash of the plain reflog file.
    pub reflog: Option<ContentHash>,
    /// `T`: time of publication in Unix seconds; 0 if absent.
    pub published: u64,
    /// `G`: old revisions may disappear from the servers.
    pub garbage_collectable: bool,
    /// `A`: root catalog and certificate are at their alternative paths.
    pub alternative_paths: bool,
}

impl Manifest {
    /// Parses the text of a manifest, up to a line `--` if there is one.
    ///
    /// Stricter than upstream: numbers are digits only, hashes are content hashes, and the lines
    /// `N` and `X`, without which no manifest can be accepted, are required.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let fields = Fields::parse(text);
        if fields.required('R')? != ROOT_PATH {
            return Err(ManifestError::RootPath);
        }
        Ok(Self {
            root_catalog: fields.required_hash('C')?,
            root_catalog_size: fields.number('B')?.filter(|&size| size > 0),
            ttl: fields.required_number('D')?,
            revision: fields.required_number('S')?,
            fqrn: fields.required_text('N')?,
            certificate: fields.required_hash('X')?,
            history: fields.hash('H')?,
            metainfo: fields.hash('M')?,
            reflog: fields.hash('Y')?,
            published: fields.number('T')?.unwrap_or(0),
            garbage_collectable: fields.is_yes('G'),
            alternative_paths: fields.is_yes('A'),
        })
    }
}

/// Root catalog, its plain size, and whether it is at its alternative path, as a manifest claims
/// before its signature can be checked.
pub(crate) fn root_catalog_location(
    text: &[u8],
) -> Result<(ContentHash, Option<u64>, bool), ManifestError> {
    let fields = Fields::parse(text);
    Ok((fields.required_hash('C')?, fields.number('B')?, fields.is_yes('A')))
}

/// Where the certificate of a manifest can be fetched, as it claims before its signature can be
/// checked.
pub(crate) fn certificate_location(text: &[u8]) -> Result<(ContentHash, bool), ManifestError> {
    let fields = Fields::parse(text);
    Ok((fields.required_hash('X')?, fields.is_yes('A')))
}

struct Fields<'a>(BTreeMap<u8, Cow<'a, [u8]>>);

impl<'a> Fields<'a> {
    /// Reads lines of a key byte and a value; a repeated key overwrites, except the reserved `Z`.
    fn parse(text: &'a [u8]) -> Self {
        let mut fields = BTreeMap::<u8, Cow<'a, [u8]>>::new();
        for line in text.split(|&b| b == b'\n').take_while(|&line| line != b"--") {
            let Some((&key, value)) = line.split_first() else { continue };
            match fields.get_mut(&key) {
                Some(known) if key == b'Z' => {
                    let known = known.to_mut();
                    known.push(b'|');
                    known.extend_from_slice(value);
                }
                _ => {
                    fields.insert(key, Cow::Borrowed(value));
                }
            }
        }
        Self(fields)
    }

    fn get(&self, key: char) -> Option<&[u8]> {
        let key = u8::try_from(key).ok()?;
        self.0.get(&key).map(Cow::as_ref)
    }

    fn required(&self, key: char) -> Result<&[u8], ManifestError> {
        self.get(key).ok_or(ManifestError::Missing(key))
    }

    fn required_text(&self, key: char) -> Result<String, ManifestError> {
        let value = self.required(key)?;
        String::from_utf8(value.to_vec()).map_err(|_| bad_value(key, value))
    }

    fn number(&self, key: char) -> Result<Option<u64>, ManifestError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        if !value.iter().all(u8::is_ascii_digit) {
            return Err(bad_value(key, value));
        }
        let number = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
        number.map(Some).ok_or_else(|| bad_value(key, value))
    }

    fn required_number(&self, key: char) -> Result<u64, ManifestError> {
        self.number(key)?.ok_or(ManifestError::Missing(key))
    }

    /// Upstream writes "no object" as a missing line or as the null hash.
    fn hash(&self, key: char) -> Result<Option<ContentHash>, ManifestError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let hash = ContentHash::parse_bytes(value).map_err(|_| bad_value(key, value))?;
        Ok(Some(hash).filter(|hash| !hash.is_null()))
    }

    fn required_hash(&self, key: char) -> Result<ContentHash, ManifestError> {
        self.hash(key)?.ok_or(ManifestError::Missing(key))
    }

    fn is_yes(&self, key: char) -> bool {
        self.get(key) == Some(b"yes")
    }
}

/// Longest part of a bad value that goes into a message.
const SHOWN_VALUE_LEN: usize = 80;

fn bad_value(key: char, value: &[u8]) -> ManifestError {
    let shown = &value[..value.len().min(SHOWN_VALUE_LEN)];
    ManifestError::Value { key, value: String::from_utf8_lossy(shown).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "f3bc68897a32278da5b5b0e4b5e4711a9102dde5";
    const CERTIFICATE: &str = "0b457ac12225018e0a15330364c20529e15012ab";
    const HISTORY: &str = "70a5de156ee5eaf4f8e191591b6ade378f1120bd";

    /// facts/behaviours.md section 2.3.
    const EXAMPLE: &str = "Cf3bc68897a32278da5b5b0e4b5e4711a9102dde5\nB75834368\nZfirst\nZsecond\n\
        Rd41d8cd98f00b204e9800998ecf8427e\nD900\nS8418\n\nNatlas.cern.ch\nNcms.cern.ch\n\
        X0b457ac12225018e0a15330364c20529e15012ab\nH70a5de156ee5eaf4f8e191591b6ade378f1120bd\n\
        T1431669806\n--\nEEXTRA-CONTENT\n";

    #[test]
    fn reads_the_example() {
        let fields = Fields::parse(EXAMPLE.as_bytes());
        assert_eq!(fields.0.keys().copied().collect::<Vec<_>>(), b"BCDHNRSTXZ");
        assert_eq!(fields.get('Z'), Some(&b"first|second"[..]));
        let manifest = Manifest::parse(EXAMPLE.as_bytes()).unwrap();
        let expected = Manifest {
            root_catalog: ROOT.parse().unwrap(),
            root_catalog_size: Some(75_834_368),
            ttl: 900,
            revision: 8418,
            fqrn: "cms.cern.ch".to_owned(),
            certificate: CERTIFICATE.parse().unwrap(),
            history: Some(HISTORY.parse().unwrap()),
            metainfo: None,
            reflog: None,
            published: 1_431_669_806,
            garbage_collectable: false,
            alternative_paths: false,
        };
        assert_eq!(manifest, expected);
    }

    /// The smallest manifest, with `line` put at the end, so that it overrides.
    fn with(line: &str) -> Result<Manifest, ManifestError> {
        let text = format!(
            "C{ROOT}\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS1\nNa.b\nX{CERTIFICATE}\n{line}\n"
        );
        Manifest::parse(text.as_bytes())
    }

    #[test]
    fn optional_lines() {
        let plain = with("").unwrap();
        assert_eq!(plain.root_catalog_size, None);
        assert_eq!((plain.published, plain.history), (0, None));
        // Lines of no meaning to us are ignored, whatever they hold.
        for line in ["Qx", "L0", "Zz", "\u{e9}", "g"] {
            assert_eq!(with(line).unwrap(), plain, "{line}");
        }
        assert_eq!(with("B0").unwrap().root_catalog_size, None);
        assert_eq!(with("S18446744073709551615").unwrap().revision, u64::MAX);
        assert_eq!(with(&format!("H{:040}", 0)).unwrap().history, None);
        assert_eq!(
            with(&format!("M{HISTORY}-rmd160")).unwrap().metainfo.unwrap().to_string(),
            format!("{HISTORY}-rmd160")
        );
        assert_eq!(with(&format!("Y{HISTORY}")).unwrap().reflog, Some(HISTORY.parse().unwrap()));
        for (value, yes) in
            [("yes", true), ("no", false), ("Yes", false), ("yes ", false), ("", false)]
        {
            assert_eq!(with(&format!("G{value}")).unwrap().garbage_collectable, yes, "{value}");
            assert_eq!(with(&format!("A{value}")).unwrap().alternative_paths, yes, "{value}");
        }
    }

    #[test]
    fn required_lines() {
        for key in ['C', 'R', 'D', 'S', 'N', 'X'] {
            let text: String = EXAMPLE
                .lines()
                .filter(|line| !line.starts_with(key))
                .map(|line| format!("{line}\n"))
                .collect();
            assert_eq!(Manifest::parse(text.as_bytes()), Err(ManifestError::Missing(key)));
        }
        assert_eq!(Manifest::parse(b""), Err(ManifestError::Missing('R')));
        // What stands behind the separator does not count.
        assert_eq!(
            Manifest::parse(format!("--\n{EXAMPLE}").as_bytes()),
            Err(ManifestError::Missing('R'))
        );
        assert_eq!(with(&format!("C{:040}", 0)), Err(ManifestError::Missing('C')));
    }

    #[test]
    fn bad_values() {
        assert_eq!(with("R00000000000000000000000000000000"), Err(ManifestError::RootPath));
        assert_eq!(with("RD41D8CD98F00B204E9800998ECF8427E"), Err(ManifestError::RootPath));
        let md5 = "d41d8cd98f00b204e9800998ecf8427e";
        for line in [
            "D",
            "D-1",
            "D+1",
            "D 1",
            "D1 ",
            "D1x",
            "D0x10",
            "S18446744073709551616",
            "T1.5",
            "B1k",
            &format!("C{md5}"),
            &format!("X{md5}"),
            &format!("H{md5}"),
            &format!("M{md5}"),
            &format!("Y{md5}"),
            &format!("C{ROOT}C"),
            &format!("C{ROOT}-sha256"),
            &format!("C{}", ROOT.to_uppercase()),
            "H",
            "Xx",
        ] {
            let (key, value) = (line.chars().next().unwrap(), line[1..].to_owned());
            assert_eq!(with(line), Err(ManifestError::Value { key, value }), "{line}");
        }
        let mut text = EXAMPLE.replace("Ncms", "N\x01ms").into_bytes();
        let position = text.iter().position(|&b| b == 1).unwrap();
        text[position] = 0xff;
        assert!(matches!(Manifest::parse(&text), Err(ManifestError::Value { key: 'N', .. })));
    }
}
