//! The error table of the read-only mount.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{AccessFlags, access, mkfifo, truncate};
use tests::walk::get_xattr;

use crate::zoo::in_zoo;

/// A call that must fail, its name, and the errno it must fail with.
type Case<'a> = (&'a str, i32, io::Result<()>);

fn check(cases: Vec<Case<'_>>) {
    let wrong: Vec<_> = cases
        .into_iter()
        .filter(|(_, errno, result)| {
            result.as_ref().err().and_then(io::Error::raw_os_error) != Some(*errno)
        })
        .map(|(call, errno, result)| {
            format!("{call}: want {}, got {result:?}", io::Error::from_raw_os_error(errno))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn result_of(status: i32) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_xattr(path: &Path) -> io::Result<()> {
    let path = c_string(path);
    // SAFETY: both strings end with NUL, the value is one byte long.
    result_of(unsafe {
        libc::setxattr(path.as_ptr(), c"user.color".as_ptr(), c"x".as_ptr().cast(), 1, 0)
    })
}

fn remove_xattr(path: &Path) -> io::Result<()> {
    let path = c_string(path);
    // SAFETY: both strings end with NUL.
    result_of(unsafe { libc::removexattr(path.as_ptr(), c"user.color".as_ptr()) })
}

/// getxattr(2) of a value of four bytes into a buffer of one.
fn get_xattr_in_one_byte(path: &Path) -> io::Result<()> {
    let path = c_string(path);
    let mut buffer = [0_u8; 1];
    // SAFETY: the strings end with NUL, the buffer has the size told.
    let status = unsafe {
        libc::getxattr(path.as_ptr(), c"user.color".as_ptr(), buffer.as_mut_ptr().cast(), 1)
    };
    result_of(if status < 0 { -1 } else { 0 })
}

fn open(path: &Path, options: &mut fs::OpenOptions) -> io::Result<()> {
    options.open(path).map(drop)
}

#[test]
fn everything_that_changes_is_erofs() {
    in_zoo(|zoo| {
        let mount = &zoo.mount;
        let (file, dir, link) =
            (&mount.path("xattrs/f"), &mount.path("empty-dir"), &mount.path("rel-link"));
        let new = &mount.path("empty-dir/new");
        let outside = tempfile::tempdir().unwrap();
        let now = TimeSpec::UTIME_NOW;
        let touch =
            |path: &Path| utimensat(AT_FDCWD, path, &now, &now, UtimensatFlags::NoFollowSymlink);
        let erofs = [
            ("mkdir", fs::create_dir(new)),
            ("mknod", mknod(new, SFlag::S_IFREG, Mode::S_IRUSR, 0).map_err(Into::into)),
            ("mkfifo", mkfifo(new, Mode::S_IRUSR).map_err(Into::into)),
            ("creat", File::create(new).map(drop)),
            ("open O_CREAT|O_EXCL", File::create_new(new).map(drop)),
            ("symlink", symlink("target", new)),
            ("link", fs::hard_link(file, new)),
            ("rename file", fs::rename(file, new)),
            ("rename directory", fs::rename(dir, mount.path("new"))),
            ("unlink", fs::remove_file(file)),
            ("unlink link", fs::remove_file(link)),
            ("rmdir", fs::remove_dir(dir)),
            ("rmdir of a full one", fs::remove_dir(mount.path("names"))),
            ("open for writing", open(file, File::options().write(true))),
            ("open for both", open(file, File::options().read(true).write(true))),
            ("open to append", open(file, File::options().append(true))),
            ("open O_TRUNC", open(file, File::options().write(true).truncate(true))),
            (
                "open O_TMPFILE",
                open(dir, File::options().write(true).custom_flags(libc::O_TMPFILE)),
            ),
            ("truncate", truncate(file, 0).map_err(Into::into)),
            ("chmod", fs::set_permissions(file, fs::Permissions::from_mode(0o600))),
            ("chmod directory", fs::set_permissions(dir, fs::Permissions::from_mode(0o700))),
            ("chown", chown(file, Some(1), Some(1))),
            ("lchown", lchown(link, Some(1), Some(1))),
            ("utimensat", touch(file).map_err(Into::into)),
            ("utimensat link", touch(link).map_err(Into::into)),
            ("setxattr", set_xattr(file)),
            ("removexattr", remove_xattr(file)),
            ("access W_OK", access(file, AccessFlags::W_OK).map_err(Into::into)),
        ];
        let mut cases: Vec<Case<'_>> =
            erofs.into_iter().map(|(call, result)| (call, libc::EROFS, result)).collect();
        // Between file systems the kernel never asks ours.
        let foreign = outside.path().join("f");
        fs::write(&foreign, b"").unwrap();
        cases.push(("rename into", libc::EXDEV, fs::rename(&foreign, new)));
        cases.push(("rename out of", libc::EXDEV, fs::rename(file, outside.path().join("g"))));
        cases.push(("link out of", libc::EXDEV, fs::hard_link(file, outside.path().join("g"))));
        cases.push(("mkdir of an existing name", libc::EEXIST, fs::create_dir(dir)));
        check(cases);
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "nothing came into being");
    });
}

#[test]
fn reading_fails_as_posix_says() {
    in_zoo(|zoo| {
        let mount = &zoo.mount;
        let file = &mount.path("hello.txt");
        let long = [b'x'; 256];
        let stat = |path: &[u8]| fs::symlink_metadata(mount.path(path)).map(drop);
        let read_directory = File::open(mount.path("deep"))
            .and_then(|mut directory| directory.read(&mut [0; 10]))
            .map(drop);
        let open_device = |path: &str| File::open(mount.path(path)).map(drop);
        check(vec![
            ("stat of a missing name", libc::ENOENT, stat(b"missing")),
            ("stat of it again", libc::ENOENT, stat(b"missing")),
            ("stat of a missing name in a nested catalog", libc::ENOENT, stat(b"nested/one/no")),
            ("stat under a missing directory", libc::ENOENT, stat(b"missing/name")),
            ("stat of a dangling link's target", libc::ENOENT, {
                fs::metadata(mount.path("links/dangling")).map(drop)
            }),
            ("stat through a file", libc::ENOTDIR, stat(b"hello.txt/x")),
            ("list a file", libc::ENOTDIR, fs::read_dir(file).map(drop)),
            ("open a file O_DIRECTORY", libc::ENOTDIR, {
                open(file, File::options().read(true).custom_flags(libc::O_DIRECTORY))
            }),
            ("read a directory", libc::EISDIR, read_directory),
            ("open a link O_NOFOLLOW", libc::ELOOP, {
                open(
                    &mount.path("rel-link"),
                    File::options().read(true).custom_flags(libc::O_NOFOLLOW),
                )
            }),
            ("readlink of a file", libc::EINVAL, fs::read_link(file).map(drop)),
            ("getxattr of an unknown name", libc::ENODATA, {
                get_xattr(&mount.path("xattrs/f"), b"user.unknown").map(drop)
            }),
            ("getxattr where there are none", libc::ENODATA, {
                get_xattr(file, b"user.color").map(drop)
            }),
            ("getxattr with too small a buffer", libc::ERANGE, {
                get_xattr_in_one_byte(&mount.path("xattrs/f"))
            }),
            ("stat of a name of 256 bytes", libc::ENAMETOOLONG, stat(&long)),
            ("open of a name of 256 bytes", libc::ENAMETOOLONG, {
                File::open(mount.path(long)).map(drop)
            }),
            ("a name of 256 bytes in a directory", libc::ENAMETOOLONG, {
                stat(&[b"deep/".as_slice(), &long].concat())
            }),
            ("open a character device", libc::EACCES, open_device("special/char")),
            ("open a block device", libc::EACCES, open_device("special/block")),
            ("open a socket", libc::ENXIO, open_device("special/sock")),
        ]);
        let longest = [b"names/".as_slice(), &[b'n'; 255]].concat();
        assert!(mount.lstat(longest).is_file());
    });
}

#[test]
fn o_excl_alone_is_no_obstacle() {
    in_zoo(|zoo| {
        let path = zoo.mount.path("hello.txt");
        let mut text = String::new();
        File::options()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text.len(), 12);
    });
}
