//! What an object is called, on the server and in a cache (spec/format.md sections 1 and 3).

use std::fmt;

use crate::hash::ContentHash;

/// What an object holds; decides its suffix on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The content of a whole file.
    Data,
    /// A piece of a chunked file.
    Chunk,
    /// A file catalog.
    Catalog,
    /// The certificate that signs manifests.
    Certificate,
    /// The database of named tags.
    History,
    /// The owner's description of the repository.
    Metainfo,
}

impl ObjectKind {
    /// Returns the letter at the end of the server path, if the kind has one.
    pub fn suffix(self) -> Option<char> {
        match self {
            Self::Data => None,
            Self::Chunk => Some('P'),
            Self::Catalog => Some('C'),
            Self::Certificate => Some('X'),
            Self::History => Some('H'),
            Self::Metainfo => Some('M'),
        }
    }
}

/// How the server stores an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// One zlib stream (RFC 1950).
    Zlib,
    /// The plain bytes.
    None,
}

/// Names one object and what its plain bytes are.
///
/// The hash covers the stored bytes, so only hash *and* compression together settle the plain
/// ones. Both are part of the key: a catalog cannot make us serve a cached object in the other
/// reading.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Hash of the stored bytes.
    pub hash: ContentHash,
    /// Decides the suffix on the server.
    pub kind: ObjectKind,
    /// How to get the plain bytes.
    pub compression: Compression,
}

impl ObjectId {
    /// Names a zlib object, which all kinds but file content always are.
    pub fn zlib(hash: ContentHash, kind: ObjectKind) -> Self {
        Self { hash, kind, compression: Compression::Zlib }
    }

    /// Returns the path below the base URL, without leading slash: `data/ab/cdef...C`.
    pub fn server_path(&self) -> String {
        let text = self.hash.to_string();
        let (directory, rest) = text.split_at(2);
        match self.kind.suffix() {
            Some(suffix) => format!("data/{directory}/{rest}{suffix}"),
            None => format!("data/{directory}/{rest}"),
        }
    }

    /// Returns the alternative location of root catalog and certificate: `.cvmfsalt-HASHC`.
    pub fn alternative_path(&self) -> String {
        match self.kind.suffix() {
            Some(suffix) => format!(".cvmfsalt-{}{suffix}", self.hash),
            None => format!(".cvmfsalt-{}", self.hash),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.hash)?;
        match self.kind.suffix() {
            Some(suffix) => write!(f, "{suffix}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.compression)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_on_the_server() {
        use ObjectKind::{Catalog, Certificate, Chunk, Data, History, Metainfo};
        let sha1 = "cf3e56cf3da37ad17cf1f2c2ff5d86497fc29068";
        let rmd160 = "aa1deda59d5329553580d78fcd0b393157a5d28e-rmd160";
        let shake128 = "0152bb2ee41313d8d63b9274230f90379adf9201-shake128";
        for (hash, kind, path, alternative) in [
            (
                sha1,
                Data,
                "data/cf/3e56cf3da37ad17cf1f2c2ff5d86497fc29068",
                ".cvmfsalt-cf3e56cf3da37ad17cf1f2c2ff5d86497fc29068",
            ),
            (
                sha1,
                Certificate,
                "data/cf/3e56cf3da37ad17cf1f2c2ff5d86497fc29068X",
                ".cvmfsalt-cf3e56cf3da37ad17cf1f2c2ff5d86497fc29068X",
            ),
            (
                rmd160,
                Catalog,
                "data/aa/1deda59d5329553580d78fcd0b393157a5d28e-rmd160C",
                ".cvmfsalt-aa1deda59d5329553580d78fcd0b393157a5d28e-rmd160C",
            ),
            (
                shake128,
                Chunk,
                "data/01/52bb2ee41313d8d63b9274230f90379adf9201-shake128P",
                ".cvmfsalt-0152bb2ee41313d8d63b9274230f90379adf9201-shake128P",
            ),
        ] {
            let id = ObjectId::zlib(hash.parse().unwrap(), kind);
            assert_eq!(id.server_path(), path);
            assert_eq!(id.alternative_path(), alternative);
        }
        let suffixes =
            [Data, Chunk, Catalog, Certificate, History, Metainfo].map(ObjectKind::suffix);
        assert_eq!(suffixes, [None, Some('P'), Some('C'), Some('X'), Some('H'), Some('M')]);
        let id = ObjectId::zlib(sha1.parse().unwrap(), History);
        assert_eq!(id.to_string(), format!("{sha1}H"));
    }

    #[test]
    fn the_two_readings_of_one_hash_are_two_objects() {
        let hash = "cf3e56cf3da37ad17cf1f2c2ff5d86497fc29068".parse().unwrap();
        let zlib = ObjectId::zlib(hash, ObjectKind::Data);
        let plain = ObjectId { compression: Compression::None, ..zlib };
        assert_ne!(zlib, plain);
        assert_eq!(zlib.server_path(), plain.server_path());
    }
}
