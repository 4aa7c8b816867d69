//! Parameters: who uses a repository and how, and how it is talked to.

use std::path::PathBuf;

use super::table::{By, Need, Parameter, none};
use super::values::{most_inodes, switch, user_number};
use crate::sandbox::CallFilter;

/// Below this no repository can be opened: catalogs, connections and workers need some.
const LEAST_FILES: u64 = 256;

/// Section 3 of spec/config.md, in the order of help.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "CVMFS_REPOSITORIES",
        form: "FQRN[,FQRN...]",
        default: "",
        need: Need::Must,
        harmless: false,
        help: "repositories of a strict mount",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_STRICT_MOUNT",
        form: "yes|no",
        default: "no",
        need: Need::Must,
        harmless: false,
        help: "only those may be mounted",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_DEFAULT_DOMAIN",
        form: "DOMAIN",
        default: "",
        need: Need::Must,
        harmless: false,
        help: "for names without a dot",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_CONFIG_REPOSITORY",
        form: "FQRN",
        default: "",
        need: Need::Must,
        harmless: false,
        help: "repository with more configuration; read by ourselves where it is not mounted",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_CONFIG_REPO_REQUIRED",
        form: "yes|no",
        default: "no",
        need: Need::Common,
        harmless: false,
        help: "no mount without it",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_CLIENT_PROFILE",
        form: "NAME",
        default: "",
        need: Need::Common,
        harmless: true,
        help: "`single`: proxies are found, or none used",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_USE_CDN",
        form: "yes|no",
        default: "",
        need: Need::Common,
        harmless: true,
        help: "which of the built-in servers are used",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_MOUNT_DIR",
        form: "DIR",
        default: "/cvmfs",
        need: Need::Must,
        harmless: false,
        help: "where the configuration repository is mounted",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_FQRN",
        form: "FQRN",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "set by the program",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_FUSE_PASSTHROUGH",
        form: "yes|no",
        default: "no",
        need: Need::Own,
        harmless: false,
        help: "the kernel reads cached files without the server: for few large files; needs \
               CAP_SYS_ADMIN, Linux 6.9 and a cache that nobody else can write to",
        by: By::Set(|p, v| switch(v).map(|v| p.pass_through = v)),
    },
    Parameter {
        name: "CVMFS_FUSE_MAX_INODES",
        form: "COUNT",
        default: "200000",
        need: Need::Own,
        harmless: false,
        help: "entries of a repository that the kernel may know; above, it is asked to let go of \
               the longest unused; 0: any number, else 1000 at least",
        by: By::Set(|p, v| most_inodes(v).map(|v| p.most_inodes = v)),
    },
    Parameter {
        name: "CVMFS_FUSE_SECCOMP",
        form: "yes|no|log",
        default: "",
        need: Need::Own,
        harmless: false,
        help: "system calls that the server does not need are refused (seccomp) [as far as the \
               kernel can]; yes: or the mount fails; log: the kernel only logs them; no: not",
        by: By::Set(|p, v| CallFilter::parse(v).map(|v| p.process.calls = v)),
    },
    Parameter {
        name: "CVMFS_CLAIM_OWNERSHIP",
        form: "yes|no",
        default: "no",
        need: Need::Must,
        harmless: false,
        help: "all files belong to the user and group of the server",
        by: By::Set(|p, v| switch(v).map(|v| p.claim_ownership = v)),
    },
    Parameter {
        name: "CVMFS_ENFORCE_ACLS",
        form: "yes|no",
        default: "no",
        need: Need::Rare,
        harmless: false,
        help: "the kernel enforces POSIX ACLs that are stored with files",
        by: By::Set(|p, v| switch(v).map(|v| p.enforce_acls = v)),
    },
    Parameter {
        name: "CVMFS_UID_MAP",
        form: "FILE",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "whom files belong to here: lines FROM TO, * for all others; not with the former",
        by: By::Set(|p, v| (!v.is_empty()).then(|| p.uid_map = Some(v.into()))),
    },
    Parameter {
        name: "CVMFS_GID_MAP",
        form: "FILE",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "the same for groups",
        by: By::Set(|p, v| (!v.is_empty()).then(|| p.gid_map = Some(v.into()))),
    },
    Parameter {
        name: "CVMFS_WORLD_READABLE",
        form: "yes|no",
        default: "no",
        need: Need::Rare,
        harmless: false,
        help: "everybody may read everything",
        by: By::Set(|p, v| switch(v).map(|v| p.world_readable = v)),
    },
    Parameter {
        name: "CVMFS_TALK_SOCKET",
        form: "FILE",
        default: "",
        need: Need::Common,
        harmless: false,
        help: "control socket of a mount [cvmfs_io.FQRN in the cache directory]",
        by: By::Set(|p, v| {
            let path = PathBuf::from(v);
            path.is_absolute().then(|| p.talk_socket = Some(path))
        }),
    },
    Parameter {
        name: "CVMFS_TALK_OWNER",
        form: "USER",
        default: "",
        need: Need::Common,
        harmless: false,
        help: "who may use it besides root and the user who mounts [nobody]",
        by: By::Set(|p, v| user_number(v).map(|uid| p.talk_owner = Some(uid))),
    },
    Parameter {
        name: "CVMFS_USER",
        form: "USER",
        default: "",
        need: Need::Must,
        harmless: false,
        help: "as whom the server works that root starts [root]",
        by: By::Set(|p, v| (!v.trim().is_empty()).then(|| p.user = Some(v.trim().to_owned()))),
    },
    Parameter {
        name: "CVMFS_CHECK_PERMISSIONS",
        form: "yes|no",
        default: "yes",
        need: Need::Must,
        harmless: false,
        help: "the kernel checks mode bits; no: whoever may enter may read everything",
        by: By::Set(|p, v| switch(v).map(|v| p.unchecked_permissions = !v)),
    },
    Parameter {
        name: "CVMFS_NFILES",
        form: "COUNT",
        default: "",
        need: Need::Must,
        harmless: false,
        help: "files that the server may have open, as far as the system allows [131072]",
        by: By::Set(|p, v| {
            let count = v.parse().ok().filter(|count| *count >= LEAST_FILES)?;
            p.process.open_files = Some(count);
            Some(())
        }),
    },
    Parameter {
        name: "CVMFS_OOM_SCORE_ADJ",
        form: "NUMBER",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "from -1000 to 1000: how early the server goes when memory is short; below 0 takes root",
        by: By::Set(|p, v| {
            let score = v.parse().ok().filter(|score| (-1000..=1000).contains(score))?;
            p.process.oom_score = Some(score);
            Some(())
        }),
    },
    Parameter {
        name: "CVMFS_FUSE_CORE_DUMPS",
        form: "yes|no",
        default: "no",
        need: Need::Own,
        harmless: false,
        help: "a server that crashes may leave a core dump; with what is in its memory, such as passwords of proxies",
        by: By::Set(|p, v| switch(v).map(|v| p.process.core_dumps = v)),
    },
    Parameter {
        name: "CVMFS_CPU_AFFINITY",
        form: "CPU[,CPU...]",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "processors that the server may use",
        by: By::Set(|p, v| {
            let numbers = v.split(',').map(|number| number.trim().parse().ok());
            p.process.processors = numbers.collect::<Option<Vec<usize>>>()?;
            Some(())
        }),
    },
    none("CVMFS_FUSE_NOTIFY_INVALIDATION", Need::Rare, "the kernel is always told of changes"),
    none("CVMFS_FUSE3_MAX_THREADS", Need::Rare, "threads follow the cores"),
    none("CVMFS_FUSE3_IDLE_THREADS", Need::Rare, "threads follow the cores"),
    none("CVMFS_RELOAD_SOCKETS", Need::Must, "'cvmfs-fuse upgrade' needs no socket"),
    none("CVMFS_BASE_ENV", Need::Rare, "it only guards the packaged files"),
    none("CVMFS_CONFIG_REPO_DEFAULT_ENV", Need::Must, "it only guards the packaged files")
        .harmless(),
    none("CVMFS_SYSTEMD_NOKILL", Need::Rare, "not supported"),
    none("CVMFS_SUID", Need::Common, "mounts are always nosuid"),
    none("CVMFS_MOUNT_RW", Need::Rare, "mounts are always read-only"),
    none("CVMFS_ARCH", Need::Rare, "set by the program"),
];
