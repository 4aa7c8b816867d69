//! Parameters: what is kept on disk and in memory.

use super::switch;
use super::table::{By, Need, Parameter, none};

/// Section 3 of spec/config.md, in the order of help.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "CVMFS_CACHE_BASE",
        form: "DIR",
        default: "",
        need: Need::Must,
        harmless: false,
        help: "cache: its folder `cvmfs-fuse`, for root and with `--config`",
        by: By::Flag("--cache-dir"),
    },
    Parameter {
        name: "CVMFS_CACHE_DIR",
        form: "DIR",
        default: "",
        need: Need::Common,
        harmless: false,
        help: "the same, counts more",
        by: By::Flag("--cache-dir"),
    },
    Parameter {
        name: "CVMFS_ALIEN_CACHE",
        form: "DIR",
        default: "",
        need: Need::Common,
        harmless: false,
        help: "cache in upstream's layout, never evicted",
        by: By::Flag("--alien-cache"),
    },
    Parameter {
        name: "CVMFS_QUOTA_LIMIT",
        form: "MEGABYTES",
        default: "",
        need: Need::Must,
        harmless: false,
        help: "limit of the cache in MiB; -1: none",
        by: By::Flag("--quota"),
    },
    Parameter {
        name: "CVMFS_STREAMING_CACHE",
        form: "yes|no",
        default: "no",
        need: Need::Rare,
        harmless: false,
        help: "the content of files is not stored",
        by: By::Flag("--streaming-cache"),
    },
    none("CVMFS_SHARED_CACHE", Need::Must, "the cache is always shared"),
    none("CVMFS_WORKSPACE", Need::Common, "no files of a running mount lie about"),
    none("CVMFS_CACHE_PRIMARY", Need::Rare, "layers of the cache are chosen by flags"),
    none("CVMFS_CACHE_REFCOUNT", Need::Rare, "descriptors are always shared"),
    Parameter {
        name: "CVMFS_CACHE_SERVER_MODE",
        form: "yes|no",
        default: "no",
        need: Need::Rare,
        harmless: false,
        help: "links are shown as they are stored, without replacing $(NAME): for the read-only \
               mount of a publisher",
        by: By::Set(|p, v| switch(v).map(|v| p.stored_links = v)),
    },
    Parameter {
        name: "CVMFS_SERVER_CACHE_MODE",
        form: "yes|no",
        default: "no",
        need: Need::Rare,
        harmless: false,
        help: "older name of CVMFS_CACHE_SERVER_MODE",
        by: By::Set(|p, v| switch(v).map(|v| p.stored_links = v)),
    },
    none("CVMFS_MEMCACHE_SIZE", Need::Common, "what is kept in memory has a bound of its own"),
    none("CVMFS_KCACHE_TIMEOUT", Need::Common, "the kernel keeps what it knows until it changes"),
    none("CVMFS_CACHE_SYMLINKS", Need::Rare, "the kernel always keeps links"),
    none("CVMFS_STATFS_CACHE_TIMEOUT", Need::Rare, "statfs is answered from memory"),
    none(
        "CVMFS_CATALOG_WATERMARK",
        Need::Rare,
        "open catalogs are bounded by the limit of descriptors",
    ),
    none("CVMFS_NFS_SOURCE", Need::Common, "inode numbers are always stable"),
    none("CVMFS_NFS_SHARED", Need::Rare, "inode numbers are always stable"),
    none("CVMFS_NFS_INTERLEAVED_INODES", Need::Rare, "inode numbers are always stable"),
    none("CVMFS_INITIAL_GENERATION", Need::Rare, "for tests of upstream"),
];
