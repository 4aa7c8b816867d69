//! How much each user of a holder may have of what there is. Root and the holder's own user always find some.

use std::collections::BTreeSet;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::super::estate::MAX_JOURNALS;

/// Mounts that are held.
const MAX_ESTATES: usize = 64;
/// Of them, those of one user.
const MAX_ESTATES_OF_USER: usize = 16;
/// Connections: one for each mount, and some that come and go.
const MAX_GUESTS: usize = 2 * MAX_ESTATES;
/// Of them, those of one user.
const MAX_GUESTS_OF_USER: usize = 2 * MAX_ESTATES_OF_USER;
/// Descriptors for all that is not a journal: connections, mounts, signals.
const RESERVED: usize = MAX_GUESTS + MAX_ESTATES + 64;
/// Descriptors that are asked for, as far as the system allows it.
const WANTED: u64 = 16_384;
/// Users who are not let in any more. With more of them, somebody has many numbers.
const MAX_BANNED: usize = 64;
/// User of whom nothing is known, where the kernel does not tell (user_namespaces(7)).
const OVERFLOW_UID: u32 = 65_534;

/// The shares.
#[derive(Debug)]
pub(super) struct Shares {
    /// Our own user.
    own: u32,
    /// As whom the kernel shows users that this user namespace does not know, if nobody else has that number.
    unknown: Option<u32>,
    /// Journals of all users.
    journals: usize,
    /// Users who have tried to make the holder wait for ever.
    banned: BTreeSet<u32>,
}

impl Shares {
    /// Finds out about this process, and lets it have more descriptors.
    pub(super) fn of_process() -> Self {
        let own = nix::unistd::geteuid().as_raw();
        let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
        let overflow = text.trim().parse().unwrap_or(OVERFLOW_UID);
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let unknown = (!is_mapped(&map, overflow)).then_some(overflow);
        let journals = descriptors().saturating_sub(RESERVED);
        Self { own, unknown, journals, banned: BTreeSet::new() }
    }

    /// Makes shares for tests.
    #[cfg(test)]
    pub(super) fn of(own: u32, journals: usize) -> Self {
        Self { own, unknown: None, journals, banned: BTreeSet::new() }
    }

    /// Whether a user is root, or who runs the holder.
    pub(super) fn is_privileged(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own
    }

    /// Whether several users may stand behind this number, who must not get what another one left.
    pub(super) fn is_unknown(&self, uid: u32) -> bool {
        self.unknown == Some(uid)
    }

    /// Lets a user in no more.
    pub(super) fn ban(&mut self, uid: u32) {
        if !self.is_privileged(uid) && self.banned.len() < MAX_BANNED {
            self.banned.insert(uid);
        }
    }

    /// Whether a user is not let in any more; of very many, only root and our own are.
    pub(super) fn is_banned(&self, uid: u32) -> bool {
        self.banned.contains(&uid) || (self.banned.len() >= MAX_BANNED && !self.is_privileged(uid))
    }

    /// Whether one more connection of a user is taken; `present` are the users of those that there are.
    pub(super) fn has_seat(&self, uid: u32, present: impl Iterator<Item = u32>) -> bool {
        self.fits(uid, present, MAX_GUESTS, MAX_GUESTS_OF_USER)
    }

    /// The same for a mount.
    pub(super) fn has_room(&self, uid: u32, present: impl Iterator<Item = u32>) -> bool {
        self.fits(uid, present, MAX_ESTATES, MAX_ESTATES_OF_USER)
    }

    /// Root and our own user have a share each that nobody else gets.
    fn fits(&self, uid: u32, present: impl Iterator<Item = u32>, all: usize, one: usize) -> bool {
        let (mut own, mut others) = (0, 0);
        for user in present {
            own += usize::from(user == uid);
            others += usize::from(!self.is_privileged(user));
        }
        own < one && (self.is_privileged(uid) || others < all.saturating_sub(2 * one))
    }

    /// Returns how many more journals a user may deposit; `kept` are those that there are, by user.
    pub(super) fn journals_left(
        &self,
        uid: u32,
        kept: impl Iterator<Item = (u32, usize)>,
    ) -> usize {
        let quarter = self.journals / 4;
        let (mut own, mut others) = (0, 0);
        for (user, count) in kept {
            own += if user == uid { count } else { 0 };
            others += if self.is_privileged(user) { 0 } else { count };
        }
        let left = quarter.saturating_sub(own).min(MAX_JOURNALS);
        if self.is_privileged(uid) { left } else { left.min((2 * quarter).saturating_sub(others)) }
    }
}

/// Whether a user namespace knows a user: `FIRST-INSIDE FIRST-OUTSIDE COUNT` in each line.
fn is_mapped(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> =
            line.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
        let [first, _, count] = numbers[..] else { return false };
        (first..first.saturating_add(count)).contains(&uid.into())
    })
}

fn descriptors() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let wanted = WANTED.min(hard).max(soft);
    let reached = match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted,
        Err(_) => soft,
    };
    usize::try_from(reached).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_own_user_find_room_whatever_others_have() {
        let shares = Shares::of(7, 1000);
        let mut guests = Vec::new();
        // As many other users as there may be.
        for uid in 1000..2000 {
            while shares.has_seat(uid, guests.iter().copied()) {
                guests.push(uid);
            }
        }
        assert_eq!(guests.iter().filter(|uid| **uid == 1000).count(), MAX_GUESTS_OF_USER);
        for uid in [0, 7] {
            for _ in 0..MAX_GUESTS_OF_USER {
                assert!(shares.has_seat(uid, guests.iter().copied()), "{uid}");
                guests.push(uid);
            }
            assert!(!shares.has_seat(uid, guests.iter().copied()), "{uid}");
        }
        assert_eq!(guests.len(), MAX_GUESTS);

        let mut kept = Vec::new();
        for uid in 1000..1010 {
            let left = shares.journals_left(uid, kept.iter().copied());
            kept.push((uid, left));
        }
        assert_eq!(kept[..3], [(1000, 250), (1001, 250), (1002, 0)]);
        assert_eq!(shares.journals_left(0, kept.iter().copied()), 250);
        assert_eq!(shares.journals_left(7, kept.iter().copied()), 250);
    }

    #[test]
    fn users_that_a_namespace_does_not_know_are_not_told_apart() {
        assert!(is_mapped("         0          0 4294967295\n", 65_534));
        assert!(!is_mapped("         0       1000          1\n", 65_534));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65_534));
        assert!(!is_mapped("", 65_534));
    }
}
