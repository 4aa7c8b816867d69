//! What a configuration repository may say and read.
//!
//! Its files come from the network, at any time, and are evaluated on each machine that names the repository. They
//! say where repositories come from and who signs them. They cannot take away what the files of the machine say
//! about keys, blocklists and proxies, and they see none of its values but the ones of [`READABLE`].

use crate::config::parameters::table;

/// Values of the machine that files of a configuration repository may expand: what known ones decide by. Every
/// other value of the machine is empty for them. Values that they set themselves they may read, too.
pub(crate) const READABLE: &[&str] = &[
    "CVMFS_FQRN",
    "CVMFS_MOUNT_DIR",
    "CVMFS_CONFIG_REPOSITORY",
    "CVMFS_CONFIG_REPO_REQUIRED",
    "CVMFS_CONFIG_REPO_DEFAULT_ENV",
    "CVMFS_CLIENT_PROFILE",
    "CVMFS_USE_CDN",
    "CVMFS_USE_GEOAPI",
    "CVMFS_STRICT_MOUNT",
    "CVMFS_DEFAULT_DOMAIN",
    "CVMFS_BASE_ENV",
];

/// What becomes of a value of a configuration repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It takes its turn in the order of the files.
    InTurn(Form),
    /// It holds where no file of the machine says anything, not even that it is empty.
    WhereUnset(Form),
    /// It is added to what the machine has.
    Added,
}

/// How a value of a configuration repository must look, beyond what the parameter itself demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Any,
    /// URLs of http and https, with `;` between them: a file of the machine is none of its servers.
    Urls,
    /// A number from 0 to this.
    UpTo(u64),
}

/// Longest time limit in seconds that a configuration repository may set: above it a read hangs for minutes.
const MAX_TIMEOUT: u64 = 300;
/// Most repetitions of a transfer that a configuration repository may set.
const MAX_RETRIES: u64 = 10;
/// Longest time in seconds until the first server or proxy is tried again.
const MAX_RESET: u64 = 86_400;
/// Highest rate in bytes per second below which a transfer may be given up.
const MAX_LOW_SPEED: u64 = 64 << 10;
/// Most servers, or addresses of a proxy.
const MAX_COUNT: u64 = 1000;

/// Returns what becomes of a parameter, or of a variable for links, that a configuration repository sets; `None` if
/// it may not.
pub(crate) fn standing(name: &str) -> Option<Standing> {
    use Form::{Any, UpTo, Urls};
    use Standing::{Added, InTurn, WhereUnset};
    let Some(known) = table::find(name) else {
        // Variables for links: those of the site are the site's.
        let is_ours = name.starts_with("CVMFS_") || name.starts_with('_');
        return (!is_ours).then_some(WhereUnset(Any));
    };
    if !known.harmless {
        return None;
    }
    Some(match name {
        "CVMFS_PUBLIC_KEY" | "CVMFS_KEYS_DIR" => Added,
        // The narrower file counts, as with `cvmfs2`: what servers send is verified.
        "CVMFS_SERVER_URL" => InTurn(Urls),
        "CVMFS_TIMEOUT"
        | "CVMFS_TIMEOUT_DIRECT"
        | "CVMFS_BACKOFF_INIT"
        | "CVMFS_BACKOFF_MAX"
        | "CVMFS_EXTERNAL_TIMEOUT"
        | "CVMFS_EXTERNAL_TIMEOUT_DIRECT" => InTurn(UpTo(MAX_TIMEOUT)),
        "CVMFS_LOW_SPEED_LIMIT" => InTurn(UpTo(MAX_LOW_SPEED)),
        "CVMFS_MAX_RETRIES" => InTurn(UpTo(MAX_RETRIES)),
        "CVMFS_HOST_RESET_AFTER" | "CVMFS_PROXY_RESET_AFTER" => InTurn(UpTo(MAX_RESET)),
        "CVMFS_USE_GEOAPI" | "CVMFS_SEND_INFO_HEADER" | "CVMFS_CONFIG_REPO_DEFAULT_ENV" => {
            InTurn(Any)
        }
        "CVMFS_MAX_SERVERS" | "CVMFS_EXTERNAL_MAX_SERVERS" | "CVMFS_MAX_IPADDR_PER_PROXY" => {
            WhereUnset(UpTo(MAX_COUNT))
        }
        "CVMFS_EXTERNAL_URL" | "CVMFS_PAC_URLS" => WhereUnset(Urls),
        // Through whom the machine speaks, where redirects lead it, how old it may be: the site decides.
        _ => WhereUnset(Any),
    })
}

impl Form {
    /// Says what is wrong with a value.
    pub(super) fn refuse(self, text: &str) -> Result<(), String> {
        match self {
            Self::Any => Ok(()),
            Self::Urls => {
                let urls = text.split(';').map(str::trim);
                let strange = urls.into_iter().find(|url| !is_of_network(url));
                strange.map_or(Ok(()), |_| {
                    Err("names something else than http:// and https://".to_owned())
                })
            }
            Self::UpTo(most) => match text.trim().parse::<u64>() {
                Ok(number) if number <= most => Ok(()),
                Ok(_) => Err(format!("is more than {most}")),
                Err(_) if text.is_empty() => Ok(()),
                Err(_) => Err("is no number".to_owned()),
            },
        }
    }
}

fn is_of_network(url: &str) -> bool {
    let begins = |scheme: &str| {
        url.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    };
    url.is_empty() || url == "auto" || begins("http://") || begins("https://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h7_nothing_of_the_machine_is_for_a_configuration_repository_to_replace() {
        for name in [
            "CVMFS_BLACKLIST",
            "CVMFS_USER",
            "CVMFS_CACHE_BASE",
            "CVMFS_TALK_SOCKET",
            "CVMFS_DEBUGLOG",
            "CVMFS_UID_MAP",
            "CVMFS_ROOT_HASH",
            "CVMFS_CONFIG_REPOSITORY",
            "CVMFS_MOUNT_DIR",
            "X509_CERT_BUNDLE",
            "CVMFS_NEW_AND_UNKNOWN",
            "_x",
        ] {
            assert_eq!(standing(name), None, "{name}");
        }
        for name in [
            "CVMFS_HTTP_PROXY",
            "CVMFS_FALLBACK_PROXY",
            "CVMFS_EXTERNAL_HTTP_PROXY",
            "CVMFS_EXTERNAL_FALLBACK_PROXY",
            "CVMFS_PAC_URLS",
            "CVMFS_MAX_TTL",
            "CVMFS_FOLLOW_REDIRECTS",
            "CVMFS_CLIENT_PROFILE",
            "CMS_LOCAL_SITE",
        ] {
            assert!(matches!(standing(name), Some(Standing::WhereUnset(_))), "{name}");
        }
        assert_eq!(standing("CVMFS_KEYS_DIR"), Some(Standing::Added));
        // No secret among what may be read: none may be set to a URL, a file or a word of one's own.
        assert!(READABLE.iter().all(|name| name.starts_with("CVMFS_") && !name.contains("PROXY")));
        assert!(!READABLE.iter().any(|name| name.contains("URL") || name.contains("KEY")));
    }

    #[test]
    fn h7_values_of_a_configuration_repository_have_bounds() {
        for (form, good, bad) in [
            (Form::Urls, "http://a/b;HTTPS://c; ;auto", "http://a;file:///etc"),
            (Form::Urls, "", "FILE:///dev"),
            (Form::UpTo(10), "10", "11"),
            (Form::UpTo(10), "", "-1"),
            (Form::UpTo(10), "0", "99999999999999999999999"),
        ] {
            assert_eq!(form.refuse(good), Ok(()));
            assert!(form.refuse(bad).is_err(), "{bad}");
        }
    }
}
