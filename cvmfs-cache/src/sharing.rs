//! Who may write to a cache directory, what that makes of modes, and what is refused.
//!
//! The user decides by the mode of the directory that is given to us:
//!
//! | DIR | [`Sharing`] | directories | objects | control files | content is verified |
//! |---|---|---|---|---|---|
//! | `0700`, ours | `Private` | 0700 | 0400 | 0600 | by the seal |
//! | `2770`, any owner, our group | `Group` | 2770 | 0440 | 0660 | and on first open, by its checksum |
//! | `0770`, `0775` | `Private`, with a warning | 0700 | 0400 | 0600 | by the seal |
//! | `0777` | refused, or `Anyone` if asked for | 2777 | 0444 | 0666 | the same |
//!
//! Sharing is a decision: the setgid bit, which no umask sets, says that somebody made it. Where a group
//! can write without that bit, what is below is for this user alone all the same: members can take the
//! cache away, and put nothing into it.
//!
//! Whoever can write a directory decides what its readers get: a checksum beside the bytes is as
//! easily replaced as they are. So `Group` means that its members trust each other not to lie;
//! damage by accident is found. Among users who do not trust each other a broker alone writes.

use std::fs::Metadata;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use cvmfs_core::cache::CacheError;
use rustix::fs::{Mode, Stat};

use crate::layout::failed;

/// Write permission for the group.
const GROUP_WRITE: u32 = 0o020;
/// Write permission for everybody.
const OTHER_WRITE: u32 = 0o002;
/// New files belong to the group of the directory: the sign of one that is shared on purpose.
const SETGID: u32 = 0o2000;

/// Why a directory cannot hold a cache; the source of the [`CacheError::Io`] of an open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnfitDirectory {
    /// Something else has that name.
    #[error("it is not a directory")]
    NotADirectory,
    /// Another user could change what readers get.
    #[error(
        "it belongs to user {owner}, and this process runs as user {us}; to hand it over: \
         chown -R {us} DIR; to share it, give it to a group: chgrp GROUP DIR && chmod 2770 DIR"
    )]
    ForeignOwner {
        /// The owner found.
        owner: u32,
        /// The effective user of this process.
        us: u32,
    },
    /// It was made for another group than the directory that it is in.
    #[error("it belongs to group {found}, not to group {expected} of the cache directory")]
    ForeignGroup {
        /// The group found.
        found: u32,
        /// The group of the directory given by the user.
        expected: u32,
    },
    /// Other users could change what readers get.
    #[error(
        "its mode {mode:o} lets other users write; use another directory, take the permission \
         away, use a broker, or say --cache-mode direct to trust them all"
    )]
    WritableByOthers {
        /// The permission bits found.
        mode: u32,
    },
    /// It was shared while the directory that it is in was writable for a group.
    #[error(
        "its mode {mode:o} lets the members of group {group} write, and the cache directory is for \
         this user alone now; to share it with them: chmod 2770 DIR; to begin anew without them: \
         cvmfs-fuse cache wipe --cache-dir DIR"
    )]
    SharedBefore {
        /// The permission bits found.
        mode: u32,
        /// The group.
        group: u32,
    },
    /// Another directory has the name since the cache was opened.
    #[error("another directory, shared with other users, has taken its place")]
    Exchanged,
    /// Files made there belong to somebody else, as on NFS with squashed users.
    #[error("files made there belong to user {owner}, not to user {us}")]
    FilesChangeOwner {
        /// The owner of a new file.
        owner: u32,
        /// The effective user of this process.
        us: u32,
    },
    /// The seal of an object file is its modification time.
    #[error("its file system does not keep modification times to the second")]
    TimesNotKept,
}

/// Who may write to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// This user alone.
    Private,
    /// The members of this group.
    Group(u32),
    /// Every user of the machine.
    Anyone,
}

/// Tells whether the owner of a directory may decide that the user `us` shares it with a group. Root is told which
/// directory to use, and is no member of groups.
fn may_share(us: u32, owner: u32, is_member: impl Fn() -> bool) -> bool {
    us == 0 || [us, 0].contains(&owner) || is_member()
}

/// Tells whether this process is of a group, by its effective group or a supplementary one.
fn is_member(group: u32) -> bool {
    rustix::process::getegid().as_raw() == group
        || rustix::process::getgroups()
            .is_ok_and(|groups| groups.iter().any(|one| one.as_raw() == group))
}

impl Sharing {
    /// Reads it off the directory that the user gave.
    pub(crate) fn of(path: &Path, found: &Stat, anyone: bool) -> Result<Self, CacheError> {
        let mode = found.st_mode & 0o7777;
        if mode & OTHER_WRITE != 0 {
            if anyone {
                return Ok(Self::Anyone);
            }
            // The sticky bit of /tmp protects names in it: ours is then as private as we make it.
            if mode & 0o1000 == 0 {
                return Err(unfit(path, UnfitDirectory::WritableByOthers { mode }));
            }
            return Ok(Self::Private);
        }
        // A umask of 0002 gives the group's permission, and never this bit.
        if mode & (GROUP_WRITE | SETGID) != GROUP_WRITE | SETGID {
            return Ok(Self::Private);
        }
        // An access list can let in who is no member. Then whoever owns the directory has decided to share, not
        // the user of this process.
        let us = rustix::process::geteuid().as_raw();
        if !may_share(us, found.st_uid, || is_member(found.st_gid)) {
            let owner = found.st_uid;
            return Err(unfit(path, UnfitDirectory::ForeignOwner { owner, us }));
        }
        Ok(Self::Group(found.st_gid))
    }

    /// Tells whether others can change what is stored.
    pub(crate) fn is_shared(self) -> bool {
        self != Self::Private
    }

    pub(crate) fn directory_mode(self) -> Mode {
        Mode::from_bits_truncate(match self {
            Self::Private => 0o700,
            Self::Group(_) => 0o2770,
            Self::Anyone => 0o2777,
        })
    }

    /// Nobody has a reason to write to an object again.
    pub(crate) fn object_mode(self) -> Mode {
        Mode::from_bits_truncate(match self {
            Self::Private => 0o400,
            Self::Group(_) => 0o440,
            Self::Anyone => 0o444,
        })
    }

    pub(crate) fn control_mode(self) -> Mode {
        Mode::from_bits_truncate(match self {
            Self::Private => 0o600,
            Self::Group(_) => 0o660,
            Self::Anyone => 0o666,
        })
    }

    /// Gives a directory that was just made its group and mode.
    pub(crate) fn adopt_directory(
        self,
        directory: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<(), CacheError> {
        let set = || {
            if let Self::Group(gid) = self
                && rustix::fs::fstat(directory)?.st_gid != gid
            {
                rustix::fs::fchown(directory, None, Some(rustix::fs::Gid::from_raw(gid)))?;
            }
            rustix::fs::fchmod(directory, self.directory_mode())
        };
        set().map_err(failed("set group and mode of", path))
    }

    /// Refuses a directory of ours that somebody else could have filled.
    pub(crate) fn check_directory(
        self,
        directory: BorrowedFd<'_>,
        found: &Stat,
        path: &Path,
        read_only: bool,
    ) -> Result<(), CacheError> {
        let (us, owner, mode) = (our_user(), found.st_uid, found.st_mode & 0o7777);
        match self {
            Self::Anyone => Ok(()),
            _ if mode & OTHER_WRITE != 0 => {
                Err(unfit(path, UnfitDirectory::WritableByOthers { mode }))
            }
            Self::Private => {
                if mode & GROUP_WRITE != 0 {
                    let group = found.st_gid;
                    return Err(unfit(path, UnfitDirectory::SharedBefore { mode, group }));
                }
                // What root prepared for reading, root could also change.
                if owner != us && !(read_only && owner == 0) {
                    return Err(unfit(path, UnfitDirectory::ForeignOwner { owner, us }));
                }
                Ok(())
            }
            Self::Group(gid) => {
                if found.st_gid != gid {
                    let reason =
                        UnfitDirectory::ForeignGroup { found: found.st_gid, expected: gid };
                    return Err(unfit(path, reason));
                }
                // Made when the cache was private, by us: share it now.
                if !read_only && owner == us && mode != self.directory_mode().bits() {
                    self.adopt_directory(directory, path)?;
                }
                Ok(())
            }
        }
    }

    /// Tells why a file cannot be an object: somebody could have put it there who may not.
    pub(crate) fn refuses(self, found: &Metadata) -> Option<&'static str> {
        match self {
            Self::Anyone => None,
            Self::Private if found.uid() != our_user() && found.uid() != 0 => {
                Some("a file of another user")
            }
            Self::Private if found.mode() & (GROUP_WRITE | OTHER_WRITE) != 0 => {
                Some("a file that others can write")
            }
            Self::Private => None,
            _ if found.mode() & OTHER_WRITE != 0 => Some("a file that everybody can write"),
            Self::Group(gid) if found.gid() != gid => Some("a file of another group"),
            Self::Group(_) => None,
        }
    }
}

/// The effective user of this process, whose files are trusted.
pub(crate) fn our_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Refuses `path` for a stated reason.
pub(crate) fn unfit(path: &Path, reason: UnfitDirectory) -> CacheError {
    failed("use cache directory", path)(io::Error::other(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h4_a_directory_of_another_user_is_shared_by_members_of_its_group_only() {
        for (us, owner, is_member, expected) in [
            (1000, 1000, false, true),
            (1000, 0, false, true),
            (1000, 1001, true, true),
            (0, 1001, false, true),
            // An access list let this user in.
            (1000, 1001, false, false),
        ] {
            assert_eq!(may_share(us, owner, || is_member), expected, "{us} {owner} {is_member}");
        }
    }
}
