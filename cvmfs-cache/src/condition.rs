//! Every byte of one stored object compared with what was stored, whenever somebody asks: opening trusts
//! what was looked at before, and a private directory altogether.
//!
//! The content hash covers the compressed bytes, which are not kept, and compressing again gives the same
//! bytes with the publisher's library only. So the checksum that was made when the object was checked stands for
//! it; bytes that were not compressed are hashed themselves.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use cvmfs_core::cache::{CacheError, Condition};
use cvmfs_core::hash::{ContentHash, Hasher};
use cvmfs_core::object::{Compression, ObjectId};

use crate::checksum;
use crate::disk::DiskCache;
use crate::layout::{OBJECTS, failed, object_name};
use crate::seal::{self, Found};

/// Bytes read at a time, and between two looks at the clock.
const PIECE_LEN: usize = 128 * 1024;

/// What the bytes of a file are.
pub(crate) struct Bytes {
    checksum: blake3::Hash,
    /// Of the bytes as they are.
    pub(crate) hash: ContentHash,
}

/// Reads a file of `size` bytes until `end`; `None` if it has another size.
pub(crate) fn read(
    id: &ObjectId,
    file: &File,
    size: u64,
    end: Instant,
) -> io::Result<Option<Bytes>> {
    let (mut checksum, mut hash) = (blake3::Hasher::new(), Hasher::new(id.hash.algorithm()));
    let mut buffer = vec![0; PIECE_LEN];
    let mut offset = 0;
    loop {
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match file.read_at(&mut buffer, offset) {
            Ok(0) => break,
            Ok(n) => {
                checksum.update(&buffer[..n]);
                hash.update(&buffer[..n]);
                offset += n as u64;
                // A file that grows while we read must not keep us.
                if offset > size {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let bytes = || Bytes { checksum: checksum.finalize(), hash: hash.finish() };
    Ok((offset == size).then(bytes))
}

/// Judges what was read of a file.
pub(crate) fn judge(id: &ObjectId, file: &File, bytes: Option<&Bytes>) -> Condition {
    let Some(bytes) = bytes else { return Condition::Damaged };
    let is_hash = (id.compression == Compression::None).then(|| bytes.hash == id.hash);
    let is_stored = checksum::read(file).map(|stored| stored == bytes.checksum);
    match (is_hash, is_stored) {
        (Some(false), _) | (_, Some(false)) => Condition::Damaged,
        (None, None) => Condition::Unknown,
        _ => Condition::Sound,
    }
}

impl DiskCache {
    /// Looks at every byte of an object; a damaged one is set aside.
    pub(crate) fn look_through(
        &self,
        id: &ObjectId,
        end: Instant,
    ) -> Result<Condition, CacheError> {
        let layout = &self.store.layout;
        let name = format!("{OBJECTS}/{}", object_name(id));
        let path = layout.path(&name);
        let reason = match seal::open(layout, &name) {
            Ok(Found::Absent) => return Ok(Condition::Absent),
            Ok(Found::Foreign(reason)) => reason,
            Ok(Found::Object(file, found)) => {
                let bytes = read(id, &file, found.len(), end).map_err(failed("read", &path))?;
                match judge(id, &file, bytes.as_ref()) {
                    Condition::Damaged => "its bytes are not those that were stored",
                    condition => return Ok(condition),
                }
            }
            Err(error) => return Err(failed("open", &path)(error)),
        };
        self.refuse(id, reason, true);
        Ok(Condition::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use cvmfs_core::cache::{CachedObject, ObjectCache, ObjectMeta};
    use cvmfs_core::decode::{SizeBound, decode_all};
    use cvmfs_core::hash::HashAlgorithm;
    use cvmfs_core::object::ObjectKind;

    use super::*;
    use crate::AlienCache;

    /// `hello` as zlib compresses it, once by a level that nobody publishes with.
    const STORED: &[u8] = b"x\x01\x01\x05\x00\xfa\xffhello\x06,\x02\x15";

    fn put(cache: &dyn ObjectCache, compression: Compression) -> (ObjectId, CachedObject) {
        let stored = if compression == Compression::None { b"hello" } else { STORED };
        let hash = ContentHash::of(HashAlgorithm::Sha1, stored);
        let id = ObjectId { hash, kind: ObjectKind::Data, compression };
        let (plain, proof) = decode_all(id, stored, SizeBound::AtMost(100)).unwrap();
        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(&plain).unwrap();
        (id, transaction.commit(proof).unwrap())
    }

    fn end() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn flip(path: &Path) {
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(b"J", 0).unwrap();
        seal::seal(&file, 5).unwrap();
    }

    #[test]
    fn a_flipped_byte_is_found_where_opening_trusts() {
        for compression in [Compression::Zlib, Compression::None] {
            let scratch = tempfile::tempdir().unwrap();
            let disk = DiskCache::open(scratch.path().join("disk")).unwrap();
            let alien = AlienCache::open(scratch.path().join("alien")).unwrap();
            for cache in [&disk as &dyn ObjectCache, &alien] {
                let (id, object) = put(cache, compression);
                assert_eq!(cache.examine(&id, end()).unwrap(), Condition::Sound);
                flip(object.path().unwrap());
                assert_eq!(cache.examine(&id, end()).unwrap(), Condition::Damaged);
                assert!(cache.open(&id).unwrap().is_none());
                assert_eq!(cache.examine(&id, end()).unwrap(), Condition::Absent);
            }
            assert_eq!(disk.health().damaged, 1);
        }
    }

    #[test]
    fn what_cannot_be_told_is_not_said_to_be_right() {
        for (compression, expected) in
            [(Compression::Zlib, Condition::Unknown), (Compression::None, Condition::Sound)]
        {
            let scratch = tempfile::tempdir().unwrap();
            let cache = DiskCache::open(scratch.path()).unwrap();
            let (id, object) = put(&cache, compression);
            let path = object.path().unwrap();
            rustix::fs::removexattr(path, "user.cvmfs-fuse.blake3").unwrap();
            assert_eq!(cache.examine(&id, end()).unwrap(), expected);
            assert!(cache.open(&id).unwrap().is_some());
        }
    }

    #[test]
    fn nobody_is_kept_for_longer_than_they_say() {
        let scratch = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(scratch.path()).unwrap();
        let (id, _) = put(&cache, Compression::Zlib);
        let late = cache.examine(&id, Instant::now()).unwrap_err();
        let CacheError::Io { source, .. } = late else { panic!("{late}") };
        assert_eq!(source.kind(), io::ErrorKind::TimedOut);
        assert!(cache.open(&id).unwrap().is_some(), "nothing was wrong with it");
    }
}
