//! Modes, kinds and times as text.

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use jiff::Timestamp;

/// Permission bits of a mode, without the type.
pub(super) const PERMISSION_BITS: u32 = 0o7777;

/// Returns the mode as `ls -l` writes it: `drwxr-xr-x`.
pub(super) fn mode_string(kind: EntryKind, mode: u32) -> String {
    let bit = |bit: u32| mode & bit != 0;
    let execute = |x: bool, special: bool, letter: char| match (special, x) {
        (true, true) => letter,
        (true, false) => letter.to_ascii_uppercase(),
        (false, true) => 'x',
        (false, false) => '-',
    };
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    [
        match kind {
            EntryKind::Regular => '-',
            EntryKind::Directory => 'd',
            EntryKind::Symlink => 'l',
            EntryKind::Fifo => 'p',
            EntryKind::Socket => 's',
            EntryKind::CharDevice => 'c',
            EntryKind::BlockDevice => 'b',
        },
        flag(bit(0o400), 'r'),
        flag(bit(0o200), 'w'),
        execute(bit(0o100), bit(0o4000), 's'),
        flag(bit(0o040), 'r'),
        flag(bit(0o020), 'w'),
        execute(bit(0o010), bit(0o2000), 's'),
        flag(bit(0o004), 'r'),
        flag(bit(0o002), 'w'),
        execute(bit(0o001), bit(0o1000), 't'),
    ]
    .iter()
    .collect()
}

/// Returns the name of a kind, for people and machines.
pub(super) fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Regular => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Fifo => "fifo",
        EntryKind::Socket => "socket",
        EntryKind::CharDevice => "character device",
        EntryKind::BlockDevice => "block device",
    }
}

/// Returns the modification time to the minute, in UTC.
pub(super) fn short_time(entry: &DirectoryEntry) -> String {
    time(entry.mtime, 0)
        .map_or_else(|| format!("@{}", entry.mtime), |t| t.strftime("%Y-%m-%d %H:%M").to_string())
}

/// Returns the modification time to the nanosecond, in UTC.
pub(super) fn long_time(entry: &DirectoryEntry) -> String {
    time(entry.mtime, entry.mtime_ns).map_or_else(
        || format!("@{}.{:09}", entry.mtime, entry.mtime_ns),
        |time| format!("{time:.9}"),
    )
}

/// A catalog may hold times beyond year 9999, which have no calendar form.
fn time(seconds: i64, nanoseconds: u32) -> Option<Timestamp> {
    let whole = Timestamp::from_second(seconds).ok()?;
    whole.checked_add(jiff::SignedDuration::from_nanos(i64::from(nanoseconds))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (kind, mode, text) in [
            (EntryKind::Regular, 0o100_644, "-rw-r--r--"),
            (EntryKind::Directory, 0o041_777, "drwxrwxrwt"),
            (EntryKind::Symlink, 0o120_777, "lrwxrwxrwx"),
            (EntryKind::Regular, 0o104_755, "-rwsr-xr-x"),
            (EntryKind::Regular, 0o107_000, "---S--S--T"),
            (EntryKind::Fifo, 0o010_000, "p---------"),
            (EntryKind::Socket, 0o140_711, "srwx--x--x"),
            (EntryKind::CharDevice, 0o020_666, "crw-rw-rw-"),
            (EntryKind::BlockDevice, 0o060_660, "brw-rw----"),
        ] {
            assert_eq!(mode_string(kind, mode), text);
        }
    }

    #[test]
    fn times() {
        let shown = |seconds, nanoseconds| time(seconds, nanoseconds).map(|t| format!("{t:.9}"));
        assert_eq!(shown(0, 5).as_deref(), Some("1970-01-01T00:00:00.000000005Z"));
        assert_eq!(shown(-1, 999_999_999).as_deref(), Some("1969-12-31T23:59:59.999999999Z"));
        assert_eq!(shown(i64::MAX, 0), None);
    }
}
