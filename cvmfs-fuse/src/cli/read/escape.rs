//! Names for people: a repository may hold names that would rewrite the terminal.

use std::fmt::Write as _;

/// Returns `bytes` for a terminal: printable text as it is, everything else as `\xNN` or `\u{N}`,
/// the backslash doubled so that the result is unambiguous.
pub fn for_terminal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        for c in piece.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                // Bidirectional controls reorder what is shown without being control characters.
                '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    let _ = write!(text, "{}", c.escape_unicode());
                }
                c if c.is_ascii_control() => {
                    let _ = write!(text, "\\x{:02x}", u32::from(c));
                }
                c if c.is_control() => {
                    let _ = write!(text, "{}", c.escape_unicode());
                }
                c => text.push(c),
            }
        }
        for byte in piece.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (bytes, shown) in [
            (&b"plain name"[..], "plain name"),
            ("grün 日本".as_bytes(), "grün 日本"),
            (b"a\nb\x1b[31m\x7f", "a\\x0ab\\x1b[31m\\x7f"),
            (b"back\\slash", "back\\\\slash"),
            (b"bad\xff\xc3utf", "bad\\xff\\xc3utf"),
            ("\u{202e}txt\u{85}".as_bytes(), "\\u{202e}txt\\u{85}"),
            (b"", ""),
        ] {
            assert_eq!(for_terminal(bytes), shown);
        }
    }
}
