//! The user that rootless engines run as, with ids below it, as `adduser` gives them.

use std::path::Path;

use super::shell::Shell;

/// The id of the user.
pub const USER: u32 = 1001;
/// Its name.
pub(super) const NAME: &str = "engine";

/// For these namespaces only: the machine's files are covered.
const PREPARE: &str = r#"
cp /etc/passwd "$W/passwd"
cp /etc/group "$W/group"
echo "$NAME:x:$USER:$USER::/:/bin/sh" >>"$W/passwd"
echo "$NAME:x:$USER:" >>"$W/group"
echo "$NAME:100000:65536" >"$W/subuid"
cp "$W/subuid" "$W/subgid"
for file in passwd group subuid subgid; do
    [ -e "/etc/$file" ] || { echo "/etc/$file is missing: apt-get install uidmap" >&2; exit 1; }
    mount --bind "$W/$file" "/etc/$file"
done
"#;

/// Makes the user known in the present mount namespace.
///
/// # Panics
/// If a file is missing, with the package that has it.
pub(super) fn make(scratch: &Path) {
    let mut root = Shell::default();
    root.set("W", scratch);
    root.set("USER", USER.to_string());
    root.set("NAME", NAME);
    root.ok(PREPARE);
}
