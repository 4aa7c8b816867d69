//! Parameters: which repositories, which snapshot of them, and who signed it.

use std::time::Duration;

use super::OfflineLimit;
use super::table::{By, Need, Parameter, none};
use super::values::switch;

/// Section 3 of spec/config.md, in the order of help.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "CVMFS_PUBLIC_KEY",
        form: "FILE[:FILE...]",
        default: "",
        need: Need::Must,
        harmless: true,
        help: "master keys, `:` between the files",
        by: By::Flag("--public-key"),
    },
    Parameter {
        name: "CVMFS_KEYS_DIR",
        form: "DIR",
        default: "",
        need: Need::Must,
        harmless: true,
        help: "directory with master keys `*.pub`",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_BLACKLIST",
        form: "FILE",
        default: "",
        need: Need::Common,
        // Its own blocklist is read anyway, and only adds to that of the machine.
        harmless: false,
        help: "blocklist of this machine",
        by: By::Files,
    },
    Parameter {
        name: "CVMFS_ROOT_HASH",
        form: "HASH",
        default: "",
        need: Need::Common,
        harmless: false,
        help: "fixed root catalog",
        by: By::Flag("--root-hash"),
    },
    Parameter {
        name: "CVMFS_REPOSITORY_TAG",
        form: "NAME",
        default: "",
        need: Need::Common,
        harmless: false,
        help: "fixed snapshot by its tag",
        by: By::Flag("--tag"),
    },
    Parameter {
        name: "CVMFS_REPOSITORY_DATE",
        form: "RFC3339",
        default: "",
        need: Need::Common,
        harmless: false,
        help: "fixed snapshot by its time",
        by: By::Flag("--date"),
    },
    Parameter {
        name: "CVMFS_MAX_TTL",
        form: "MINUTES",
        default: "0",
        need: Need::Common,
        harmless: true,
        help: "longest time between two looks for a new revision; 0: the repository decides",
        by: By::Set(|p, v| {
            let minutes: u32 = v.parse().ok()?;
            p.max_ttl = (minutes > 0).then(|| Duration::from_secs(u64::from(minutes) * 60));
            Some(())
        }),
    },
    Parameter {
        name: "CVMFS_FUSE_OFFLINE_LIMIT",
        form: "DAYS|never",
        default: "30",
        need: Need::Own,
        harmless: false,
        help: "days after the expiry of its whitelist for which a cached repository is shown while no server gives a newer one; never: without a bound",
        by: By::Set(|p, v| {
            p.offline_limit = match v {
                "never" => OfflineLimit(None),
                days => OfflineLimit::days(days.parse::<u32>().ok()?.into()),
            };
            Some(())
        }),
    },
    Parameter {
        name: "CVMFS_AUTO_UPDATE",
        form: "yes|no",
        default: "yes",
        need: Need::Common,
        harmless: false,
        help: "follow new revisions",
        by: By::Set(|p, v| switch(v).map(|v| p.auto_update = Some(v))),
    },
    none("CVMFS_ALT_ROOT_PATH", Need::Rare, "not supported"),
    none("CVMFS_AUTHZ_HELPER", Need::Rare, "repositories for members are not supported"),
    none("CVMFS_AUTHZ_SEARCH_PATH", Need::Rare, "repositories for members are not supported"),
    none("CVMFS_NOTIFICATION_SERVER", Need::Rare, "not supported; new revisions are looked for"),
    none("CVMFS_IGNORE_SIGNATURE", Need::Rare, "signatures are always checked"),
    none("CVMFS_TRUSTED_CERTS", Need::Rare, "not read by upstream either"),
];
