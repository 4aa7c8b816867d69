//! Where to read: at borders more often than anywhere else, because that is where mistakes are.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Pages, requests of old and new kernels, read-ahead, and chunks of the test files.
const GRIDS: [u64; 6] = [4096, 10_007, 64 << 10, 128 << 10, 1 << 20, (1 << 20) - 1];
/// Usual lengths; a bit is added or taken away.
const LENGTHS: [usize; 7] = [1, 16, 512, 4096, 16 << 10, 64 << 10, 300_000];
/// How far from a border counts as at the border.
const NEAR: u64 = 2;

/// A part of a file. It may be empty, and reach or lie behind the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) len: usize,
}

impl Span {
    pub(super) fn random(random: &mut StdRng, file_len: u64) -> Self {
        let offset = match random.random_range(0..10) {
            0..3 => near(random, file_len),
            3..7 => {
                let grid = *GRIDS.choose(random).expect("not empty");
                let border = random.random_range(0..=file_len / grid) * grid;
                near(random, border)
            }
            _ => random.random_range(0..=file_len),
        };
        let usual = *LENGTHS.choose(random).expect("not empty");
        let len = match random.random_range(0..3) {
            0 => usual,
            1 => usual + random.random_range(0..3) - 1,
            _ => random.random_range(0..=usual),
        };
        Self { offset, len }
    }

    /// How many bytes of it a file of that length has.
    pub(super) fn within(self, file_len: u64) -> usize {
        let left = file_len.saturating_sub(self.offset);
        usize::try_from(left).map_or(self.len, |left| left.min(self.len))
    }
}

fn near(random: &mut StdRng, border: u64) -> u64 {
    (border + random.random_range(0..=2 * NEAR)).saturating_sub(NEAR)
}
