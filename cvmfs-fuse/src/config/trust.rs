//! Master keys and blocklist of a repository, from flags, this machine or built-in knowledge.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use cvmfs_core::chain::chain;
use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::trust::MasterKeys;

use super::known::KnownDomain;
use crate::cli::exit::{ExitStatus, Failure};

/// Largest key or blocklist file: a key has under 1 KiB, a blocklist line under 100 bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Loads the keys that may sign the whitelist of `fqrn`: those of `--public-key`; else the
/// built-in ones of its domain; else those in `keys_dir` (`DOMAIN/*.pub` and `DOMAIN.pub`).
///
/// `added` are those of a configuration repository: they never replace one of the others, and one that is no key
/// is left out with a warning.
pub(super) fn master_keys(
    flag: Option<&OsStr>,
    fqrn: &Fqrn,
    keys_dir: &Path,
    read_key: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    added: Vec<(String, Vec<u8>)>,
) -> Result<MasterKeys, Failure> {
    let added = added.into_iter().filter(|(name, pem)| {
        let parsed = MasterKeys::parse([(name.as_str(), pem)]);
        parsed.inspect_err(|error| tracing::warn!("{}", chain(error))).is_ok()
    });
    let added: Vec<_> = added.collect();
    let files: Vec<PathBuf> = match (flag, KnownDomain::find(fqrn.domain())) {
        (Some(list), _) => list
            .as_bytes()
            .split(|&b| b == b':')
            .filter(|file| !file.is_empty())
            .map(|file| PathBuf::from(OsString::from(OsStr::from_bytes(file))))
            .collect(),
        (None, Some(known)) => {
            tracing::debug!(%fqrn, "using built-in master keys");
            let known = known.keys.iter().map(|key| (key.name.to_owned(), key.pem.into()));
            return parse(known.chain(added));
        }
        (None, None) => key_files(keys_dir, fqrn.domain()).map_err(|error| {
            let what = format!("cannot look for master keys in {}", keys_dir.display());
            Failure::caused(ExitStatus::Signature, &what, &error)
        })?,
    };
    if files.is_empty() && added.is_empty() {
        return Err(match flag {
            Some(_) => Failure::new(ExitStatus::Options, "--public-key names no file"),
            None => Failure::new(
                ExitStatus::Options,
                format!(
                    "no master key is known for the domain {domain} of {fqrn}; give \
                     --public-key FILE, or put the key into {dir}/{domain}.pub",
                    domain = fqrn.domain(),
                    dir = keys_dir.display()
                ),
            ),
        });
    }
    let mut keys = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let pem = read_key(&file).map_err(|error| {
            Failure::caused(
                ExitStatus::Signature,
                &format!("cannot read master key {name}"),
                &error,
            )
            .advise("check --public-key")
        })?;
        keys.push((name, pem));
    }
    keys.extend(added);
    parse(keys)
}

fn parse(keys: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<MasterKeys, Failure> {
    MasterKeys::parse(keys).map_err(|error| {
        Failure::caused(ExitStatus::Signature, "cannot use the master keys", &error)
    })
}

/// Tells whether this machine has keys of a domain.
pub(super) fn has_keys(keys_dir: &Path, domain: &str) -> bool {
    key_files(keys_dir, domain).is_ok_and(|files| !files.is_empty())
}

/// Finds the keys of a domain as the packages of sites install them.
fn key_files(keys_dir: &Path, domain: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = keys_in(&keys_dir.join(domain))?;
    let single = keys_dir.join(format!("{domain}.pub"));
    if single.try_exists()? {
        files.push(single);
    }
    Ok(files)
}

/// Lists the keys of a directory by name; one that is not there has none.
pub(super) fn keys_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    match fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                let path = entry?.path();
                if path.extension() == Some(OsStr::new("pub")) {
                    files.push(path);
                }
            }
            files.sort();
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(files)
}

/// Reads the blocklist of this machine. No file means that nothing is blocked; a file that cannot
/// be read is a failure, because then nobody knows what is blocked.
pub(super) fn blocklist(file: &Path) -> Result<Blocklist, Failure> {
    match read(file) {
        Ok(text) => Ok(Blocklist::parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Blocklist::default()),
        Err(error) => {
            let what = format!("cannot read the blocklist {}", file.display());
            Err(Failure::caused(ExitStatus::Signature, &what, &error)
                .advise("repair or remove the file"))
        }
    }
}

/// Reads a file without waiting for anybody: it may lie in a repository, where a FIFO is as easily made as a file.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    if file == Path::new("/dev/null") {
        return Ok(Vec::new());
    }
    super::chain::read_local(file, MAX_FILE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::known::DOMAINS;

    fn names(keys: &MasterKeys) -> Vec<&str> {
        keys.names().collect()
    }

    #[test]
    fn built_in_keys_are_usable() {
        let nowhere = Path::new("/nonexistent");
        for domain in DOMAINS {
            let fqrn = format!("x.{}", domain.domain).parse().unwrap();
            let keys = master_keys(None, &fqrn, nowhere, &|file| read(file), Vec::new()).unwrap();
            let expected: Vec<_> = domain.keys.iter().map(|key| key.name).collect();
            assert_eq!(names(&keys), expected);
        }
    }

    #[test]
    fn flag_then_built_in_then_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let pem = DOMAINS[1].keys[0].pem;
        let file = dir.path().join("mine.pub");
        fs::write(&file, pem).unwrap();
        fs::create_dir(dir.path().join("example.org")).unwrap();
        for name in
            ["example.org/b.pub", "example.org/a.pub", "example.org/x.txt", "example.org.pub"]
        {
            fs::write(dir.path().join(name), pem).unwrap();
        }
        let fqrn = |name: &str| name.parse::<Fqrn>().unwrap();

        let flag = format!("{0}:{0}:", file.display());
        let keys = master_keys(
            Some(OsStr::new(&flag)),
            &fqrn("x.cern.ch"),
            dir.path(),
            &|file| read(file),
            Vec::new(),
        )
        .unwrap();
        assert_eq!(names(&keys), [file.display().to_string(), file.display().to_string()]);

        let keys =
            master_keys(None, &fqrn("x.example.org"), dir.path(), &|file| read(file), Vec::new())
                .unwrap();
        let expected = ["example.org/a.pub", "example.org/b.pub", "example.org.pub"]
            .map(|name| dir.path().join(name).display().to_string());
        assert_eq!(names(&keys), expected);
    }

    #[test]
    fn failures_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let bad = dir.path().join("bad.pub");
        fs::write(&bad, "no key").unwrap();
        let fqrn: Fqrn = "x.example.org".parse().unwrap();
        let missing = dir.path().join("missing.pub");
        for (flag, status, message) in [
            (None, ExitStatus::Options, "give --public-key FILE"),
            (Some(OsStr::new(":")), ExitStatus::Options, "names no file"),
            (Some(missing.as_os_str()), ExitStatus::Signature, "cannot read master key"),
            (Some(dir.path().as_os_str()), ExitStatus::Signature, "cannot read master key"),
            (Some(bad.as_os_str()), ExitStatus::Signature, "bad.pub is not one PEM public key"),
        ] {
            let failure =
                master_keys(flag, &fqrn, dir.path(), &|file| read(file), Vec::new()).unwrap_err();
            assert_eq!(failure.status, status, "{failure}");
            assert!(failure.message.contains(message), "{failure}");
        }
    }

    #[test]
    fn blocklists() {
        let dir = tempfile::tempdir().unwrap();
        let fqrn: Fqrn = "x.example.org".parse().unwrap();
        let file = dir.path().join("blacklist");
        assert_eq!(blocklist(&file).unwrap(), Blocklist::default());
        fs::write(&file, "<x.example.org 7\n").unwrap();
        assert_eq!(blocklist(&file).unwrap().blocks_revision(&fqrn, 6), Some(7));
        assert_eq!(blocklist(dir.path()).unwrap_err().status, ExitStatus::Signature);
    }
}
