//! How much a cache may hold.

use std::os::fd::OwnedFd;
use std::str::FromStr;

/// Share of the partition that an automatic quota takes.
const AUTO_SHARE: u64 = 2; // a half
/// What an automatic quota leaves to others: a tenth of the partition,
const SPARE_SHARE: u64 = 10;
/// or this much of a large one, which may well be fuller than that for years.
const MAX_SPARE: u64 = 10 << 30;
/// Part of the room that it takes even where less is left: without any cache, nothing works offline and
/// everything is fetched over and over.
const LEAST_SHARE: u64 = 4;
/// Largest percentage of a partition: a file system that is quite full fails its other users.
const MAX_PERCENT: u8 = 99;
/// Part of the quota that is free after eviction, so that the next object finds room at once.
const LOW_WATER_SHARE: u64 = 10;
/// Eviction begins in the background when less than this part is free.
const HIGH_WATER_SHARE: u64 = 20;

/// The limit of a cache, as a user states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quota {
    /// As the directory says, where somebody who gave a quota left it; otherwise `Auto`.
    #[default]
    Stored,
    /// What the partition can spare.
    Auto,
    /// Bytes.
    Bytes(u64),
    /// Of the size of the partition.
    Percent(u8),
    /// No limit: somebody else takes care of the directory.
    Unlimited,
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stored | Self::Auto => f.write_str("auto"),
            Self::Unlimited => f.write_str("unlimited"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Why a text is no quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no quota: give bytes, or a whole number with K, M, G or T, as in 20G; a share of the \
     partition, as in 80%; auto; or unlimited"
)]
pub struct QuotaError(String);

impl FromStr for Quota {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || QuotaError(text.to_owned());
        match text {
            "auto" => return Ok(Self::Auto),
            // Upstream's CVMFS_QUOTA_LIMIT=-1.
            "unlimited" | "-1" => return Ok(Self::Unlimited),
            _ => {}
        }
        if let Some(number) = text.strip_suffix('%') {
            let percent = number.parse().ok().filter(|percent| (1..=MAX_PERCENT).contains(percent));
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            return percent.filter(|_| digits).map(Self::Percent).ok_or_else(wrong);
        }
        parse_size(text).filter(|&bytes| bytes > 0).map(Self::Bytes).ok_or_else(wrong)
    }
}

/// Parses `4000M`, `20G`, `20GiB` or bytes; units are powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The partition of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// What ordinary users may still write.
    pub(crate) free: u64,
}

impl Partition {
    /// Asks the file system.
    pub(crate) fn of(directory: &OwnedFd) -> Option<Self> {
        let found = rustix::fs::fstatvfs(directory).ok()?;
        Some(Self {
            size: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }
}

/// The limits that a quota means on a partition, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Never exceeded.
    pub(crate) quota: u64,
    /// Eviction ends here.
    pub(crate) low_water: u64,
    /// Eviction begins here.
    pub(crate) high_water: u64,
    /// The quota was larger than the partition.
    pub(crate) cut: bool,
}

impl Quota {
    /// Works out the limits, given what is stored already; `None` means no limit.
    pub(crate) fn limits(self, partition: Option<Partition>, used: u64) -> Option<Limits> {
        let size = partition.map(|partition| partition.size);
        let mut cut = false;
        let quota = match self {
            Self::Unlimited => return None,
            Self::Bytes(bytes) => {
                let most = size.map_or(u64::MAX, |size| size / 100 * u64::from(MAX_PERCENT));
                cut = bytes > most;
                bytes.min(most)
            }
            Self::Percent(percent) => size? / 100 * u64::from(percent),
            Self::Auto | Self::Stored => {
                let Partition { size, free } = partition?;
                let room = free.saturating_add(used);
                let spare = room.saturating_sub((size / SPARE_SHARE).min(MAX_SPARE));
                (size / AUTO_SHARE).min(spare.max(room / LEAST_SHARE))
            }
        };
        let quota = quota.max(1);
        Some(Limits {
            quota,
            low_water: quota - quota / LOW_WATER_SHARE,
            high_water: quota - quota / HIGH_WATER_SHARE,
            cut,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (text, quota) in [
            ("20G", Quota::Bytes(20 << 30)),
            ("4000M", Quota::Bytes(4000 << 20)),
            ("1kib", Quota::Bytes(1024)),
            ("7", Quota::Bytes(7)),
            ("80%", Quota::Percent(80)),
            ("auto", Quota::Auto),
            ("unlimited", Quota::Unlimited),
            ("-1", Quota::Unlimited),
        ] {
            assert_eq!(text.parse(), Ok(quota), "{text}");
        }
        for bad in ["", "0", "0%", "100%", "+5%", "-2", "1.5G", "5X", "99999999999T", "%", "many"] {
            assert_eq!(bad.parse::<Quota>(), Err(QuotaError(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn limits_on_a_partition() {
        let partition = Some(Partition { size: 1000, free: 300 });
        let quota = |quota: Quota, used| quota.limits(partition, used).map(|limits| limits.quota);
        assert_eq!(quota(Quota::Bytes(400), 0), Some(400));
        assert_eq!(quota(Quota::Percent(80), 0), Some(800));
        assert_eq!(quota(Quota::Auto, 0), Some(200), "others need a tenth");
        assert_eq!(quota(Quota::Auto, 600), Some(500), "no more than a half");
        let full = Some(Partition { size: 1000, free: 60 });
        assert_eq!(Quota::Auto.limits(full, 20).unwrap().quota, 20, "a quarter of what there is");
        let large = Some(Partition { size: 2000 << 30, free: 100 << 30 });
        assert_eq!(
            Quota::Auto.limits(large, 0).unwrap().quota,
            90 << 30,
            "less than a tenth is free"
        );
        assert_eq!(quota(Quota::Unlimited, 0), None);
        let cut = Quota::Bytes(5000).limits(partition, 0).unwrap();
        assert_eq!(cut, Limits { quota: 990, low_water: 891, high_water: 941, cut: true });
        assert_eq!(Quota::Auto.limits(None, 0), None, "nothing is known of the partition");
        assert_eq!(Quota::Bytes(1).limits(partition, 0).unwrap().low_water, 1);
    }
}
