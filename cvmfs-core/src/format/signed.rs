//! The layout that manifest and whitelist share: text, hash of the text, signature of the hash
//! (spec/format.md section 4).
//!
//! ```text
//! TEXT             lines, each ended by LF; hashed with that LF
//! "--" LF
//! HASHSTR LF       content hash of TEXT; the signature covers these characters
//! SIGNATURE        raw bytes up to the end
//! ```

use crate::hash::{ContentHash, HashParseError};

/// Longest letter that is read.
///
/// Genuine letters have under 1 KiB; a whitelist grows by some 80 bytes for each certificate. The
/// bound stops endless bodies (facts/behaviours.md T9).
pub const MAX_LETTER_LEN: usize = 64 * 1024;

const SEPARATOR: &[u8] = b"\n--\n";

/// Why bytes are no signed letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LetterError {
    /// Over [`MAX_LETTER_LEN`].
    #[error("letter of {0} bytes, at most {MAX_LETTER_LEN} are allowed")]
    TooLong(usize),
    /// No line `--` after the text.
    #[error("no line with two dashes between text and signature")]
    NoSeparator,
    /// The line after `--` does not end.
    #[error("hash line cut short")]
    HashCut,
    /// The line after `--` is no content hash.
    #[error("bad hash line")]
    Hash(#[source] HashParseError),
    /// Nothing follows the hash line.
    #[error("no signature")]
    NoSignature,
}

/// A letter taken apart; neither hash nor signature is checked yet.
#[derive(Debug, Clone, Copy)]
pub struct SignedLetter<'a> {
    text: &'a [u8],
    hash_line: &'a [u8],
    hash: ContentHash,
    signature: &'a [u8],
}

impl<'a> SignedLetter<'a> {
    /// Takes a letter apart at the first line `--`.
    pub fn split(bytes: &'a [u8]) -> Result<Self, LetterError> {
        if bytes.len() > MAX_LETTER_LEN {
            return Err(LetterError::TooLong(bytes.len()));
        }
        let newline = bytes
            .windows(SEPARATOR.len())
            .position(|window| window == SEPARATOR)
            .ok_or(LetterError::NoSeparator)?;
        let (text, rest) = bytes.split_at(newline + 1);
        let rest = &rest[SEPARATOR.len() - 1..];
        let end = rest.iter().position(|&b| b == b'\n').ok_or(LetterError::HashCut)?;
        let (hash_line, signature) = (&rest[..end], &rest[end + 1..]);
        let hash = ContentHash::parse_bytes(hash_line).map_err(LetterError::Hash)?;
        if signature.is_empty() {
            return Err(LetterError::NoSignature);
        }
        Ok(Self { text, hash_line, hash, signature })
    }

    /// Returns the text with the line feed of its last line.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// Returns the characters that are signed.
    pub fn signed_bytes(&self) -> &'a [u8] {
        self.hash_line
    }

    /// Returns the signature.
    pub fn signature(&self) -> &'a [u8] {
        self.signature
    }

    /// Tells whether the text has the hash that the letter states.
    pub fn text_hash_matches(&self) -> bool {
        ContentHash::of(self.hash.algorithm(), self.text) == self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

    #[test]
    fn splits_at_the_first_separator() {
        let bytes = format!("A\n--\n{HASH}\nsig\n--\nmore");
        let letter = SignedLetter::split(bytes.as_bytes()).unwrap();
        assert_eq!(letter.text(), b"A\n");
        assert_eq!(letter.signed_bytes(), HASH.as_bytes());
        assert_eq!(letter.signature(), b"sig\n--\nmore");
        assert!(!letter.text_hash_matches());

        let hash = ContentHash::of(crate::hash::HashAlgorithm::Shake128, b"A\nB\n");
        let bytes = format!("A\nB\n--\n{hash}\n\n");
        let letter = SignedLetter::split(bytes.as_bytes()).unwrap();
        assert_eq!(letter.signature(), b"\n");
        assert!(letter.text_hash_matches());
    }

    #[test]
    fn refuses_what_is_no_letter() {
        let upper = HASH.to_uppercase();
        type Expected = fn(&LetterError) -> bool;
        let cases: [(String, Expected); 12] = [
            (String::new(), |e| *e == LetterError::NoSeparator),
            ("A\nB\n".to_owned(), |e| *e == LetterError::NoSeparator),
            (format!("--\n{HASH}\ns"), |e| *e == LetterError::NoSeparator),
            (format!("A\n--{HASH}\ns"), |e| *e == LetterError::NoSeparator),
            (format!("A\n--\r\n{HASH}\ns"), |e| *e == LetterError::NoSeparator),
            ("A\n--\n".to_owned(), |e| *e == LetterError::HashCut),
            (format!("A\n--\n{HASH}"), |e| *e == LetterError::HashCut),
            (format!("A\n--\n{HASH}\n"), |e| *e == LetterError::NoSignature),
            (format!("A\n--\n{}\ns", &HASH[1..]), |e| matches!(e, LetterError::Hash(_))),
            (format!("A\n--\n{upper}\ns"), |e| matches!(e, LetterError::Hash(_))),
            // MD5 names no content, not even that of a letter.
            ("A\n--\nd41d8cd98f00b204e9800998ecf8427e\ns".to_owned(), |e| {
                matches!(e, LetterError::Hash(_))
            }),
            ("A".repeat(MAX_LETTER_LEN + 1), |e| *e == LetterError::TooLong(MAX_LETTER_LEN + 1)),
        ];
        for (bytes, expected) in cases {
            let error = SignedLetter::split(bytes.as_bytes()).unwrap_err();
            assert!(expected(&error), "{error:?} for {:.80}", bytes);
        }
    }
}
