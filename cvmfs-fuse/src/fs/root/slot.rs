//! The place of a repository in the numbers of a mount that has several.
//!
//! ```text
//! 63        52 51                                                  0
//! +-----------+----------------------------------------------------+
//! |   slot    |   number within the repository (super::inode)      |
//! +-----------+----------------------------------------------------+
//! ```
//!
//! Slot 0 is the mount itself, whose only inode is its root. The slot of a repository follows from
//! its name, so that its numbers are the same when it comes back, and for a successor.

use super::super::inode::NUMBER_BITS;
use super::super::{Attributes, Entry, Ino};

/// Where a repository is: 1 to 4095.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// How many there are, and the last one.
    pub const COUNT: u16 = (1 << (Ino::BITS - NUMBER_BITS)) - 1;

    /// Makes a slot from its number; `None` for that of the mount itself, and past the last one.
    pub fn new(number: u16) -> Option<Self> {
        (1..=Self::COUNT).contains(&number).then_some(Self(number))
    }

    /// Returns the slot that a name would like to have.
    pub(super) fn of(name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let [low, high, ..] = *hash.as_bytes();
        Self(u16::from_le_bytes([low, high]) % Self::COUNT + 1)
    }

    /// Returns the one after it, the first one after the last.
    pub(super) fn next(self) -> Self {
        Self(self.0 % Self::COUNT + 1)
    }

    /// Returns its number.
    pub fn number(self) -> u16 {
        self.0
    }

    /// Turns a number within the repository into one of the mount.
    pub fn outward(self, inner: Ino) -> Ino {
        (Ino::from(self.0) << NUMBER_BITS) | inner
    }

    /// Splits a number of the mount into the repository, `None` for the mount itself, and the
    /// number there.
    pub fn split(ino: Ino) -> (Option<Self>, Ino) {
        let slot = u16::try_from(ino >> NUMBER_BITS).unwrap_or(0);
        (Self::new(slot), ino & ((1 << NUMBER_BITS) - 1))
    }

    /// The same for what a repository tells the kernel.
    pub(super) fn entry(self, inner: Entry) -> Entry {
        let attributes = Attributes { ino: self.outward(inner.attributes.ino), ..inner.attributes };
        Entry { attributes, ..inner }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_out_and_come_back() {
        for number in [1, 2, 4095] {
            let slot = Slot::new(number).unwrap();
            for inner in [1, 256, (1 << NUMBER_BITS) - 1] {
                assert_eq!(Slot::split(slot.outward(inner)), (Some(slot), inner));
            }
        }
        assert_eq!(Slot::split(1), (None, 1));
        assert_eq!((Slot::new(0), Slot::new(4096)), (None, None));
        assert_eq!(Slot(4095).next(), Slot(1));
        assert_eq!(Slot::of("cms.cern.ch"), Slot::of("cms.cern.ch"));
        let used: std::collections::HashSet<_> =
            (0..20_000).map(|n| Slot::of(&format!("r{n}.cern.ch"))).collect();
        assert!(used.len() > 3900, "{} of 4095", used.len());
    }
}
