//! A cache on each kind of file system that people keep volumes on.
//!
//! Each is made and mounted in a mount namespace of this test's own thread, and vanishes with it.
//! NFS is not here: its server is the kernel's, and would be seen by the whole machine.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cvmfs_cache::{DiskCache, DiskCacheOptions, Naming, Quota};
use cvmfs_core::cache::{ObjectCache as _, ObjectMeta};
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use nix::mount::{MsFlags, mount};
use tests::apart::private_mounts;
use tests::{deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(100);
/// Of the images: XFS wants 300 MB at least.
const IMAGE_LEN: u64 = 320 << 20;

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn body(number: u32) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(2000 + number as usize * 13).collect()
}

fn id(number: u32) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Sha1, &body(number));
    ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None }
}

fn store(cache: &DiskCache, number: u32) {
    let body = body(number);
    let (plain, proof) = decode_all(id(number), &body, SizeBound::AtMost(1 << 20)).unwrap();
    let mut transaction = cache.begin(&id(number), &ObjectMeta::default()).unwrap();
    transaction.write(&plain).unwrap();
    let object = transaction.commit(proof).unwrap();
    assert_eq!(object.read_all(1 << 20).unwrap(), body);
}

/// Two processes' worth of caches on one directory, shared with a group.
fn exercise(directory: &Path) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o2770)).unwrap();
    for naming in [None, Some(Naming::Named)] {
        let quota = Quota::Bytes(200_000);
        let options = DiskCacheOptions { quota, naming, ..DiskCacheOptions::default() };
        let caches = [(); 2].map(|()| DiskCache::open_with(directory, options).unwrap());
        assert!(!caches[0].info().unmanaged);
        store(&caches[0], 0);
        let _pin = caches[0].pin(&id(0));
        for number in 1..200 {
            store(&caches[number as usize % 2], number);
            let seen = caches[(number as usize + 1) % 2].open(&id(number)).unwrap();
            // What found no room was served all the same.
            if let Some(object) = seen {
                assert_eq!(object.read_all(1 << 20).unwrap(), body(number));
            }
            assert!(caches[0].info().used <= 200_000);
        }
        wait_until(Duration::from_secs(20), "room is made", || caches[1].info().used <= 190_000)
            .unwrap();
        assert!(caches[1].open(&id(0)).unwrap().is_some(), "pinned by a sibling");
        let report = caches[0].check(false, 2, &|_| {});
        assert!(report.damaged.is_empty() && report.checked > 20, "{report:?}");
        assert_eq!(report.unverifiable, 0, "no checksums here");
        drop(caches);
        assert!(cvmfs_cache::wipe(directory).unwrap());
    }
}

fn on_image(make: &str, arguments: &[&str]) {
    let make = make.to_owned();
    let arguments: Vec<_> = arguments.iter().map(|&text| text.to_owned()).collect();
    deadline(LIMIT, move || {
        private_mounts();
        let scratch = tempfile::tempdir().unwrap();
        let (image, at) = (scratch.path().join("image"), scratch.path().join("at"));
        std::fs::File::create(&image).unwrap().set_len(IMAGE_LEN).unwrap();
        run(Command::new(&make).args(&arguments).arg(&image));
        std::fs::create_dir(&at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        let volume = at.join("volume");
        std::fs::create_dir(&volume).unwrap();
        exercise(&volume);
        run(Command::new("umount").arg(&at));
    });
}

#[test]
fn ext4() {
    on_image("mkfs.ext4", &["-q", "-F"]);
}

#[test]
fn xfs() {
    on_image("mkfs.xfs", &["-q", "-f"]);
}

#[test]
fn tmpfs() {
    deadline(LIMIT, || {
        private_mounts();
        let at = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), at.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64m")).unwrap();
        exercise(at.path());
        nix::mount::umount(at.path()).unwrap();
    });
}

#[test]
fn overlayfs() {
    deadline(LIMIT, || {
        private_mounts();
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = scratch.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let [lower, upper, work, at] = ["lower", "upper", "work", "at"].map(path);
        // As in an image: the directory comes from a lower layer.
        std::fs::create_dir(lower.join("volume")).unwrap();
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        mount(Some("overlay"), &at, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
            .unwrap();
        exercise(&at.join("volume"));
        nix::mount::umount(&at).unwrap();
    });
}
