//! Routes that are left for being slow, and taken again when no other is left.

use std::time::{Duration, Instant};

use super::{Next, Selection, Walk, Way};

impl Selection {
    /// Tells whether a request could still go another route than `way`, so that it need not wait for
    /// a slow one.
    pub fn has_other(&self, walk: &Walk, way: &Way) -> bool {
        if walk.unhurried || walk.doubts > 0 {
            return false;
        }
        let mut without = walk.clone();
        without.tried.push(way.clone());
        self.untried(&without).is_some()
    }

    /// Asks another member of the group, or another server, first from now on. A group is never left
    /// for being slow: the next one may be DIRECT, and servers are not to be asked by a whole site
    /// because its proxies are busy.
    pub(super) fn leave_slow(&mut self, walk: &Walk, way: &Way, now: Instant) {
        let members = self.groups.get(self.group).map_or(&[][..], Vec::as_slice);
        let has_sibling = members
            .iter()
            .any(|member| member.used != way.proxy && !self.burned.contains(&member.used));
        if has_sibling {
            self.burn(&way.proxy, now);
        } else if walk.only_host.is_none() && way.host == self.host && self.hosts.len() > 1 {
            self.switch_host((self.host + 1) % self.hosts.len(), now);
        }
    }

    /// Decides when all routes were tried: slow ones are taken once more, for as long as they need;
    /// then the routes past proxies whose answers are doubted.
    pub(super) fn last_ways(&self, walk: &mut Walk) -> Next {
        walk.way = None;
        if !walk.slow.is_empty() {
            walk.unhurried = true;
            let slow = std::mem::take(&mut walk.slow);
            walk.tried.retain(|way| !slow.contains(way));
            // The names of proxies may have got other addresses meanwhile.
            if self.untried(walk).is_some() {
                return Next::Again(Duration::ZERO);
            }
        }
        self.past_doubted(walk)
    }
}
