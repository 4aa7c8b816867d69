//! What the mount itself says: options, statfs, numbers of device and inodes.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::Path;

use nix::sys::statfs::statfs;

use crate::zoo::in_zoo;

#[test]
fn options_protect_the_host() {
    in_zoo(|zoo| {
        let info = zoo.mount.info();
        for option in ["ro", "nosuid", "nodev"] {
            assert!(info.options.iter().any(|o| o == option), "no {option} in {info:?}");
        }
        assert!(!info.options.iter().any(|o| o == "noexec"), "software is run from here: {info:?}");
        assert!(info.fs_type == "fuse" || info.fs_type.starts_with("fuse."), "{info:?}");
        // The bit is shown as published; nosuid makes it harmless.
        assert_eq!(zoo.mount.lstat("modes/f4755").mode() & 0o7777, 0o4755);
    });
}

#[test]
fn statfs_is_plausible() {
    in_zoo(|zoo| {
        let of = |path: &str| statfs(&zoo.mount.path(path)).unwrap();
        let root = of("");
        assert_eq!(root.maximum_name_length(), 255);
        assert!(root.block_size() > 0);
        assert!(root.blocks_free() <= root.blocks(), "{root:?}");
        assert!(root.files() >= 1, "{root:?}");
        assert_eq!(of("nested/one/file").maximum_name_length(), 255);
    });
}

/// Every inode below `directory`, by number, and that listings agree with lstat(2).
fn inodes(directory: &Path, found: &mut HashMap<u64, Vec<Vec<u8>>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        let path = entry.path().as_os_str().as_bytes().to_vec();
        assert_eq!(entry.ino(), metadata.ino(), "d_ino of {}", entry.path().display());
        assert_eq!(entry.file_type().unwrap(), metadata.file_type(), "{}", entry.path().display());
        found.entry(metadata.ino()).or_default().push(path);
        if metadata.is_dir() {
            inodes(&entry.path(), found);
        }
    }
}

#[test]
fn inode_numbers_are_unique_and_stable() {
    in_zoo(|zoo| {
        let root = zoo.mount.root();
        let mut found = HashMap::from([(fs::metadata(root).unwrap().ino(), vec![b"/".to_vec()])]);
        inodes(root, &mut found);
        // links/h1 to h3 were published without a hard-link group: they are files of their own.
        let shared: Vec<_> = found.values().filter(|paths| paths.len() > 1).collect();
        assert!(shared.is_empty(), "{shared:?}");
        assert_eq!(found.len(), zoo.genuine.truth().len());
        let mut again = HashMap::from([(fs::metadata(root).unwrap().ino(), vec![b"/".to_vec()])]);
        inodes(root, &mut again);
        assert_eq!(again, found);
        let device = fs::metadata(root).unwrap().dev();
        for path in ["nested", "nested/one/sub/file", "many/f10", "special/block"] {
            assert_eq!(zoo.mount.lstat(path).dev(), device, "st_dev of {path}");
        }
    });
}

/// The formula is that of the genuine client: spec/format.md, section 13.
#[test]
fn blocks_are_those_of_the_genuine_client() {
    in_zoo(|zoo| {
        for path in ["empty", "one-byte", "random.bin", "big-chunked.bin"] {
            let metadata = zoo.mount.lstat(path);
            assert_eq!(metadata.blocks(), 1 + metadata.size() / 512, "{path}");
            assert_eq!(metadata.blksize(), 4096, "{path}");
        }
    });
}
