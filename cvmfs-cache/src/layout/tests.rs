//! Directories: what is made, what is refused, what is left alone.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use cvmfs_core::hash::{ContentHash, HashAlgorithm};

#[test]
fn every_part_of_an_id_is_in_the_name() {
    let rest = "23456789abcdef0123456789abcdef01234567";
    let digest = "0123456789abcdef0123456789abcdef01234567";
    let cases = [
        ("", ObjectKind::Data, Compression::Zlib, rest.to_owned()),
        ("", ObjectKind::Data, Compression::None, format!("{rest}.none")),
        ("", ObjectKind::Chunk, Compression::None, format!("{rest}P.none")),
        ("", ObjectKind::Catalog, Compression::Zlib, format!("{rest}C")),
        ("-rmd160", ObjectKind::Data, Compression::Zlib, format!("{rest}-rmd160")),
        ("-shake128", ObjectKind::History, Compression::Zlib, format!("{rest}-shake128H")),
    ];
    for (identifier, kind, compression, name) in cases {
        let hash: ContentHash = format!("{digest}{identifier}").parse().unwrap();
        let id = ObjectId { hash, kind, compression };
        assert_eq!(object_name(&id), format!("01/{name}"));
        assert_eq!(parse_object_name(&format!("01/{name}")), Some(id));
    }
    let hash = ContentHash::new(HashAlgorithm::Sha1, [0xff; 20]);
    assert_eq!(fan_of(&ObjectId::zlib(hash, ObjectKind::Data)), 0xff);
    assert_eq!(fan_name(5), "objects/05");
}

fn create(directory: &Path) -> Result<Layout, CacheError> {
    Layout::create(directory, false)
}

fn reason(error: CacheError) -> UnfitDirectory {
    let CacheError::Io { source, .. } = error else { panic!("{error:?}") };
    source.into_inner().unwrap().downcast::<UnfitDirectory>().unwrap().as_ref().clone()
}

#[test]
fn creates_private_directories_and_the_tag() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("deep/er");
    let layout = create(&directory).unwrap();
    for path in ["", "objects", "txn"] {
        let found = layout.path(path).metadata().unwrap();
        assert_eq!(found.mode(), 0o040_700, "{path}");
    }
    let tag = std::fs::read(directory.join("v2/CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with(b"Signature: 8a477f597d28d172789f06886806bc55\n"));
    create(&directory).unwrap();
}

#[test]
fn refuses_what_is_no_directory() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert_eq!(reason(create(&file).unwrap_err()), UnfitDirectory::NotADirectory);

    let other = scratch.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink(scratch.path(), other.join("v2")).unwrap();
    assert_eq!(reason(create(&other).unwrap_err()), UnfitDirectory::NotADirectory);
    assert!(!scratch.path().join("objects").exists(), "the link was followed");
}

#[test]
fn refuses_what_others_can_write() {
    let scratch = tempfile::tempdir().unwrap();
    for (path, mode) in [("v2", 0o770), ("v2/objects", 0o777), ("v2/txn", 0o702)] {
        create(scratch.path()).unwrap();
        let path = scratch.path().join(path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = reason(create(scratch.path()).unwrap_err());
        let group = path.metadata().unwrap().gid();
        let expected = match mode {
            0o770 => UnfitDirectory::SharedBefore { mode, group },
            _ => UnfitDirectory::WritableByOthers { mode },
        };
        assert_eq!(refused, expected);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    create(scratch.path()).unwrap();
}

#[test]
fn refuses_a_directory_of_another_user() {
    if our_user() != 0 {
        return; // Only root can give a directory away.
    }
    let scratch = tempfile::tempdir().unwrap();
    let layout = create(scratch.path()).unwrap();
    std::os::unix::fs::chown(layout.path(""), Some(4711), None).unwrap();
    let refused = reason(create(scratch.path()).unwrap_err());
    assert_eq!(refused, UnfitDirectory::ForeignOwner { owner: 4711, us: 0 });
}

#[test]
fn foreign_things_go_away_without_being_followed() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = create(scratch.path()).unwrap();
    let target = scratch.path().join("target");
    std::fs::write(&target, b"precious").unwrap();
    let (name, place) = ("objects/place", layout.path("objects/place"));

    std::os::unix::fs::symlink(&target, &place).unwrap();
    layout.remove_foreign(name).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    assert!(place.symlink_metadata().is_err());

    std::fs::create_dir(&place).unwrap();
    layout.remove_foreign(name).unwrap();
    assert!(!place.exists());

    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("inside"), b"kept").unwrap();
    layout.remove_foreign(name).unwrap();
    assert!(!place.exists());
    let mut aside = std::fs::read_dir(layout.path(QUARANTINE)).unwrap();
    let aside = aside.next().unwrap().unwrap().path().join("inside");
    assert_eq!(std::fs::read(aside).unwrap(), b"kept");

    layout.remove_foreign(name).unwrap();
}

#[test]
fn the_quarantine_is_bounded() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = create(scratch.path()).unwrap();
    for number in 0..MAX_QUARANTINED + 5 {
        let name = format!("objects/{number}");
        std::fs::write(layout.path(&name), b"bad").unwrap();
        layout.set_aside(&name).unwrap();
    }
    assert_eq!(layout.list(QUARANTINE).unwrap().len(), MAX_QUARANTINED);
}

#[test]
fn no_link_is_followed_on_the_way() {
    let scratch = tempfile::tempdir().unwrap();
    let outside = scratch.path().join("outside");
    std::fs::create_dir_all(outside.join("ab")).unwrap();
    std::fs::write(outside.join("ab/victim"), b"precious").unwrap();
    let layout = create(&scratch.path().join("cache")).unwrap();
    std::fs::remove_dir(layout.path(OBJECTS)).unwrap();
    std::os::unix::fs::symlink(&outside, layout.path(OBJECTS)).unwrap();
    let flags = OFlags::RDONLY;
    assert_eq!(layout.open("objects/ab/victim", flags, Mode::empty()).unwrap_err(), Errno::LOOP);
    assert!(layout.unlink("objects/ab/victim").is_err());
    assert!(layout.fan(0xab).is_err());
    assert!(layout.open("../outside/ab/victim", flags, Mode::empty()).is_err());
    assert_eq!(std::fs::read(outside.join("ab/victim")).unwrap(), b"precious");
}

#[test]
fn a_group_shares_what_its_members_make_whatever_their_umask() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o2770)).unwrap();
    let layout = create(scratch.path()).unwrap();
    let gid = scratch.path().metadata().unwrap().gid();
    assert_eq!(*layout.sharing(), Sharing::Group(gid));
    for name in ["", OBJECTS, TRANSACTIONS, RECORDS, SESSIONS] {
        let found = layout.path(name).metadata().unwrap();
        assert_eq!((found.mode() & 0o7777, found.gid()), (0o2770, gid), "{name}");
    }
    let control = layout.open_control("gauge").unwrap().metadata().unwrap();
    assert_eq!(control.mode() & 0o7777, 0o660);
}

#[test]
fn a_directory_for_everybody_is_used_only_when_asked_for() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = reason(create(scratch.path()).unwrap_err());
    assert_eq!(refused, UnfitDirectory::WritableByOthers { mode: 0o777 });
    let layout = Layout::create(scratch.path(), true).unwrap();
    assert_eq!(*layout.sharing(), Sharing::Anyone);
    assert_eq!(layout.path(OBJECTS).metadata().unwrap().mode() & 0o7777, 0o2777);
}

#[test]
fn what_is_no_name_of_an_object() {
    let rest = "23456789abcdef0123456789abcdef01234567";
    for name in [
        "",
        "01",
        "01/",
        &format!("0/1{rest}"),
        &format!("01/{rest}Z"),
        &format!("01/{rest}.nonex"),
        &format!("01/{}", rest.to_uppercase()),
        &format!("../{rest}"),
        &format!("01/{rest}-sha9"),
        "é1/x",
    ] {
        assert_eq!(parse_object_name(name), None, "{name}");
    }
}

#[test]
fn h4_a_group_shares_a_directory_only_on_purpose() {
    for (bits, expected) in [
        (0o700, Sharing::Private),
        (0o755, Sharing::Private),
        (0o775, Sharing::Private),
        (0o770, Sharing::Private),
        (0o2750, Sharing::Private),
        (0o1777, Sharing::Private),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(bits)).unwrap();
        let layout = create(scratch.path()).unwrap();
        assert_eq!(*layout.sharing(), expected, "{bits:o}");
        for name in ["", OBJECTS, TRANSACTIONS, RECORDS, SESSIONS] {
            let found = layout.path(name).metadata().unwrap();
            assert_eq!(found.mode() & 0o7777, 0o700, "{bits:o} {name}");
        }
        let kept = scratch.path().metadata().unwrap().mode() & 0o7777;
        assert_eq!(kept, bits, "the directory of the user stays as it is");
    }
}

/// Somebody who may rename the directory puts another one there, under a live mount.
#[test]
fn a_directory_in_the_place_of_the_cache_is_not_trusted_more_than_it() {
    let scratch = tempfile::tempdir().unwrap();
    let (here, away) = (scratch.path().join("here"), scratch.path().join("away"));
    let layout = create(&here).unwrap();
    std::fs::rename(&here, &away).unwrap();
    std::fs::create_dir(&here).unwrap();
    std::fs::set_permissions(&here, std::fs::Permissions::from_mode(0o2770)).unwrap();
    let refused = reason(layout.restore().unwrap_err());
    assert_eq!(refused, UnfitDirectory::Exchanged);
    assert!(!here.join("v2").exists());
    // What is open goes on where it was opened.
    layout.open_control("gauge").unwrap();
    assert!(away.join("v2/gauge").exists());
    std::fs::remove_dir(&here).unwrap();
    layout.restore().unwrap();
    assert!(here.join("v2").exists(), "a missing one is made again");
}
