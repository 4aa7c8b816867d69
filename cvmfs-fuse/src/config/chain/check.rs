//! What is wrong with a configuration, and what to do about it.

use std::path::Path;

use strsim::damerau_levenshtein;

use super::complete::quota;
use super::{Configuration, Origin, Value};
use crate::config::parameters::Parameters;

/// Letters that may differ between a name and the one that is meant.
const NEAR: usize = 3;

/// Something that people should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands, if it stands somewhere.
    pub origin: Option<Origin>,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub advice: String,
}

/// Parameters that are used elsewhere than by the table of `--set`.
const OURS: &[(&str, &str)] = &[
    ("CVMFS_SERVER_URL", "servers, `;` between them, with `@fqrn@` and `@org@`"),
    ("CVMFS_HTTP_PROXY", "proxies: groups by `;`, members by `|`; DIRECT, auto"),
    ("CVMFS_PUBLIC_KEY", "master keys, `:` between the files"),
    ("CVMFS_KEYS_DIR", "directory with master keys `*.pub`"),
    ("CVMFS_BLACKLIST", "blocklist of this machine"),
    ("CVMFS_ROOT_HASH", "fixed root catalog"),
    ("CVMFS_REPOSITORY_TAG", "fixed snapshot by its tag"),
    ("CVMFS_REPOSITORY_DATE", "fixed snapshot by its time"),
    ("CVMFS_CACHE_BASE", "cache: its folder `cvmfs-fuse`, for root and with `--config`"),
    ("CVMFS_CACHE_DIR", "the same, counts more"),
    ("CVMFS_ALIEN_CACHE", "cache in upstream's layout, never evicted"),
    ("CVMFS_QUOTA_LIMIT", "limit of the cache in MiB; -1: none"),
    ("CVMFS_STREAMING_CACHE", "the content of files is not stored"),
    ("CVMFS_REPOSITORIES", "repositories of a strict mount"),
    ("CVMFS_STRICT_MOUNT", "only those may be mounted"),
    ("CVMFS_DEFAULT_DOMAIN", "for names without a dot"),
    ("CVMFS_CONFIG_REPOSITORY", "repository with more configuration; read where it is mounted"),
    ("CVMFS_CONFIG_REPO_REQUIRED", "no mount without it"),
    ("CVMFS_CLIENT_PROFILE", "`single`: proxies are found, or none used"),
    ("CVMFS_USE_CDN", "which of the built-in servers are used"),
    ("CVMFS_MOUNT_DIR", "where the configuration repository is mounted"),
    ("CVMFS_FQRN", "set by the program"),
];

/// Parameters that are understood and change nothing, with the reason.
pub const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("CVMFS_SHARED_CACHE", "the cache is always shared"),
    ("CVMFS_WORKSPACE", "no files of a running mount lie about"),
    ("CVMFS_CACHE_PRIMARY", "layers of the cache are chosen by flags"),
    ("CVMFS_CACHE_REFCOUNT", "descriptors are always shared"),
    ("CVMFS_SERVER_CACHE_MODE", "this is no server"),
    ("CVMFS_MEMCACHE_SIZE", "what is kept in memory has a bound of its own"),
    ("CVMFS_KCACHE_TIMEOUT", "the kernel keeps what it knows until it changes"),
    ("CVMFS_CACHE_SYMLINKS", "the kernel always keeps links"),
    ("CVMFS_STATFS_CACHE_TIMEOUT", "statfs is answered from memory"),
    ("CVMFS_CATALOG_WATERMARK", "open catalogs are bounded by the limit of descriptors"),
    ("CVMFS_NFILES", "the limit of descriptors is raised as far as it may be"),
    ("CVMFS_FUSE_NOTIFY_INVALIDATION", "the kernel is always told of changes"),
    ("CVMFS_FUSE3_MAX_THREADS", "threads follow the cores"),
    ("CVMFS_FUSE3_IDLE_THREADS", "threads follow the cores"),
    ("CVMFS_CHECK_PERMISSIONS", "the kernel always checks them"),
    ("CVMFS_ENFORCE_ACLS", "not supported yet: ACLs are shown and not enforced"),
    ("CVMFS_HIDE_MAGIC_XATTRS", "not supported yet"),
    ("CVMFS_MAGIC_XATTRS_VISIBILITY", "not supported yet"),
    ("CVMFS_XATTR_PROTECTED_XATTRS", "not supported yet"),
    ("CVMFS_XATTR_PRIVILEGED_GIDS", "not supported yet"),
    ("CVMFS_USER", "the server keeps the user who mounts"),
    ("CVMFS_RELOAD_SOCKETS", "'cvmfs-fuse upgrade' needs no socket"),
    ("CVMFS_BASE_ENV", "it only guards the packaged files"),
    ("CVMFS_CONFIG_REPO_DEFAULT_ENV", "it only guards the packaged files"),
    ("CVMFS_SYSTEMD_NOKILL", "not supported"),
    ("CVMFS_OOM_SCORE_ADJ", "not supported"),
    ("CVMFS_CPU_AFFINITY", "not supported; use taskset or the unit's CPUAffinity"),
    ("CVMFS_SUID", "mounts are always nosuid"),
    ("CVMFS_MOUNT_RW", "mounts are always read-only"),
    ("CVMFS_DNS_ROAMING", "/etc/resolv.conf is always followed"),
    ("CVMFS_USE_SSL_SYSTEM_CA", "the authorities of the system are always used"),
    ("CVMFS_SEND_INFO_HEADER", "nothing about users is sent"),
    ("CVMFS_HTTP_TRACING", "not supported"),
    ("CVMFS_HTTP_TRACING_HEADERS", "not supported"),
    ("CVMFS_TRACEFILE", "use 'cvmfs-fuse trace'"),
    ("CVMFS_TRACEBUFFER", "use 'cvmfs-fuse trace'"),
    ("CVMFS_TRACEBUFFER_THRESHOLD", "use 'cvmfs-fuse trace'"),
    ("CVMFS_INSTRUMENT_FUSE", "latencies are always counted"),
    ("CVMFS_NFS_SOURCE", "inode numbers are always stable"),
    ("CVMFS_NFS_SHARED", "inode numbers are always stable"),
    ("CVMFS_NFS_INTERLEAVED_INODES", "inode numbers are always stable"),
    ("CVMFS_INITIAL_GENERATION", "for tests of upstream"),
    ("CVMFS_ALT_ROOT_PATH", "not supported"),
    ("CVMFS_AUTHZ_HELPER", "repositories for members are not supported"),
    ("CVMFS_AUTHZ_SEARCH_PATH", "repositories for members are not supported"),
    ("CVMFS_NOTIFICATION_SERVER", "not supported; new revisions are looked for"),
    ("CVMFS_IGNORE_SIGNATURE", "signatures are always checked"),
    ("CVMFS_TRUSTED_CERTS", "not read by upstream either"),
    ("CVMFS_PROXY_SHARDING_POLICY", "a placeholder of upstream"),
    ("CVMFS_ARCH", "set by the program"),
];

/// Returns all parameters as the table of docs/parameters.md.
pub fn table() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("| parameter | what it does |\n|---|---|\n");
    let escaped = |help: &str| help.replace('|', "\\|");
    for (name, help) in OURS {
        let _ = writeln!(text, "| `{name}` | {} |", escaped(help));
    }
    for (name, form, help) in Parameters::table() {
        let _ = writeln!(text, "| `{name}` | {}: {} |", escaped(form), escaped(help));
    }
    text.push_str("\n| understood, without effect | why |\n|---|---|\n");
    for (name, why) in WITHOUT_EFFECT {
        let _ = writeln!(text, "| `{name}` | {} |", escaped(why));
    }
    text
}

/// Returns the names of all parameters that are understood.
pub fn known() -> impl Iterator<Item = &'static str> {
    let pairs = OURS.iter().chain(WITHOUT_EFFECT).map(|(name, _)| *name);
    pairs.chain(Parameters::names())
}

/// Looks at everything that was read.
pub fn examine(configuration: &Configuration) -> Vec<Finding> {
    let mut findings: Vec<_> = configuration
        .remarks
        .iter()
        .map(|remark| Finding {
            origin: Some(remark.origin.clone()),
            text: remark.text.clone(),
            advice: "rewrite or remove it".to_owned(),
        })
        .collect();
    for (name, value) in &configuration.values {
        if let Some((text, advice)) = judge(configuration, name, value) {
            findings.push(Finding { origin: value.origin.clone(), text, advice });
        }
    }
    if let Some(name) = &configuration.missing_repository {
        let origin = configuration.get("CVMFS_CONFIG_REPOSITORY").and_then(|v| v.origin.clone());
        findings.push(Finding {
            origin,
            text: format!("the configuration repository {name} is not mounted"),
            advice: format!("cvmfs-fuse mount {name} /cvmfs/{name}, if its settings are wanted"),
        });
    }
    findings
}

/// Says what is wrong with a parameter, and what to do.
fn judge(
    configuration: &Configuration,
    name: &str,
    Value { text, .. }: &Value,
) -> Option<(String, String)> {
    if !name.starts_with("CVMFS_") || text.is_empty() {
        return None;
    }
    let bad = |what: String, advice: &str| Some((what, advice.to_owned()));
    if Parameters::names().any(|known| known == name) {
        let form = Parameters::parse([format!("{name}={text}").as_str()]).err()?;
        return bad(format!("{name}={text} is not understood"), &form.message);
    }
    match name {
        "CVMFS_HTTP_PROXY" => {
            let proxies = text.split([';', '|']).map(str::trim).filter(|proxy| !proxy.is_empty());
            let bare = proxies
                .into_iter()
                .find(|proxy| !proxy.contains("://") && !["DIRECT", "auto"].contains(proxy))?;
            bad(format!("the proxy {bare} has no scheme"), &format!("write http://{bare}"))
        }
        "CVMFS_SERVER_URL" if !text.contains("://") => {
            bad(format!("the server {text} has no scheme"), "write http://HOST/cvmfs/@fqrn@")
        }
        "CVMFS_PUBLIC_KEY" => {
            let missing = text.split(':').find(|file| std::fs::File::open(file).is_err())?;
            bad(format!("the key {missing} cannot be read"), "install it, or correct the path")
        }
        "CVMFS_KEYS_DIR" if !Path::new(text).is_dir() => {
            bad(format!("{text} is no directory"), "install the keys, or correct the path")
        }
        "CVMFS_QUOTA_LIMIT" => {
            let Some(limit) = quota(text) else {
                return bad(
                    format!("CVMFS_QUOTA_LIMIT={text} is no limit"),
                    "give a number of megabytes, or -1 for none",
                );
            };
            let bytes = cvmfs_cache::parse_size(&limit)?;
            let base = configuration.text("CVMFS_CACHE_DIR");
            let base =
                base.or_else(|| configuration.text("CVMFS_CACHE_BASE")).unwrap_or("/var/lib");
            // It is made by the first mount.
            let present = Path::new(base).ancestors().find(|path| path.exists())?;
            let found = rustix::fs::statvfs(present).ok()?;
            (bytes > found.f_blocks.saturating_mul(found.f_frsize)).then(|| {
                (
                    format!("CVMFS_QUOTA_LIMIT={text} is more than the partition of {base} has"),
                    "give less; 70 % of the partition is the most that is sensible".to_owned(),
                )
            })
        }
        _ if OURS.iter().any(|known| known.0 == name)
            || WITHOUT_EFFECT.iter().any(|known| known.0 == name) =>
        {
            None
        }
        // These belong to others: helpers, plugins, tools, and the defaults of packages.
        _ if ["CVMFS_AUTHZ_", "CVMFS_CACHE_"].iter().any(|prefix| name.starts_with(prefix)) => None,
        _ => {
            let known = Parameters::names()
                .chain(OURS.iter().map(|known| known.0))
                .chain(WITHOUT_EFFECT.iter().map(|known| known.0));
            let near = known
                .map(|known| (damerau_levenshtein(known, name), known))
                .min()
                .filter(|(distance, _)| *distance <= NEAR);
            let advice = match near {
                Some((_, known)) => format!("{known} is meant?"),
                None => "it is only known to links such as $(NAME)".to_owned(),
            };
            Some((format!("{name} is unknown"), advice))
        }
    }
}
