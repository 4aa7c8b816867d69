//! The genuine repository inside the program.

use std::collections::HashMap;
use std::io::{self, Read as _};

use bytes::Bytes;

/// Name of the bundled repository, which is also the top folder of the archive.
pub const FQRN: &str = "small.test.repo";

/// Its master public key, in PEM form.
pub const MASTER_KEY: &str = include_str!("../../../fixtures/repos/small.test.repo.pub");

/// Published by the server tools of upstream 2.12; whitelist valid until 2046.
const ARCHIVE: &[u8] = include_bytes!("../../../fixtures/repos/small.test.repo.tar.gz");

/// The files of a repository as a web server has them, by path: `small.test.repo/.cvmfspublished`.
pub type Files = HashMap<String, Bytes>;

/// Unpacks the bundled repository into memory: about 4 MB.
pub fn unpack() -> io::Result<Files> {
    unpack_tar_gz(ARCHIVE)
}

fn unpack_tar_gz(archive: &[u8]) -> io::Result<Files> {
    let mut files = Files::new();
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    for entry in tar.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8(entry.path_bytes().into_owned()).map_err(io::Error::other)?;
        let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path, content.into());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_repository_is_complete() {
        let files = unpack().unwrap();
        let manifest = &files["small.test.repo/.cvmfspublished"];
        assert!(manifest.starts_with(b"C"), "a manifest starts with the root catalog");
        let root: String = manifest[1..41].iter().map(|&b| char::from(b)).collect();
        let catalog = format!("{FQRN}/data/{}/{}C", &root[..2], &root[2..]);
        assert!(files.contains_key(&catalog), "{catalog}");
        assert!(files.contains_key("small.test.repo/.cvmfswhitelist"));
        assert!(MASTER_KEY.starts_with("-----BEGIN PUBLIC KEY-----"));
    }

    #[test]
    fn damaged_archives_are_errors() {
        assert!(unpack_tar_gz(&ARCHIVE[..ARCHIVE.len() / 2]).is_err());
        assert!(unpack_tar_gz(b"not gzip").is_err());
    }
}
