//! `cache evict PATH|HASH`.

use cvmfs_core::hash::ContentHash;
use indicatif::BinaryBytes;

use super::print;
use crate::cli::args::CacheEvictArgs;
use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::{complain, read, runtime};
use crate::config::{CacheSettings, Environment};

/// Removes the objects of each target.
pub(super) fn run(args: &CacheEvictArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    let settings = CacheSettings::resolve(&args.repository.cache, environment)?;
    let cache = settings.open_directory()?;
    let (mut objects, mut bytes, mut status) = (0_u64, 0_u64, ExitStatus::Ok);
    let broken = |error: cvmfs_core::cache::CacheError| {
        Failure::caused(ExitStatus::CacheDirectory, "cannot evict", &error)
    };
    for text in &args.targets {
        let hash = text.to_str().and_then(parse_hash);
        let sizes = match hash {
            Some(hash) => cache.evict_hash(hash).map_err(broken)?,
            None => {
                let ids =
                    runtime()?.block_on(read::content_of(&args.repository, environment, text));
                let mut sizes = Vec::new();
                for id in ids? {
                    sizes.extend(cache.evict(&id).map_err(broken)?);
                }
                sizes
            }
        };
        if sizes.is_empty() {
            let message = format!("{}: not in the cache", text.to_string_lossy());
            complain(&Failure::new(ExitStatus::Unknown, message));
            status = ExitStatus::Unknown;
        }
        objects += sizes.len() as u64;
        bytes += sizes.iter().sum::<u64>();
    }
    if args.json {
        print(&format!("{{\"objects\":{objects},\"bytes\":{bytes}}}\n"))?;
    } else {
        print(&format!("removed {objects} objects, {}\n", BinaryBytes(bytes)))?;
    }
    Ok(status)
}

/// Parses a hash as `cache ls` prints it: with or without the letter of its kind.
fn parse_hash(text: &str) -> Option<ContentHash> {
    let text = text.strip_suffix(".none").unwrap_or(text);
    text.parse().ok().or_else(|| text.strip_suffix(['P', 'C', 'X', 'H', 'M'])?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_they_are_listed() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        for text in [hash.to_owned(), format!("{hash}C"), format!("{hash}P.none")] {
            assert_eq!(parse_hash(&text).unwrap().to_string(), hash);
        }
        assert!(parse_hash(&format!("{hash}-shake128H")).is_some());
        for bad in ["", "C", "cms.cern.ch:/x", &format!("{hash}Z")] {
            assert!(parse_hash(bad).is_none(), "{bad}");
        }
    }
}
