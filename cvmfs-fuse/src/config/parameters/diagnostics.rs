//! Parameters: diagnostics.

use super::table::{By, Need, Parameter, none};
use super::values::switch;
use crate::fs::exposure::Visibility;

/// Section 3 of spec/config.md, in the order of help.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "CVMFS_HIDE_MAGIC_XATTRS",
        form: "yes|no",
        default: "",
        need: Need::Common,
        harmless: false,
        help: "older: yes is never, no is always; the next one wins",
        by: By::Set(|p, v| switch(v).map(|v| p.hide_attributes = Some(v))),
    },
    Parameter {
        name: "CVMFS_MAGIC_XATTRS_VISIBILITY",
        form: "never|rootonly|always",
        default: "",
        need: Need::Common,
        harmless: false,
        help: "where attributes about the mount are listed; read by name they can be everywhere \
               [rootonly]",
        by: By::Set(|p, v| Visibility::parse(v).map(|v| p.visibility = Some(v))),
    },
    Parameter {
        name: "CVMFS_XATTR_PROTECTED_XATTRS",
        form: "NAME[,NAME...]",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "attributes that only these groups read, and group 0",
        by: By::Set(|p, v| {
            p.protected_attributes = items(v).map(str::to_owned).collect();
            (!p.protected_attributes.is_empty()).then_some(())
        }),
    },
    Parameter {
        name: "CVMFS_XATTR_PRIVILEGED_GIDS",
        form: "GID[,GID...]",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "numbers of these groups; the primary group of the reader counts",
        by: By::Set(|p, v| {
            p.privileged_groups = items(v).map(|gid| gid.parse().ok()).collect::<Option<_>>()?;
            (!p.privileged_groups.is_empty()).then_some(())
        }),
    },
    none("CVMFS_TRACEFILE", Need::Rare, "use 'cvmfs-fuse trace'"),
    none("CVMFS_TRACEBUFFER", Need::Rare, "use 'cvmfs-fuse trace'"),
    none("CVMFS_TRACEBUFFER_THRESHOLD", Need::Rare, "use 'cvmfs-fuse trace'"),
    none("CVMFS_INSTRUMENT_FUSE", Need::Rare, "latencies are always counted"),
];

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}
