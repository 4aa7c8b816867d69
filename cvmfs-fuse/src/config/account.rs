//! As whom a server works that root starts: `CVMFS_USER`, or `-o uid=N,gid=N`.
//!
//! Accounts are those of this machine's files: the C library of a static program cannot ask anybody else.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cvmfs_cache::safe_path::{self, PRIVATE, PUBLIC};
use nix::unistd::{Gid, Uid, geteuid};
use rustix::fs::{Mode, OFlags};

use super::options::MountOptions;
use super::parameters::Parameters;

/// Write permission for others: the directory is shared, whoever owns it.
const SHARED: u32 = 0o022;

/// Where accounts are.
const USERS: &str = "/etc/passwd";
/// Where their groups are.
const GROUPS: &str = "/etc/group";
/// As many as Linux takes (NGROUPS_MAX), but for the group of the account itself.
const MAX_GROUPS: usize = 65_535;

/// A user who is not root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// Its name, if it has one.
    name: Option<String>,
    /// The other groups that it is in.
    groups: Vec<u32>,
}

impl Account {
    /// Returns as whom the server is to work; `None` to stay who we are.
    ///
    /// Only root can become somebody else, so for others nothing is said here. An account that the
    /// files of a site name and this machine lacks is no reason not to mount: images of containers
    /// often have the files and no accounts. It is a warning.
    pub fn wanted(options: &MountOptions, parameters: &Parameters) -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let account = match (options.uid, &parameters.user) {
            (Some(uid), _) => Self::numbered(uid, options.gid),
            (None, Some(text)) => Self::named(text).or_else(|| {
                if is_first_time() {
                    tracing::warn!(
                        CVMFS_USER = text,
                        "there is no such account, so root serves; make it with: useradd --system {text}"
                    );
                }
                None
            })?,
            (None, None) => return None,
        };
        if account.uid == 0 {
            return None;
        }
        if let Err(reason) = account.can_be_assumed() {
            if is_first_time() {
                tracing::warn!(user = account.shown(), "root serves in its place: {reason}");
            }
            return None;
        }
        Some(account)
    }

    /// Tells whether root can become this user: a container may lack the capabilities, and a user
    /// namespace the user.
    fn can_be_assumed(&self) -> Result<(), &'static str> {
        const CAP_SETGID: u64 = 1 << 6;
        const CAP_SETUID: u64 = 1 << 7;
        let is_mapped = |path: &str, id: u32| {
            let map = read(path);
            map.is_empty() || map.lines().any(|line| contains(line, id))
        };
        if !is_mapped("/proc/self/uid_map", self.uid) || !is_mapped("/proc/self/gid_map", self.gid)
        {
            return Err("the user namespace does not know that user");
        }
        if read("/proc/self/setgroups").trim() == "deny" {
            return Err("the user namespace lets nobody change groups");
        }
        let status = read("/proc/self/status");
        let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let held = held.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        match held {
            Some(held) if held & (CAP_SETGID | CAP_SETUID) != CAP_SETGID | CAP_SETUID => {
                Err("it takes CAP_SETUID and CAP_SETGID")
            }
            _ => Ok(()),
        }
    }

    /// Finds an account by its name, or by its number.
    pub(super) fn named(text: &str) -> Option<Self> {
        let users = read(USERS);
        let number = text.parse().ok();
        let found = users.lines().filter_map(parse_user).find(|user| user.name == text);
        let by_number = || users.lines().filter_map(parse_user).find(|u| Some(u.uid) == number);
        found.or_else(by_number).map(|user| Self::of(user, None))
    }

    fn numbered(uid: u32, gid: Option<u32>) -> Self {
        let users = read(USERS);
        match users.lines().filter_map(parse_user).find(|user| user.uid == uid) {
            Some(user) => Self::of(user, gid),
            None => Self { uid, gid: gid.unwrap_or(uid), name: None, groups: Vec::new() },
        }
    }

    fn of(user: UserLine<'_>, gid: Option<u32>) -> Self {
        let gid = gid.unwrap_or(user.gid);
        let groups = groups_of(&read(GROUPS), user.name);
        Self { uid: user.uid, gid, name: Some(user.name.to_owned()), groups }
    }

    fn all_groups(&self) -> impl Iterator<Item = u32> {
        let others = self.groups.iter().copied().filter(|other| *other != self.gid);
        std::iter::once(self.gid).chain(others)
    }

    /// Makes this process that user, for good: all ids, the groups of the account and no others.
    pub fn assume(&self) -> nix::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<_> = self.all_groups().map(Gid::from_raw).collect();
        nix::unistd::setgroups(&groups)?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)
    }

    /// Makes this thread that user, and those that it starts. That keeps files apart, and no secrets.
    pub fn assume_in_thread(&self) -> io::Result<()> {
        let (uid, gid) =
            (rustix::process::Uid::from_raw(self.uid), rustix::process::Gid::from_raw(self.gid));
        let groups: Vec<_> = self.all_groups().map(rustix::process::Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }

    /// Gives it a cache directory, if that is new: missing, or empty and root's.
    ///
    /// One that is in use stays as it is: what is in it would still be somebody else's, and a site may
    /// share it on purpose. If the account cannot use it, opening it says so.
    pub fn give_cache(&self, directory: &Path) -> io::Result<()> {
        // The account has to get through those above.
        let (found, _) = safe_path::make_directories(directory, PRIVATE, PUBLIC)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = File::from(rustix::fs::openat(found, ".", flags, Mode::empty())?);
        let found = opened.metadata()?;
        let is_ours = found.uid() == 0 && found.mode() & SHARED == 0;
        if is_ours && safe_path::is_empty(&opened)? {
            self.own(&opened)?;
        }
        Ok(())
    }

    /// Makes it the owner of an open directory.
    pub fn own(&self, directory: &File) -> io::Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(self.uid), self.gid);
        rustix::fs::fchown(directory, Some(uid), Some(rustix::fs::Gid::from_raw(gid)))?;
        Ok(())
    }

    /// Lets a command of root work on a private cache as the user whose cache it is: what root makes
    /// there could not be read by that user.
    pub fn of_cache(directory: &Path) -> Option<Self> {
        let found = std::fs::metadata(directory).ok()?;
        let is_theirs = found.uid() != 0 && found.mode() & SHARED == 0;
        if !geteuid().is_root() || !is_theirs {
            return None;
        }
        let account = Self::numbered(found.uid(), Some(found.gid()));
        account.can_be_assumed().is_ok().then_some(account)
    }

    /// Returns its name, or its number.
    pub fn shown(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.uid.to_string())
    }
}

/// A process asks several times, and it is said once.
fn is_first_time() -> bool {
    static SAID: AtomicBool = AtomicBool::new(false);
    !SAID.swap(true, Ordering::Relaxed)
}

/// A line of passwd(5).
struct UserLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn parse_user(line: &str) -> Option<UserLine<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    Some(UserLine { name, uid, gid: fields.next()?.parse().ok()? })
}

/// Returns the groups of group(5) that list a user, as many as the kernel takes.
fn groups_of(table: &str, name: &str) -> Vec<u32> {
    let lists = |line: &str| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member.trim() == name).then_some(gid)
    };
    table.lines().filter_map(lists).take(MAX_GROUPS).collect()
}

/// Tells whether a line of user_namespaces(7) maps an id: the first inside, outside, and how many.
fn contains(line: &str, id: u32) -> bool {
    let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
    match (numbers.next().flatten(), numbers.nth(1).flatten()) {
        (Some(first), Some(count)) => (first..first.saturating_add(count)).contains(&u64::from(id)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_knows_whom_it_maps() {
        assert!(contains("         0          0 4294967295", 54321));
        assert!(contains("0 1000 1", 0) && !contains("0 1000 1", 1));
        assert!(contains("1 100000 65536", 65536) && !contains("1 100000 65536", 65537));
        assert!(!contains("", 0) && !contains("0 1000", 0));
    }

    #[test]
    fn lines_of_accounts() {
        let user = parse_user("cvmfs:x:993:990:CVMFS:/var/lib/cvmfs:/sbin/nologin").unwrap();
        assert_eq!((user.name, user.uid, user.gid), ("cvmfs", 993, 990));
        for line in ["", "# note", "+::::::", ":x:1:1", "cvmfs:x:-1:1", "cvmfs:x:1"] {
            assert!(parse_user(line).is_none(), "{line}");
        }
        let table =
            "fuse:x:105:a,cvmfs\nkvm:x:106:cvmfs2\ndisk:x:6:\nlog:x:7:cvmfs\nbad:x:y:cvmfs\n";
        assert_eq!(groups_of(table, "cvmfs"), [105, 7]);
    }

    /// Accounts that every Debian has.
    fn wanted(options: &str, user: &str) -> Option<(u32, u32)> {
        let options = MountOptions::parse([options], true).unwrap();
        let set = format!("CVMFS_USER={user}");
        let set = (!user.is_empty()).then_some(set.as_str());
        let parameters = Parameters::parse(set).unwrap();
        Account::wanted(&options, &parameters).map(|account| (account.uid, account.gid))
    }

    #[test]
    fn options_count_more_than_parameters_and_root_stays_root() {
        if !geteuid().is_root() {
            assert_eq!(wanted("uid=1", "daemon"), None);
            return;
        }
        for (options, user, expected) in [
            ("", "", None),
            ("", "daemon", Some((1, 1))),
            ("", "1", Some((1, 1))),
            ("", "root", None),
            ("", "no-such-account", None),
            ("uid=0", "daemon", None),
            ("uid=2", "daemon", Some((2, 2))),
            ("uid=54321,gid=54322", "", Some((54321, 54322))),
            ("uid=54321", "", Some((54321, 54321))),
        ] {
            assert_eq!(wanted(options, user), expected, "{options} {user}");
        }
    }
}
