//! What is read.

use fixtures::publish::Content;

/// Files of a directory.
const OF_DIRECTORY: usize = 500;
/// What a file is made of.
const BLOCK: usize = 4 << 10;

/// A number of files of one length.
#[derive(Debug, Clone, Copy)]
pub struct Files {
    /// For tables and directories.
    pub name: &'static str,
    /// How many there are.
    pub count: usize,
    /// Bytes of each.
    pub len: u64,
}

/// Two messages of the kernel for each: a lookup, a read.
pub const SMALL: Files = Files { name: "4,000 files of 4 KiB", count: 4000, len: 4 << 10 };
/// Bytes are what counts.
pub const LARGE: Files = Files { name: "64 files of 8 MiB", count: 64, len: 8 << 20 };

impl Files {
    /// Path of a file below the root, without a slash in front.
    pub fn path(number: usize) -> String {
        format!("d{}/f{}", number / OF_DIRECTORY, number % OF_DIRECTORY)
    }

    /// How a file begins.
    pub fn mark(number: usize) -> [u8; 8] {
        (number as u64).to_le_bytes()
    }

    /// Returns what is in a file.
    pub fn content(self, number: usize) -> Content {
        let mut block = vec![0x5a; BLOCK];
        block[..8].copy_from_slice(&Self::mark(number));
        Content::Repeated { block: block.into(), len: self.len }
    }
}
