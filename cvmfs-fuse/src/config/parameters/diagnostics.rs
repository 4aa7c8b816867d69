//! Parameters: diagnostics.

use super::table::{Need, Parameter, none};

/// Section 3 of spec/config.md, in the order of help.
pub(super) const PARAMETERS: &[Parameter] = &[
    none("CVMFS_HIDE_MAGIC_XATTRS", Need::Common, "not supported yet"),
    none("CVMFS_MAGIC_XATTRS_VISIBILITY", Need::Common, "not supported yet"),
    none("CVMFS_XATTR_PROTECTED_XATTRS", Need::Rare, "not supported yet"),
    none("CVMFS_XATTR_PRIVILEGED_GIDS", Need::Rare, "not supported yet"),
    none("CVMFS_TRACEFILE", Need::Rare, "use 'cvmfs-fuse trace'"),
    none("CVMFS_TRACEBUFFER", Need::Rare, "use 'cvmfs-fuse trace'"),
    none("CVMFS_TRACEBUFFER_THRESHOLD", Need::Rare, "use 'cvmfs-fuse trace'"),
    none("CVMFS_INSTRUMENT_FUSE", Need::Rare, "latencies are always counted"),
];
