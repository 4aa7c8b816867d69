//! The names by which scripts call this program: each is a command line of ours, said otherwise
//! (spec/config.md, sections 5 to 7).

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What upstream's tools say of their version comes before ours.
const VERSION: &str = concat!("CernVM-FS version ", env!("CARGO_PKG_VERSION"), "\n");

/// What a command line means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// Our own command line.
    Line(Vec<OsString>),
    /// Only this is to be said, with this exit code.
    Say(String, u8),
}

/// Tells whether a program is called as a helper of mount(8), whose exit codes are those of mount(8).
pub(super) fn is_mount_helper(mut line: impl Iterator<Item = OsString>) -> bool {
    let program = line.next();
    let name = program.as_deref().and_then(|program| Path::new(program).file_name());
    name.is_some_and(|name| name == "mount.cvmfs" || name == "mount.cvmfs-fuse")
}

/// Translates the command line of a program that is called by such a name.
pub(super) fn command_line(words: impl Iterator<Item = OsString>) -> Called {
    let line: Vec<_> = words.collect();
    let name = line.first().and_then(|name| Path::new(name).file_name());
    let rest = line.get(1..).unwrap_or_default();
    match name.and_then(OsStr::to_str) {
        Some("cvmfs_talk") => ours(["talk"], rest),
        Some("cvmfs_config") => config(rest),
        Some("auto.cvmfs") => map(rest),
        Some("mount.cvmfs") => mount(rest, "usage: mount.cvmfs FQRN DIR [-sfnv] [-o OPTIONS]"),
        // Of lines of /etc/fstab for who has no files of cvmfs2.
        Some("mount.cvmfs-fuse") => {
            mount(rest, "usage: mount.cvmfs-fuse FQRN DIR [-sfnv] [-o OPTION,...]")
        }
        Some("cvmfs2") if rest.first().is_some_and(|word| is_flavour(word)) => flavour(rest),
        Some("cvmfs2") => mount(rest, "usage: cvmfs2 [-o OPTIONS] [-f] FQRN DIR"),
        _ => Called::Line(line),
    }
}

fn ours<'a>(
    first: impl IntoIterator<Item = &'a str>,
    rest: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Called {
    let first = ["cvmfs-fuse"].into_iter().chain(first).map(OsString::from);
    Called::Line(first.chain(rest.into_iter().map(|word| word.as_ref().to_owned())).collect())
}

/// `cvmfs_config COMMAND`.
fn config(words: &[OsString]) -> Called {
    let rest = words.get(1..).unwrap_or_default();
    match words.first().and_then(|word| word.to_str()) {
        Some("showconfig") => ours(["config", "show", "--named"], rest),
        Some("chksetup") => ours(["config", "check", "--counted"], rest),
        Some("probe") => ours(["probe", "--stated"], rest),
        Some("bugreport") => ours(["bugreport"], rest),
        Some("fsck") => ours(["cache", "check"], rest),
        Some("wipecache") => ours(["cvmfs_config", "reload", "-c"], rest),
        Some("stat") => {
            // Of ours, -v is what the log says.
            let words =
                rest.iter().map(|word| if word == "-v" { "--lines".as_ref() } else { &**word });
            ours(["cvmfs_config", "stat"], words)
        }
        Some(command @ ("status" | "reload" | "umount" | "killall" | "fuser" | "setup")) => {
            ours(["cvmfs_config", command], rest)
        }
        _ => Called::Say(
            "usage: cvmfs_config showconfig [-s] [FQRN] | chksetup | probe [FQRN...] | \
             stat [-v] [FQRN] | status | reload [-c | FQRN] | wipecache | umount [FQRN] | killall | \
             fuser FQRN | fsck | bugreport | \
             setup [nouser] [nocfgmod] [nostart] [noautofs]\n\
             More: cvmfs-fuse --help\n"
                .to_owned(),
            // As upstream.
            0,
        ),
    }
}

/// Whether `cvmfs2` is not to mount at all.
fn is_flavour(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| word.starts_with("__"))
}

/// `cvmfs2 __WORD__ ...`.
fn flavour(words: &[OsString]) -> Called {
    let rest = words.get(1..).unwrap_or_default();
    let repository = |socket: &OsString| {
        let name = Path::new(socket).file_name()?.to_str()?.strip_prefix("cvmfs.")?;
        (!name.is_empty()).then(|| OsString::from(name))
    };
    match (words.first().and_then(|word| word.to_str()), rest) {
        (Some("__wpad__"), [_, _]) => ours(["cvmfs_config", "wpad"], rest),
        (Some("__MK_ALIEN_CACHE__"), [_, _, _]) => ours(["cvmfs_config", "mk-alien-cache"], rest),
        (Some("__RELOAD__"), [socket, ..]) => match repository(socket) {
            Some(name) => ours(["cvmfs_config", "reload"], [name]),
            None => Called::Say("cvmfs2: no repository in the name of that socket\n".into(), 100),
        },
        _ => Called::Say(
            "usage: cvmfs2 __wpad__ PROXIES SERVERS | __MK_ALIEN_CACHE__ DIR UID GID | \
             __RELOAD__ SOCKET\n"
                .to_owned(),
            2,
        ),
    }
}

/// `auto.cvmfs KEY`: the entry of the map for autofs, or nothing.
fn map(words: &[OsString]) -> Called {
    let key = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    let is_name = key.starts_with(|c: char| c.is_ascii_alphanumeric())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && key.contains('.')
        && !key.ends_with('.');
    match is_name {
        true => Called::Say(format!("-fstype=cvmfs :{key}\n"), 0),
        false => Called::Say(String::new(), 1),
    }
}

/// `mount.cvmfs` and `cvmfs2`: flags and a list of options, around a name and a directory.
fn mount(words: &[OsString], usage: &str) -> Called {
    let is_helper = usage.contains("mount.cvmfs");
    // As upstream's helper, and as its client.
    let wrong = || Called::Say(format!("{usage}\n"), if is_helper { 1 } else { 2 });
    let mut places = Vec::new();
    let (mut flags, mut options) = (Vec::<OsString>::new(), Vec::<String>::new());
    let (mut foreground, mut only_shows) = (false, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        match text.as_ref() {
            "-h" | "--help" => {
                return Called::Say(format!("{usage}\nMore: cvmfs-fuse mount --help\n"), 0);
            }
            "-V" | "--version" => return Called::Say(format!("{VERSION}\n"), 0),
            "-f" if !is_helper => foreground = true,
            // mount --fake: all is well, and nothing is to be done.
            "-f" => return Called::Say(String::new(), 0),
            "-k" => only_shows = true,
            "-v" | "-d" => flags.push("-v".into()),
            "-s" | "-n" => {}
            "-t" => {
                words.next();
            }
            _ if text.starts_with("-o") => {
                let list = match text.strip_prefix("-o").filter(|list| !list.is_empty()) {
                    Some(list) => list.to_owned(),
                    None => match words.next() {
                        Some(list) => list.to_string_lossy().into_owned(),
                        None => return wrong(),
                    },
                };
                options.extend(list.split(',').map(str::to_owned));
            }
            _ if text.starts_with('-') => return wrong(),
            _ => places.push(word.clone()),
        }
    }
    let mut plain = Vec::new();
    for option in options {
        match option.split_once('=').unwrap_or((option.as_str(), "")) {
            ("config", files) => flags.extend(["--config".into(), files.into()]),
            // Ours, and no options of any mount. None has a comma in its value.
            (
                flag @ ("server" | "public-key" | "proxy" | "cache-dir" | "quota" | "tag" | "set"),
                value,
            ) => flags.extend([format!("--{flag}").into(), value.into()]),
            ("parse", _) => only_shows = true,
            ("foreground", _) => foreground = true,
            ("debug" | "fuse_debug", _) => flags.push("-v".into()),
            // What these ask for is always or never so.
            (
                ""
                | "rw"
                | "suid"
                | "dev"
                | "disable_watchdog"
                | "simple_options_parsing"
                | "libfuse"
                | "nonempty"
                | "remount",
                _,
            ) => {}
            _ => plain.push(option),
        }
    }
    // The helper hands the mount over to CVMFS_USER; the client itself keeps who it is.
    match is_helper {
        true => plain.push("grab_mountpoint".to_owned()),
        false if !plain.iter().any(|option| option.starts_with("uid=")) => {
            plain.push("uid=0".to_owned());
        }
        false => {}
    }
    if foreground {
        flags.push("--foreground".into());
    }
    match (places.as_slice(), only_shows) {
        ([name, ..], true) => {
            flags.retain(|flag| flag != "--foreground");
            ours(["config", "show"], [name.clone()].into_iter().chain(flags))
        }
        ([name, directory], false) => {
            flags.extend(["-o".into(), plain.join(",").into()]);
            ours(["mount"], [name.clone(), directory.clone()].into_iter().chain(flags))
        }
        _ => wrong(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> String {
        match command_line(line.split(' ').map(OsString::from)) {
            Called::Line(line) => line.join(" ".as_ref()).into_string().unwrap(),
            Called::Say(text, code) => format!("{code}: {text}"),
        }
    }

    #[test]
    fn names_are_command_lines() {
        for (line, expected) in [
            ("/usr/bin/cvmfs_talk -i x pid", "cvmfs-fuse talk -i x pid"),
            ("cvmfs-fuse talk pid", "cvmfs-fuse talk pid"),
            ("cvmfs_talk", "cvmfs-fuse talk"),
            ("cvmfs_config showconfig -s a.b", "cvmfs-fuse config show --named -s a.b"),
            ("cvmfs_config probe", "cvmfs-fuse probe --stated"),
            ("cvmfs_config stat -v a.b", "cvmfs-fuse cvmfs_config stat --lines a.b"),
            ("cvmfs_config reload", "cvmfs-fuse cvmfs_config reload"),
            ("cvmfs_config wipecache", "cvmfs-fuse cvmfs_config reload -c"),
            ("cvmfs_config umount a.b.c", "cvmfs-fuse cvmfs_config umount a.b.c"),
            (
                "cvmfs_config setup nocfgmod nostart noautofs",
                "cvmfs-fuse cvmfs_config setup nocfgmod nostart noautofs",
            ),
            (
                "mount.cvmfs a.b.c /m -o rw,_netdev,nodev -v",
                "cvmfs-fuse mount a.b.c /m -v -o _netdev,nodev,grab_mountpoint",
            ),
            ("mount.cvmfs a.b.c /m -f", "0: "),
            (
                "mount.cvmfs-fuse a.b.c /m -o rw,noexec,server=http://s/a=b,set=X=1 -n",
                "cvmfs-fuse mount a.b.c /m --server http://s/a=b --set X=1 -o noexec,grab_mountpoint",
            ),
            (
                "cvmfs2 -o config=/a:/b,allow_other -f a.b.c /m",
                "cvmfs-fuse mount a.b.c /m --config /a:/b --foreground -o allow_other,uid=0",
            ),
            (
                "cvmfs2 __wpad__ auto;DIRECT http://s",
                "cvmfs-fuse cvmfs_config wpad auto;DIRECT http://s",
            ),
            ("cvmfs2 __MK_ALIEN_CACHE__ /a 1 2", "cvmfs-fuse cvmfs_config mk-alien-cache /a 1 2"),
            (
                "cvmfs2 __RELOAD__ /var/run/cvmfs/cvmfs.a.b.c stop_and_go",
                "cvmfs-fuse cvmfs_config reload a.b.c",
            ),
            ("cvmfs2 a.b.c /m -o uid=9", "cvmfs-fuse mount a.b.c /m -o uid=9"),
            ("cvmfs2 -o parse,config=/a a.b.c /m", "cvmfs-fuse config show a.b.c --config /a"),
            ("/etc/auto.cvmfs cms.cern.ch", "0: -fstype=cvmfs :cms.cern.ch\n"),
            ("/etc/auto.cvmfs cms", "1: "),
            ("/etc/auto.cvmfs .a.b", "1: "),
            ("/etc/auto.cvmfs a.b.", "1: "),
            ("/etc/auto.cvmfs a.b/c", "1: "),
        ] {
            assert_eq!(translated(line), expected, "{line}");
        }
        assert!(translated("cvmfs2 -V").starts_with("0: CernVM-FS version "));
        assert!(translated("cvmfs2 a.b.c").starts_with("2: usage"));
        assert!(translated("cvmfs2 __cachemgr__ 1 2").starts_with("2: usage"));
        assert!(translated("cvmfs2 __RELOAD__ /var/run/x").starts_with("100: "));
        assert!(translated("mount.cvmfs a.b.c").starts_with("1: usage"));
        assert!(translated("cvmfs_config nonsense").starts_with("0: usage"));
        assert_eq!(command_line(std::iter::empty()), Called::Line(Vec::new()));
    }
}
