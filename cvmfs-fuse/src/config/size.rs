//! Sizes as people write them: `4000M`, `20G`, or bytes.

use std::str::FromStr;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No number, or an unknown unit behind it.
    #[error("{0:?} is no size: give bytes, or a whole number with K, M, G or T, as in 4000M")]
    Shape(String),
    /// More bytes than 64 bits count.
    #[error("size {0:?} is too large")]
    TooLarge(String),
}

impl FromStr for Size {
    type Err = SizeError;

    /// Takes the units K, M, G and T as powers of 1024, upper or lower case, with or without
    /// `B` or `iB` behind them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || SizeError::Shape(text.to_owned());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return Err(shape()),
        };
        if number.is_empty() {
            return Err(shape());
        }
        // Only overflow is left to go wrong.
        let too_large = || SizeError::TooLarge(text.to_owned());
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(too_large)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4000M", 4000 << 20),
            ("20G", 20 << 30),
            ("20GiB", 20 << 30),
            ("1k", 1024),
            ("2T", 2 << 40),
            ("7B", 7),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "M", "-1", "1.5G", "4000 M", "4000X", "+4", "0x10", " 4", "4é"] {
            assert_eq!(bad.parse::<Size>(), Err(SizeError::Shape(bad.to_owned())));
        }
        for bad in ["99999999999999999999", "18446744073709551615K"] {
            assert_eq!(bad.parse::<Size>(), Err(SizeError::TooLarge(bad.to_owned())));
        }
    }
}
