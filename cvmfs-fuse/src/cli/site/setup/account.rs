//! The user and the group of `CVMFS_USER`.

use std::ffi::OsStr;
use std::path::Path;

use super::error::SetupError;
use super::{ETC, Said, program};

/// May open `/dev/fuse` where that is not for everybody.
const FUSE: &str = "fuse";
/// What an account may be called on all systems.
const MAX_NAME: usize = 32;

/// The numbers of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Finds an account, in the files of this machine or, where that can be asked, in those of the site.
pub(super) fn find(name: &str) -> Result<Option<Account>, SetupError> {
    let numbers = |line: String| {
        let mut fields = line.split(':').skip(2).map(str::parse);
        match (fields.next(), fields.next()) {
            (Some(Ok(uid)), Some(Ok(gid))) => Some(Account { uid, gid }),
            _ => None,
        }
    };
    Ok(entry("passwd", name)?.and_then(numbers))
}

/// Makes user and group, if they are not there.
pub(super) fn make(name: &str, home: &Path, said: &mut Said) -> Result<Account, SetupError> {
    if !is_name(name) {
        return Err(SetupError::UserName { name: name.to_owned() });
    }
    if entry("group", name)?.is_none() {
        add_group(name)?;
        said.done(&format!("made group {name}"))?;
    }
    let account = match find(name)? {
        Some(account) => account,
        None => {
            let command = add_user(name, home)?;
            said.done(&format!("made user {name}"))?;
            find(name)?.ok_or(SetupError::NotMade { command, name: name.to_owned() })?
        }
    };
    if let Some(line) = entry("group", FUSE)?
        && !has_member(&line, name, account)
    {
        add_member(name)?;
        said.done(&format!("added user {name} to group {FUSE}"))?;
    }
    Ok(account)
}

/// Programs of the system take it as a word: it must not look like an option or like a number.
fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// A line of one of the tables of accounts. A static program cannot ask the modules that sites have for
/// this; who is installed for that is asked in its place.
fn entry(table: &'static str, name: &str) -> Result<Option<String>, SetupError> {
    let path = Path::new(ETC).join(table);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        // An image without accounts.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(SetupError::Read { path, source }),
    };
    let is_it = |line: &str| line.split_once(':').is_some_and(|(first, _)| first == name);
    let find = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.lines().find(|line| is_it(line)).map(str::to_owned)
    };
    if let Some(line) = find(&text) {
        return Ok(Some(line));
    }
    match program::find("getent") {
        Some(getent) => Ok(find(&program::output(&getent, &[table, name])?.stdout)),
        None => Ok(None),
    }
}

fn has_member(group: &str, name: &str, account: Account) -> bool {
    let mut fields = group.split(':').skip(2);
    fields.next().and_then(|gid| gid.parse().ok()) == Some(account.gid)
        || fields.next().is_some_and(|members| members.split(',').any(|member| member == name))
}

fn add_group(name: &str) -> Result<(), SetupError> {
    let task = || format!("making group {name}");
    first_of(
        task,
        "groupadd or busybox",
        program::find("groupadd").map(|path| (path, vec!["--system"])),
        program::of_busybox("addgroup").map(|(path, words)| (path, [words, vec!["-S"]].concat())),
        &[name.as_ref()],
    )
    .map(drop)
}

/// Nobody logs in as it, and it has no files but the caches.
fn add_user(name: &str, home: &Path) -> Result<String, SetupError> {
    let task = || format!("making user {name}");
    let shell = program::find("nologin").unwrap_or_else(|| "/bin/false".into());
    let (home, shell) = (home.as_os_str(), shell.as_os_str());
    let name = OsStr::new(name);
    if let Some(useradd) = program::find("useradd") {
        let words = ["--system", "--no-create-home", "--comment", "CernVM-FS", "--gid"];
        let words = words.map(OsStr::new).into_iter().chain([name, "--home-dir".as_ref(), home]);
        let words: Vec<_> = words.chain(["--shell".as_ref(), shell, name]).collect();
        return program::run(&useradd, &words);
    }
    let adduser = program::of_busybox("adduser")
        .map(|(path, words)| (path, [words, vec!["-S", "-D", "-H"]].concat()));
    let rest = ["-g".as_ref(), "CernVM-FS".as_ref(), "-G".as_ref(), name];
    let rest = [&rest[..], &["-h".as_ref(), home, "-s".as_ref(), shell, name]].concat();
    first_of(task, "useradd or busybox", None, adduser, &rest)
}

fn add_member(name: &str) -> Result<(), SetupError> {
    let task = || format!("adding user {name} to group {FUSE}");
    // Of all that can do this, it also takes users that are not in this machine's file.
    let gpasswd = program::find("gpasswd").map(|path| (path, vec!["-a"]));
    first_of(
        task,
        "gpasswd or busybox",
        gpasswd,
        program::of_busybox("addgroup"),
        &[name.as_ref(), FUSE.as_ref()],
    )
    .map(drop)
}

type Call = Option<(std::path::PathBuf, Vec<&'static str>)>;

/// Calls the first of two programs that is installed, each with words of its own before the same rest.
fn first_of(
    task: impl Fn() -> String,
    names: &'static str,
    one: Call,
    other: Call,
    rest: &[&OsStr],
) -> Result<String, SetupError> {
    let Some((path, words)) = one.or(other) else {
        return Err(SetupError::Missing { task: task(), names, without: "nouser" });
    };
    let words: Vec<_> = words.iter().map(OsStr::new).chain(rest.iter().copied()).collect();
    program::run(&path, &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_options_and_no_numbers() {
        for good in ["cvmfs", "_cvmfs", "cvmfs-2", "a.b"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-r", "0", "a b", "a:b", "a\n", "ü", &"a".repeat(33)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn accounts_are_found_and_members_known() {
        assert_eq!(find("root").unwrap(), Some(Account { uid: 0, gid: 0 }));
        assert_eq!(find("no-such-user").unwrap(), None);
        let cvmfs = Account { uid: 500, gid: 500 };
        assert!(has_member("fuse:x:7:a,cvmfs", "cvmfs", cvmfs));
        assert!(has_member("fuse:x:500:", "cvmfs", cvmfs));
        for group in ["fuse:x:7:", "fuse:x:7:cvmfs2,a", "fuse:x::", "fuse"] {
            assert!(!has_member(group, "cvmfs", cvmfs), "{group}");
        }
    }
}
