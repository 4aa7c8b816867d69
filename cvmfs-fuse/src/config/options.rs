//! The `-o` options of mount(8) and fstab.

use std::fmt::Write as _;

use super::parameters::Parameters;

/// Device name in `df` and `/proc/mounts`, as upstream's mount helper gives it; scripts match it.
pub const DEFAULT_FS_NAME: &str = "cvmfs2";

/// How a repository is mounted. `ro`, `nosuid` and `nodev` cannot be switched off and have no field.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MountOptions {
    /// No file may be executed.
    pub noexec: bool,
    /// Other users than the one who mounts may enter. Default for root only, because the kernel
    /// (or fusermount's `user_allow_other`) refuses it to others.
    pub allow_other: bool,
    /// Root may enter too, when somebody else mounts.
    pub allow_root: bool,
    /// The kernel checks mode bits; needed wherever other users may enter.
    pub default_permissions: bool,
    /// Device name in `df` and `/proc/mounts`.
    pub fs_name: String,
    /// Where we may not mount ourselves, fusermount is asked.
    pub use_helper: bool,
    /// The user as whom root lets the server work; 0 keeps root whatever `CVMFS_USER` says.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// The directory is given to that user before it is covered by the mount.
    pub grab_mountpoint: bool,
}

impl MountOptions {
    /// Returns what a mount without `-o` gets.
    pub fn defaults(is_root: bool) -> Self {
        Self {
            noexec: false,
            allow_other: is_root,
            allow_root: false,
            default_permissions: true,
            fs_name: DEFAULT_FS_NAME.to_owned(),
            use_helper: true,
            uid: None,
            gid: None,
            grab_mountpoint: false,
        }
    }
}

/// Why an `-o` list is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Asks for what a read-only client of untrusted servers never does.
    #[error(
        "option {option:?} contradicts the mount, which is always ro,nosuid,nodev; {}",
        known()
    )]
    Contradiction {
        /// The option.
        option: String,
    },
    /// Not in the list.
    #[error("unknown mount option {option:?}; {}", known())]
    Unknown {
        /// The option.
        option: String,
    },
    /// A value is missing, of the wrong form, or given where none belongs.
    #[error("mount option {option:?} must have the form {form}; {}", known())]
    Value {
        /// The option.
        option: String,
        /// How it is written.
        form: &'static str,
    },
    /// Both of two options that exclude each other.
    #[error("mount options allow_other and allow_root exclude each other")]
    Exclusive,
}

#[derive(Clone, Copy)]
enum Effect {
    /// Says what is so anyway, or concerns mount(8), fstab and autofs only.
    Nothing,
    /// Accepted with a warning: lines that mean `cvmfs2` have it, and the mount stays `nosuid`.
    SetUserId,
    /// Takes a number.
    User,
    Group,
    GrabMountpoint,
    NoExec(bool),
    AllowOther,
    AllowRoot,
    DefaultPermissions,
    FsName,
}

/// Every option we take, in the order in which messages list them.
const KNOWN: &[(&str, Effect)] = &[
    ("ro", Effect::Nothing),
    ("nosuid", Effect::Nothing),
    ("nodev", Effect::Nothing),
    ("noexec", Effect::NoExec(true)),
    ("exec", Effect::NoExec(false)),
    ("allow_other", Effect::AllowOther),
    ("allow_root", Effect::AllowRoot),
    ("default_permissions", Effect::DefaultPermissions),
    ("fsname", Effect::FsName),
    ("defaults", Effect::Nothing),
    ("system_mount", Effect::Nothing),
    ("atime", Effect::Nothing),
    ("noatime", Effect::Nothing),
    ("nodiratime", Effect::Nothing),
    ("relatime", Effect::Nothing),
    ("auto", Effect::Nothing),
    ("noauto", Effect::Nothing),
    ("user", Effect::Nothing),
    ("nouser", Effect::Nothing),
    ("users", Effect::Nothing),
    ("nofail", Effect::Nothing),
    ("_netdev", Effect::Nothing),
    ("uid", Effect::User),
    ("gid", Effect::Group),
    ("grab_mountpoint", Effect::GrabMountpoint),
    ("cvmfs_suid", Effect::SetUserId),
];

/// Written after `x-` these are notes of other programs in fstab (systemd, gvfs): see mount(8).
const FOREIGN_PREFIXES: &[&str] = &["x-", "X-", "comment="];

const CONTRADICTIONS: &[&str] = &["rw", "suid", "dev"];

fn known() -> String {
    let mut text = String::from("known are ");
    for (i, (name, effect)) in KNOWN.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        let value = match effect {
            Effect::FsName => "=NAME",
            Effect::User | Effect::Group => "=NUMBER",
            _ => "",
        };
        let _ = write!(text, "{separator}{name}{value}");
    }
    text
}

impl MountOptions {
    /// Follows the parameters where they overrule a default.
    #[must_use]
    pub fn as_stated(self, parameters: &Parameters) -> Self {
        // The kernel checks ACLs with the mode bits, or neither.
        let unchecked = parameters.unchecked_permissions && !parameters.enforce_acls;
        Self { default_permissions: self.default_permissions && !unchecked, ..self }
    }

    /// Applies `-o` lists in their order to the defaults.
    pub fn parse<'a>(
        lists: impl IntoIterator<Item = &'a str>,
        is_root: bool,
    ) -> Result<Self, OptionError> {
        let mut options = Self::defaults(is_root);
        let mut allow_other_asked = false;
        for option in lists.into_iter().flat_map(|list| list.split(',')) {
            if option.is_empty() || FOREIGN_PREFIXES.iter().any(|p| option.starts_with(p)) {
                continue;
            }
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            if CONTRADICTIONS.contains(&name) {
                return Err(OptionError::Contradiction { option: option.to_owned() });
            }
            let Some(&(_, effect)) = KNOWN.iter().find(|(known, _)| *known == name) else {
                return Err(OptionError::Unknown { option: option.to_owned() });
            };
            let malformed = |form| OptionError::Value { option: option.to_owned(), form };
            match (effect, value) {
                (Effect::FsName, Some(value)) if is_fs_name(value) => {
                    value.clone_into(&mut options.fs_name);
                }
                (Effect::FsName, _) => {
                    return Err(malformed("fsname=NAME, without blanks and control characters"));
                }
                (Effect::User | Effect::Group, value) => {
                    let number = value.and_then(|value| value.parse::<u32>().ok());
                    let number = number.ok_or_else(|| malformed("NAME=NUMBER"))?;
                    match effect {
                        Effect::User => options.uid = Some(number),
                        _ => options.gid = Some(number),
                    }
                }
                (_, Some(_)) => return Err(malformed("NAME, without a value")),
                (Effect::Nothing, None) => {}
                (Effect::SetUserId, None) => tracing::warn!(
                    "option cvmfs_suid: set-user-ID bits have no effect, the mount is always nosuid"
                ),
                (Effect::NoExec(noexec), None) => options.noexec = noexec,
                (Effect::AllowOther, None) => {
                    options.allow_other = true;
                    allow_other_asked = true;
                }
                (Effect::AllowRoot, None) => options.allow_root = true,
                (Effect::GrabMountpoint, None) => options.grab_mountpoint = true,
                (Effect::DefaultPermissions, None) => options.default_permissions = true,
            }
        }
        if options.allow_root {
            if allow_other_asked {
                return Err(OptionError::Exclusive);
            }
            options.allow_other = false;
        }
        Ok(options)
    }
}

/// The name stands in `/proc/mounts`, whose columns are separated by blanks.
fn is_fs_name(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_lists() {
        let user = MountOptions::defaults(false);
        let root = MountOptions::defaults(true);
        assert!(root.allow_other && !user.allow_other && user.default_permissions);
        assert_eq!(user.fs_name, "cvmfs2");
        let table: &[(&[&str], bool, MountOptions)] = &[
            (&[], false, user.clone()),
            (&["ro,nosuid,nodev,defaults,_netdev,noatime"], true, root.clone()),
            (&["defaults,,x-systemd.automount,comment=site"], true, root.clone()),
            (
                &["system_mount,uid=993,gid=990,grab_mountpoint"],
                true,
                MountOptions {
                    uid: Some(993),
                    gid: Some(990),
                    grab_mountpoint: true,
                    ..root.clone()
                },
            ),
            (&["noexec"], false, MountOptions { noexec: true, ..user.clone() }),
            (&["noexec", "exec"], false, user.clone()),
            (&["cvmfs_suid"], true, root.clone()),
            (&["allow_other"], false, MountOptions { allow_other: true, ..user.clone() }),
            (
                &["allow_root"],
                true,
                MountOptions { allow_root: true, allow_other: false, ..root.clone() },
            ),
            (&["fsname=x=y"], false, MountOptions { fs_name: "x=y".into(), ..user.clone() }),
        ];
        for (lists, is_root, expected) in table {
            let parsed = MountOptions::parse(lists.iter().copied(), *is_root);
            assert_eq!(parsed.as_ref(), Ok(expected), "{lists:?}");
        }
    }

    #[test]
    fn refused_lists_name_the_known_ones() {
        for (list, start) in [
            ("rw", "option \"rw\" contradicts the mount, which is always ro,nosuid,nodev; known"),
            ("ro,suid", "option \"suid\" contradicts"),
            ("dev", "option \"dev\" contradicts"),
            ("frobnicate", "unknown mount option \"frobnicate\"; known are ro, nosuid, nodev"),
            ("RO", "unknown mount option \"RO\""),
            ("config=/x", "unknown mount option \"config=/x\""),
            ("ro=1", "mount option \"ro=1\" must have the form NAME, without a value; known"),
            ("fsname", "mount option \"fsname\" must have the form fsname=NAME"),
            ("fsname=a b", "mount option \"fsname=a b\" must"),
            ("uid=root", "mount option \"uid=root\" must have the form NAME=NUMBER"),
        ] {
            let message = MountOptions::parse([list], true).unwrap_err().to_string();
            assert!(message.starts_with(start), "{list}: {message}");
            assert!(message.contains("fsname=NAME, defaults"), "{message}");
        }
        assert_eq!(
            MountOptions::parse(["allow_root,allow_other"], false),
            Err(OptionError::Exclusive)
        );
    }
}
