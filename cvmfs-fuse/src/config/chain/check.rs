//! What is wrong with a configuration, and what to do about it.

use std::path::Path;

use super::complete::quota;
use super::{Configuration, Missing, Origin, Value};
use crate::config::parameters::table::{self, By};
use crate::config::parameters::{Parameters, switch};

/// Something that people should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands, if it stands somewhere.
    pub origin: Option<Origin>,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub advice: String,
    /// What is meant will not be done.
    pub is_error: bool,
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
            is_error: false,
        })
        .collect();
    for (name, value) in &configuration.values {
        if let Some((text, advice)) = judge(configuration, name, value) {
            // A name that is only unknown may be somebody else's.
            let is_error = table::find(name).is_some();
            findings.push(Finding { origin: value.origin.clone(), text, advice, is_error });
        }
    }
    if let Some(Missing { name, why, exceeds }) = &configuration.missing_repository {
        let origin = configuration.get("CVMFS_CONFIG_REPOSITORY").and_then(|v| v.origin.clone());
        let (text, advice) = match exceeds {
            true => (
                format!("the configuration repository {name} is left out: {why}"),
                "tell those who keep it".to_owned(),
            ),
            false => (
                format!(
                    "the configuration repository {name} is not mounted, and cannot be read: {why}"
                ),
                format!("'cvmfs-fuse ls {name}:/etc/cvmfs' must work, if its settings are wanted"),
            ),
        };
        let is_error = configuration.is_on("CVMFS_CONFIG_REPO_REQUIRED");
        findings.push(Finding { origin, text, advice, is_error });
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
    let known = table::find(name);
    if known.is_some_and(|known| matches!(known.by, By::Set(_))) {
        let form = Parameters::parse([format!("{name}={text}").as_str()]).err()?;
        return bad(format!("{name}={text} is not understood"), &form.message);
    }
    if known.is_some_and(|known| known.form == "yes|no") && switch(text).is_none() {
        return bad(
            format!("{name}={text} is neither yes nor no, and counts as no"),
            "write yes or no",
        );
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
            let missing =
                text.split(':').find(|file| configuration.key(Path::new(file)).is_err())?;
            bad(format!("the key {missing} cannot be read"), "install it, or correct the path")
        }
        "CVMFS_KEYS_DIR" if !configuration.is_directory(Path::new(text)) => {
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
        _ if known.is_some() => None,
        // These belong to others: helpers, plugins, tools, and the defaults of packages.
        _ if ["CVMFS_AUTHZ_", "CVMFS_CACHE_"].iter().any(|prefix| name.starts_with(prefix)) => None,
        _ => {
            let advice = match table::nearest(name) {
                Some(known) => format!("{known} is meant?"),
                None => "it is only known to links such as $(NAME)".to_owned(),
            };
            Some((format!("{name} is unknown"), advice))
        }
    }
}
