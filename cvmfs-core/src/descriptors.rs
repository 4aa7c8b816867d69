//! Which part of the process's descriptors each user of them may have open.
//!
//! Everything that opens files or sockets in numbers that follow from what readers do takes its
//! bound from here, so that all bounds together stay below the limit of the process.

/// Smallest limit (`RLIMIT_NOFILE`) whose shares add up; with less, calls may fail.
pub const MIN_LIMIT: u64 = 256;
/// Opened whatever readers do: standard streams, the runtime's own, a FUSE device for each of up
/// to 16 workers, letters and names under way, the two revisions that a switch compares.
const FIXED: u64 = 40;
/// Threads that answer requests: up to 16 FUSE workers and 4 of the runtime.
const THREADS: u64 = 20;
/// From this limit on a catalog may keep several idle connections.
const ROOMY: u64 = 1024;
/// Most open objects: beyond that, opening again costs less than remembering.
const MAX_OBJECTS: u64 = 16 * 1024;
/// Most open catalogs: each idle connection has a page cache.
const MAX_CATALOGS: u64 = 128;
/// Most transfers: four servers or proxies with all the transfers that one may have.
const MAX_TRANSFERS: u64 = 256;
/// A transfer has a connection, perhaps a second one that another transfer gave back first, a
/// temporary file, and at its end the same file opened for readers.
const PER_TRANSFER: u64 = 4;
/// Idle connections kept for one server behind one proxy: as many as fetch ahead at a time. With
/// fewer each fifth small file of a burst opened a connection of its own.
const MAX_IDLE_OF_PEER: u64 = 48;
/// Servers and proxies with idle connections.
const MAX_PEERS: u64 = 64;

/// `errno` values of Linux, the same on all its platforms.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// Bounds that add up to less than the limit of descriptors. One of a process, or for each of
/// several repositories a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorBudget {
    /// Objects kept open for readers.
    pub objects: usize,
    /// Catalogs kept open, of all revisions together; each holds its object.
    pub catalogs: usize,
    /// Idle SQLite connections of each catalog.
    pub connections: usize,
    /// Downloads under way.
    pub transfers: usize,
    /// Pairs of server and proxy with idle connections.
    pub peers: usize,
    /// Idle connections of each such pair.
    pub idle_of_peer: usize,
}

impl DescriptorBudget {
    /// The soft limit of most processes.
    pub const USUAL_LIMIT: u64 = 1024;

    /// Divides `limit`, the soft limit of the process.
    pub fn of_limit(limit: u64) -> Self {
        let limit = limit.max(MIN_LIMIT);
        let connections = if limit < ROOMY { 1 } else { 4 };
        let left = limit - reserved(connections);
        let idle = left / 16;
        let idle_of_peer = (idle / 4).clamp(1, MAX_IDLE_OF_PEER);
        // All values are bounded by constants that fit.
        let share = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        Self {
            // At least 64: the table of open objects divides them further.
            objects: share((left / 12 * 5).min(MAX_OBJECTS)),
            catalogs: share((left / 4 / (1 + connections)).min(MAX_CATALOGS)),
            connections: share(connections),
            transfers: share((left / 4 / PER_TRANSFER).min(MAX_TRANSFERS)),
            peers: share((idle / idle_of_peer).min(MAX_PEERS)),
            idle_of_peer: share(idle_of_peer),
        }
    }

    /// Returns the share of each of `repositories` that are open at once and have their connections
    /// in common: `peers` and `idle_of_peer` are those of all together.
    pub fn of_each(limit: u64, repositories: u64) -> Self {
        let repositories = repositories.max(1);
        let each = Self::of_limit(limit / repositories);
        let count = usize::try_from(repositories).unwrap_or(usize::MAX);
        let idle = count.saturating_mul(each.peers * each.idle_of_peer);
        let most = usize::try_from(MAX_PEERS).unwrap_or(usize::MAX);
        Self { peers: (idle / each.idle_of_peer).min(most), ..each }
    }

    /// Returns the most descriptors that are open at once.
    pub fn most(&self) -> u64 {
        let [objects, catalogs, connections, transfers, peers, idle] = [
            self.objects,
            self.catalogs,
            self.connections,
            self.transfers,
            self.peers,
            self.idle_of_peer,
        ]
        .map(|share| u64::try_from(share).unwrap_or(u64::MAX));
        let shares = objects + catalogs * (1 + connections) + transfers * PER_TRANSFER;
        reserved(connections) + shares + peers * idle
    }
}

impl Default for DescriptorBudget {
    /// For [`Self::USUAL_LIMIT`].
    fn default() -> Self {
        Self::of_limit(Self::USUAL_LIMIT)
    }
}

/// What is not shared out. In passing, a thread holds a catalog that others have pushed out, with
/// its idle connections, and one more connection for its question.
fn reserved(connections: u64) -> u64 {
    FIXED + THREADS * (2 + connections)
}

/// Tells whether a call failed only because the process or the machine has no descriptor left
/// (EMFILE, ENFILE): nothing is wrong with what was to be opened, or with whom we wanted to reach.
pub fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_stay_below_every_limit() {
        let limits = (MIN_LIMIT..70_000).chain([131_072, 1 << 20, 1 << 30, u64::MAX]);
        for limit in limits {
            let budget = DescriptorBudget::of_limit(limit);
            assert!(budget.most() < limit, "{limit}: {budget:?} is {}", budget.most());
            assert!(budget.objects >= 64 && budget.catalogs >= 16, "{limit}: {budget:?}");
            assert!(budget.transfers >= 8 && budget.peers >= 4, "{limit}: {budget:?}");
            assert!(budget.idle_of_peer >= 1 && budget.connections >= 1, "{limit}: {budget:?}");
        }
    }

    #[test]
    fn the_shares_of_several_repositories_stay_below_every_limit() {
        for repositories in [1, 2, 4, 16, 64] {
            let least = MIN_LIMIT * repositories;
            for limit in (least..least + 5000).step_by(7).chain([131_072, 1 << 20]) {
                let each = DescriptorBudget::of_each(limit, repositories);
                let alone = DescriptorBudget { peers: 0, ..each };
                let idle = (each.peers * each.idle_of_peer) as u64;
                let most = alone.most() * repositories + idle;
                assert!(most < limit, "{limit} for {repositories}: {each:?} is {most}");
            }
        }
    }

    #[test]
    fn tight_and_large_limits() {
        let tight = DescriptorBudget {
            objects: 65,
            catalogs: 19,
            connections: 1,
            transfers: 9,
            peers: 4,
            idle_of_peer: 2,
        };
        let large = DescriptorBudget {
            objects: 16 * 1024,
            catalogs: 128,
            connections: 4,
            transfers: 256,
            peers: 64,
            idle_of_peer: 48,
        };
        for (limit, budget) in [(0, tight), (256, tight), (131_072, large), (u64::MAX, large)] {
            assert_eq!(DescriptorBudget::of_limit(limit), budget, "{limit}");
        }
    }
}
