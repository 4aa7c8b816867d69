//! Content hashes: algorithm and digest in one value (spec/format.md section 2).
//!
//! Text form: 40 lower-case hex digits, then nothing (SHA-1), `-rmd160` or `-shake128`. Parsing is
//! strict: upstream looks at the length only, we compare the identifier and refuse upper case.
//! MD5 is no content hash and cannot be expressed here; it names paths only ([`crate::path`]).

use std::fmt;
use std::str::FromStr;

use md5::Digest as _;
use shake::digest::{ExtendableOutput as _, XofReader as _};

/// Length of every content digest in bytes, whatever the algorithm.
pub const DIGEST_LEN: usize = 20;
const HEX_LEN: usize = 2 * DIGEST_LEN;

/// The algorithms that may name content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashAlgorithm {
    /// SHA-1, the default of the server tools.
    Sha1,
    /// RIPEMD-160.
    Rmd160,
    /// SHAKE-128, first 160 bits of output.
    Shake128,
}

impl HashAlgorithm {
    /// Returns the identifier that follows the hex digits in the text form.
    pub fn identifier(self) -> &'static str {
        match self {
            Self::Sha1 => "",
            Self::Rmd160 => "-rmd160",
            Self::Shake128 => "-shake128",
        }
    }
}

/// Why a text is no content hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashParseError {
    /// Length or identifier fits no algorithm.
    #[error("not a content hash: {0:?}")]
    Shape(String),
    /// A digest with the wrong number of bytes.
    #[error("digest of {0} bytes instead of {DIGEST_LEN}")]
    DigestLength(usize),
}

/// The hash of an object's stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash {
    algorithm: HashAlgorithm,
    digest: [u8; DIGEST_LEN],
}

impl ContentHash {
    /// Joins algorithm and digest.
    pub fn new(algorithm: HashAlgorithm, digest: [u8; DIGEST_LEN]) -> Self {
        Self { algorithm, digest }
    }

    /// Takes a digest from a database column; refuses any length but 20 bytes.
    pub fn from_digest(algorithm: HashAlgorithm, digest: &[u8]) -> Result<Self, HashParseError> {
        let digest = digest.try_into().map_err(|_| HashParseError::DigestLength(digest.len()))?;
        Ok(Self { algorithm, digest })
    }

    /// Parses the text form from bytes that need not be UTF-8.
    pub fn parse_bytes(text: &[u8]) -> Result<Self, HashParseError> {
        std::str::from_utf8(text)
            .map_err(|_| HashParseError::Shape(String::from_utf8_lossy(text).into_owned()))?
            .parse()
    }

    /// Hashes `bytes` in one go.
    pub fn of(algorithm: HashAlgorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// Returns the digest.
    pub fn digest(&self) -> &[u8; DIGEST_LEN] {
        &self.digest
    }

    /// Tells whether all digest bytes are zero, which upstream uses for "no hash".
    pub fn is_null(&self) -> bool {
        self.digest == [0; DIGEST_LEN]
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; HEX_LEN];
        hex::encode_to_slice(self.digest, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)?;
        f.write_str(self.algorithm.identifier())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentHash {
    type Err = HashParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || HashParseError::Shape(text.chars().take(80).collect());
        let (digits, identifier) = text.split_at_checked(HEX_LEN).ok_or_else(shape)?;
        let algorithm = match identifier {
            "" => HashAlgorithm::Sha1,
            "-rmd160" => HashAlgorithm::Rmd160,
            "-shake128" => HashAlgorithm::Shake128,
            _ => return Err(shape()),
        };
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(shape());
        }
        let mut digest = [0; DIGEST_LEN];
        hex::decode_to_slice(digits, &mut digest).map_err(|_| shape())?;
        Ok(Self { algorithm, digest })
    }
}

/// Computes a [`ContentHash`] piece by piece.
pub struct Hasher(State);

enum State {
    Sha1(sha1::Sha1),
    Rmd160(ripemd::Ripemd160),
    Shake128(Box<shake::Shake128>),
}

impl Hasher {
    /// Starts with no input.
    pub fn new(algorithm: HashAlgorithm) -> Self {
        Self(match algorithm {
            HashAlgorithm::Sha1 => State::Sha1(sha1::Sha1::default()),
            HashAlgorithm::Rmd160 => State::Rmd160(ripemd::Ripemd160::default()),
            HashAlgorithm::Shake128 => State::Shake128(Box::default()),
        })
    }

    /// Adds a piece.
    pub fn update(&mut self, piece: &[u8]) {
        match &mut self.0 {
            State::Sha1(state) => state.update(piece),
            State::Rmd160(state) => state.update(piece),
            State::Shake128(state) => shake::digest::Update::update(state.as_mut(), piece),
        }
    }

    /// Ends the input and returns its hash.
    pub fn finish(self) -> ContentHash {
        match self.0 {
            State::Sha1(state) => ContentHash::new(HashAlgorithm::Sha1, state.finalize().into()),
            State::Rmd160(state) => {
                ContentHash::new(HashAlgorithm::Rmd160, state.finalize().into())
            }
            State::Shake128(state) => {
                let mut digest = [0; DIGEST_LEN];
                state.finalize_xof().read(&mut digest);
                ContentHash::new(HashAlgorithm::Shake128, digest)
            }
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HashAlgorithm::{Rmd160, Sha1, Shake128};

    /// facts/behaviours.md section 2.1, without its row of 6 GiB, which takes minutes.
    #[test]
    fn digests() {
        let fox = b"The quick brown fox jumps over the lazy dog".to_vec();
        for (input, sha1, rmd160, shake128) in [
            (
                Vec::new(),
                "da39a3ee5e6b4b0d3255bfef95601890afd80709",
                "9c1185a5c5e9fc54612808977ee8f548b2258d31-rmd160",
                "7f9c2ba4e88f827d616045507605853ed73b8093-shake128",
            ),
            (
                b"abc".to_vec(),
                "a9993e364706816aba3e25717850c26c9cd0d89d",
                "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc-rmd160",
                "5881092dd818bf5cf8a3ddb793fbcba74097d5c5-shake128",
            ),
            (
                fox,
                "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
                "37f332f68db77bd9d7edd4969571ad671cf9dd3b-rmd160",
                "f4202e3c5852f9182a0430fd8144f0a74b95e741-shake128",
            ),
            (
                vec![b'a'; 1_000_000],
                "34aa973cd4c4daa4f61eeb2bdbad27316534016f",
                "52783243c1697bdbe16d37f97f68f08325dc1528-rmd160",
                "9d222c79c4ff9d092cf6ca86143aa411e3699738-shake128",
            ),
            // The zlib streams of nothing and of `a`.
            (
                hex::decode("789c030000000001").unwrap(),
                "e8ec3d88b62ebf526e4e5a4ff6162a3aa48a6b78",
                "fcdb20b894f31f1306d56294c049ca7293dde0fc-rmd160",
                "28d94b83b7229b331fc601362b8e272e02665122-shake128",
            ),
        ] {
            for (algorithm, text) in [(Sha1, sha1), (Rmd160, rmd160), (Shake128, shake128)] {
                let hash = ContentHash::of(algorithm, &input);
                assert_eq!(hash.to_string(), text);
                assert_eq!(text.parse(), Ok(hash));
                assert_eq!(ContentHash::parse_bytes(text.as_bytes()), Ok(hash));
                assert_eq!(ContentHash::from_digest(algorithm, hash.digest()), Ok(hash));
                let mut pieces = Hasher::new(algorithm);
                input.chunks(7).for_each(|piece| pieces.update(piece));
                assert_eq!(pieces.finish(), hash);
            }
        }
        let a = hex::decode("789c4b040000620062").unwrap();
        let hash = ContentHash::of(Sha1, &a).to_string();
        assert_eq!(hash, "8f1e63171597fc9f8c9f7325a2c25adb7a61d3e6");
    }

    #[test]
    fn texts_that_are_no_content_hash() {
        let d = "0123456789abcdef0123456789abcdef01234567";
        for text in [
            String::new(),
            "012abc".to_owned(),
            // MD5 names paths and never content.
            d[..32].to_owned(),
            d[..33].to_owned(),
            format!("{}A", &d[..31]),
            format!("{}A", &d[..39]),
            format!("{}-", &d[..39]),
            d.to_uppercase(),
            format!("{}g", &d[..39]),
            format!("{} ", &d[..39]),
            format!("{d} "),
            format!("{d}\n"),
            format!("{d}\0"),
            format!("{d}-"),
            format!("{d}X"),
            format!("{}-rmd160", &d[..39]),
            format!("{d}-rmd1600"),
            format!("{d}-rmd161"),
            format!("{d}-RMD160"),
            format!("{d}-NO"),
            format!("{d}-sha1"),
            format!("{d}-longsuffix"),
            format!("{d}-shake256"),
            format!("{d}a-shake128"),
            format!("{d}-rmd160C"),
            format!("{d}{}", &d[..24]),
            format!("{d}{}-sha224", &d[..24]),
            format!("{d}{}-rmd160", &d[..24]),
            format!("{}ä", &d[..39]),
            format!("{}ä-rmd160", &d[..39]),
        ] {
            assert!(
                matches!(text.parse::<ContentHash>(), Err(HashParseError::Shape(_))),
                "{text:?}"
            );
        }
        assert!(ContentHash::parse_bytes(&[0xff; 40]).is_err());
        for len in [0, 4, 16, 19, 21, 32] {
            let error = ContentHash::from_digest(Sha1, &vec![1; len]);
            assert_eq!(error, Err(HashParseError::DigestLength(len)));
        }
    }

    #[test]
    fn equality_takes_the_algorithm_in() {
        let digest = [7; DIGEST_LEN];
        assert_ne!(ContentHash::new(Sha1, digest), ContentHash::new(Rmd160, digest));
        assert!(!ContentHash::new(Sha1, digest).is_null());
        assert!(ContentHash::new(Shake128, [0; DIGEST_LEN]).is_null());
    }
}
