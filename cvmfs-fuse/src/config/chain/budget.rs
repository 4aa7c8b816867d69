//! Limits of one evaluation: how much the files of a machine, and those of a configuration repository, may ask for.
//!
//! Each of the two has an account of its own, so that a configuration repository cannot use up what the files of
//! the machine need. An account that is overdrawn is an error with file and line: nothing is evaluated halfway.

/// Limits for the files of one author.
#[derive(Debug)]
pub(super) struct Limits {
    /// Steps: a command, a piece of a word, 64 bytes of a value, a comparison of a pattern are one each.
    steps: u64,
    /// Bytes that all expansions together produce.
    bytes: u64,
    /// Words and signs of one file.
    pub(super) tokens: usize,
    /// Nesting of commands in commands, over all files that name each other.
    pub(super) depth: usize,
    /// Nesting of files that name each other: real ones have two levels.
    pub(super) sources: usize,
    /// Files that are read.
    pub(super) files: usize,
    /// Bytes of one file.
    pub(super) file: u64,
    /// Bytes of one value: the longest lists of servers have 2 KiB.
    pub(super) value: usize,
}

/// Limits of the files that root, or the user, wrote: far above what a site has.
pub(super) const MACHINE: Limits = Limits {
    steps: 20_000_000,
    bytes: 64 << 20,
    tokens: 500_000,
    depth: 48,
    sources: 16,
    files: 256,
    file: 1 << 20,
    value: 1 << 16,
};

/// Limits of the files of a configuration repository: ten times what known ones need. They are evaluated at each
/// mount, by root, so that all of it must take milliseconds.
pub(super) const REPOSITORY: Limits = Limits {
    steps: 200_000,
    bytes: 1 << 20,
    tokens: 20_000,
    depth: 24,
    sources: 8,
    files: 64,
    file: 1 << 16,
    value: 1 << 13,
};

/// Bytes of a value that cost a step.
const BYTES_OF_A_STEP: u64 = 64;

/// Account of one author.
#[derive(Debug, Default)]
pub(super) struct Account {
    steps: u64,
    bytes: u64,
    /// Files that were read.
    pub(super) files: usize,
}

/// Which limit was exceeded, for a message.
pub(super) type Exceeded = String;

impl Account {
    /// Books steps.
    pub(super) fn spend(&mut self, limits: &Limits, steps: u64) -> Result<(), Exceeded> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > limits.steps {
            return Err(format!("evaluating the files takes more than {} steps", limits.steps));
        }
        Ok(())
    }

    /// Books bytes that an expansion produced.
    pub(super) fn produce(&mut self, limits: &Limits, bytes: usize) -> Result<(), Exceeded> {
        let bytes = bytes as u64;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > limits.bytes {
            return Err(format!("the values have more than {} bytes together", limits.bytes));
        }
        self.spend(limits, 1 + bytes / BYTES_OF_A_STEP)
    }

    /// Returns the steps that are left.
    pub(super) fn left(&self, limits: &Limits) -> u64 {
        limits.steps.saturating_sub(self.steps)
    }
}
