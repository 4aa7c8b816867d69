//! How many inodes the kernel may know, and which ones it is asked to let go of.
//!
//! The kernel keeps what was looked up until it runs short of memory itself, and this side must
//! keep a little for each. So above a limit it is asked to let go of those that were not asked
//! about for longest. It refuses what is in use (open, mapped, a working directory, a mountpoint,
//! a directory of which it keeps entries); such ones count as used then, so that the next question
//! is about others.
//!
//! Time is counted in *rounds*, a fraction of the limit each, because an exact order would cost
//! memory for each inode.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

use super::slot::Known;
use super::{Ino, InodeTable, Table};

/// Inodes that the kernel may know unless it is said otherwise. Some 40 MiB; more than the files of
/// any environment that jobs were seen to use, so that only walks reach it. A hash table of 2^18
/// places holds so many and those that come while the kernel lets go.
pub const MAX_KNOWN: usize = 200_000;
/// The kernel is asked when so many eighths of the limit are reached: what comes until it has let
/// go stays below the limit.
const ASK_AT: usize = 7;
/// So many eighths may stay: the kernel is asked once for a quarter of the limit.
const MAY_STAY: usize = 5;
/// Rounds in which the limit is reached, if all inodes are new.
const ROUNDS: usize = 32;

/// When the kernel is asked, and what time it is.
#[derive(Debug)]
pub(super) struct Limit {
    ask_at: usize,
    may_stay: usize,
    /// The number at which it is asked next.
    due_at: usize,
    round: u16,
    /// New inodes of a whole round, and of the present one.
    of_round: usize,
    came: usize,
}

impl Limit {
    /// For so many inodes; `None` for any number.
    pub(super) fn new(most: Option<usize>) -> Self {
        let most = most.unwrap_or(usize::MAX);
        let ask_at = (most / 8).saturating_mul(ASK_AT).max(1);
        Self {
            ask_at,
            may_stay: (most / 8).saturating_mul(MAY_STAY),
            due_at: ask_at,
            round: 0,
            of_round: (most / ROUNDS).max(1),
            came: 0,
        }
    }

    /// The present round, which a use is noted with.
    pub(super) fn round(&self) -> u16 {
        self.round
    }

    /// An inode became known, and there are so many now; tells whether the kernel shall be asked.
    pub(super) fn came(&mut self, len: usize) -> bool {
        self.came += 1;
        if self.came >= self.of_round {
            self.came = 0;
            self.round = self.round.wrapping_add(1);
        }
        if len < self.due_at {
            return false;
        }
        // Once, until that has been done.
        self.due_at = usize::MAX;
        true
    }

    /// An inode went, and there are so many now.
    pub(super) fn went(&mut self, len: usize) {
        if len < self.ask_at {
            self.due_at = self.ask_at;
        }
    }

    /// The kernel was asked. It lets go a little later; if it cannot, since all are in use, it is
    /// asked again when there are an eighth more: so questions stay in proportion to lookups.
    fn asked(&mut self, len: usize) {
        self.due_at = self.ask_at.max(len.saturating_add(len / 8));
        self.went(len);
    }
}

impl InodeTable {
    /// Returns what is rung when the kernel shall be asked to let go of inodes.
    pub fn crowded(&self) -> Arc<Notify> {
        Arc::clone(&self.crowded)
    }

    /// Returns what the kernel shall let go of: all that is too much, the longest unused, entries
    /// before their directories.
    pub fn surplus(&self) -> Vec<Ino> {
        let mut table = self.table.lock();
        let Table { slots, limit, .. } = &mut *table;
        let surplus = slots.len().saturating_sub(limit.may_stay);
        if surplus == 0 {
            return Vec::new();
        }
        let now = limit.round;
        let mut of_age = BTreeMap::<u16, usize>::new();
        for slot in slots.values() {
            *of_age.entry(now.wrapping_sub(slot.round)).or_default() += 1;
        }
        let mut older = 0;
        let youngest = of_age.into_iter().rev().find(|(_, count)| {
            older += count;
            older >= surplus
        });
        let youngest = youngest.map_or(0, |(age, _)| age);
        let (mut chosen, mut directories) = (Vec::with_capacity(older), Vec::new());
        for (&ino, slot) in slots.iter_mut() {
            if now.wrapping_sub(slot.round) < youngest {
                continue;
            }
            slot.round = now;
            match &slot.known {
                Known::Directory(inode) => directories.push((inode.path.clone(), ino)),
                Known::Other { .. } => chosen.push(ino),
            }
        }
        drop(table);
        // A path is longer than those above it.
        directories.sort_unstable_by_key(|(path, _)| std::cmp::Reverse(path.as_bytes().len()));
        chosen.extend(directories.into_iter().map(|(_, ino)| ino));
        chosen
    }

    /// The kernel was asked to let go of what [`Self::surplus`] returned.
    pub fn asked(&self) {
        let mut table = self.table.lock();
        let len = table.slots.len();
        table.limit.asked(len);
    }
}
