//! PEM files that hold exactly one block.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Cursor;

use x509_parser::pem::Pem;

/// Why a text is not the one PEM block that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// No block, or a damaged one.
    #[error("no readable PEM block")]
    Damaged {
        /// The cause.
        source: x509_parser::error::PEMError,
    },
    /// A block of another kind.
    #[error("PEM block {found:?} instead of {expected:?}")]
    Label {
        /// The kind that was asked for.
        expected: &'static str,
        /// The kind that is there.
        found: String,
    },
    /// Anything but white space after the block, such as a second block.
    #[error("more text after the first PEM block")]
    Trailing,
}

/// Returns the content of the only PEM block in `text`, which must be of kind `label`.
///
/// Text before the block is skipped, because `openssl x509 -text` writes some. Text after it is
/// refused: of two certificates or keys it would not be clear which one counts.
pub fn single_block(text: &[u8], label: &'static str) -> Result<Vec<u8>, PemError> {
    let (block, len) =
        Pem::read(Cursor::new(text)).map_err(|source| PemError::Damaged { source })?;
    if block.label != label {
        return Err(PemError::Label { expected: label, found: block.label });
    }
    match text.get(len..) {
        Some(rest) if rest.trim_ascii().is_empty() => Ok(block.contents),
        _ => Err(PemError::Trailing),
    }
}

/// Characters of a line.
const LINE_LEN: usize = 64;

/// Writes a block, in lines as `openssl` has them.
pub fn write_block(contents: &[u8], label: &str) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let coded = STANDARD.encode(contents);
    let mut rest = coded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE_LEN));
        text.extend([line, "\n"]);
        rest = more;
    }
    text + "-----END " + label + "-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for len in [0, 1, 47, 48, 49, 300] {
            let contents: Vec<u8> = (0..len).map(|at: usize| at.to_le_bytes()[0]).collect();
            let text = write_block(&contents, "PUBLIC KEY");
            assert!(text.lines().all(|line| line.len() <= LINE_LEN), "{text}");
            assert_eq!(single_block(text.as_bytes(), "PUBLIC KEY").unwrap(), contents);
        }
    }

    #[test]
    fn exactly_one_block_of_the_right_kind() {
        let block = "-----BEGIN PUBLIC KEY-----\nAQID\nBA==\n-----END PUBLIC KEY-----\n";
        for text in
            [block.to_owned(), format!("some: text\n{block}\r\n \n"), block.replace('\n', "\r\n")]
        {
            assert_eq!(
                single_block(text.as_bytes(), "PUBLIC KEY").unwrap(),
                [1, 2, 3, 4],
                "{text}"
            );
        }
        let refused = [
            (String::new(), "no readable PEM block"),
            (block.replace("AQID", "A*ID"), "no readable PEM block"),
            (block.replace("-----END", "-----ND"), "no readable PEM block"),
            (block.repeat(2), "more text after the first PEM block"),
            (format!("{block}x"), "more text after the first PEM block"),
            (
                block.replace("PUBLIC", "PRIVATE"),
                "PEM block \"PRIVATE KEY\" instead of \"PUBLIC KEY\"",
            ),
        ];
        for (text, message) in refused {
            let error = single_block(text.as_bytes(), "PUBLIC KEY").unwrap_err();
            assert_eq!(error.to_string(), message, "{text}");
        }
        assert!(single_block(b"-----BEGIN \xff-----\n", "PUBLIC KEY").is_err());
    }
}
