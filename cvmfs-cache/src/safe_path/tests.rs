use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, chown, symlink};

use super::*;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

fn refused(error: &io::Error) -> &Refused {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.unwrap_or_else(|| panic!("{error}"))
}

#[test]
fn h3_links_of_others_lead_root_nowhere() {
    let scratch = tempfile::tempdir().unwrap();
    let (real, link) = (scratch.path().join("real"), scratch.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    symlink("real", &link).unwrap();
    // Made by this user: its own choice.
    open_directory(&link).unwrap();
    assert!(make_directories(&link.join("a/b"), 0o700, 0o755).unwrap().1);
    assert!(!make_directories(&link.join("a/b"), 0o755, 0o755).unwrap().1);
    assert_eq!((mode(&real.join("a")), mode(&real.join("a/b"))), (0o755, 0o700));
    if !is_root() {
        return; // Only root can make links of others.
    }
    std::os::unix::fs::lchown(&link, Some(4711), None).unwrap();
    for error in [
        open_directory(&link).unwrap_err(),
        open_directory(&link.join("a")).unwrap_err(),
        make_directories(&link.join("c"), 0o700, 0o700).unwrap_err(),
        write_output(&link.join("x"), b"x", OutputMode::ByUmask).unwrap_err(),
        bind_socket(&link.join("x"), 0o600).unwrap_err(),
        LogPlace::find(&link.join("x"), None).unwrap_err(),
    ] {
        assert!(matches!(refused(&error), Refused::ForeignLink { owner: 4711, .. }), "{error}");
    }
    assert_eq!(std::fs::read_dir(&real).unwrap().count(), 1);
    // In a directory of theirs, too.
    chown(scratch.path(), Some(4711), None).unwrap();
    assert!(open_directory(&link).is_err());
}

#[test]
fn links_that_go_round_end() {
    let scratch = tempfile::tempdir().unwrap();
    symlink("a", scratch.path().join("b")).unwrap();
    symlink("b", scratch.path().join("a")).unwrap();
    let error = open_directory(&scratch.path().join("a")).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP));
    std::fs::write(scratch.path().join("f"), "").unwrap();
    let error = make_directories(&scratch.path().join("f/x"), 0o700, 0o700).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOTDIR));
}

#[test]
fn h3_a_log_is_a_file_of_ours_with_one_name() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let open = |name: &str| LogPlace::find(&at(name), None)?.open(0o640);
    std::fs::write(at("precious"), "precious").unwrap();
    std::fs::hard_link(at("precious"), at("hard")).unwrap();
    symlink("precious", at("soft")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _reader = File::options().read(true).custom(at("fifo"));
    std::fs::create_dir(at("directory")).unwrap();
    assert_eq!(*refused(&open("hard").unwrap_err()), Refused::SeveralNames { links: 2 });
    for name in ["soft", "fifo", "directory"] {
        assert_eq!(*refused(&open(name).unwrap_err()), Refused::NotRegular, "{name}");
    }
    assert_eq!(std::fs::read(at("precious")).unwrap(), b"precious");
    open("log").unwrap().write_all(b"line\n").unwrap();
    assert_eq!(std::fs::read(at("log")).unwrap(), b"line\n");
    if !is_root() {
        return;
    }
    chown(at("log"), Some(4711), None).unwrap();
    assert_eq!(*refused(&open("log").unwrap_err()), Refused::ForeignFile { owner: 4711 });
    LogPlace::find(&at("log"), Some(4711)).unwrap().open(0o640).unwrap();
    chown(scratch.path(), Some(4711), None).unwrap();
    assert_eq!(*refused(&open("new").unwrap_err()), Refused::ForeignDirectory { owner: 4711 });
    assert!(!at("new").exists());
}

/// Opens for reading without waiting for a writer, as an attacker does.
trait Custom {
    fn custom(&mut self, path: PathBuf) -> Option<File>;
}

impl Custom for std::fs::OpenOptions {
    fn custom(&mut self, path: PathBuf) -> Option<File> {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.custom_flags(nix::libc::O_NONBLOCK).open(path).ok()
    }
}

#[test]
fn h3_outputs_replace_what_others_prepared() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    std::fs::write(at("precious"), "precious").unwrap();
    symlink("precious", at("soft")).unwrap();
    std::fs::hard_link(at("precious"), at("hard")).unwrap();
    for name in ["soft", "hard", "new"] {
        write_output(&at(name), b"report", OutputMode::Exactly(0o600)).unwrap();
        assert!(at(name).symlink_metadata().unwrap().is_file());
        assert_eq!(
            (mode(&at(name)), std::fs::read(at(name)).unwrap()),
            (0o600, b"report".to_vec())
        );
    }
    assert_eq!(std::fs::read(at("precious")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 4);
    assert!(write_output(scratch.path(), b"x", OutputMode::ByUmask).is_err());
    write_output(Path::new("/dev/null"), b"x", OutputMode::ByUmask).unwrap();
}

#[test]
fn h3_a_socket_has_its_mode_before_its_name() {
    let scratch = tempfile::tempdir().unwrap();
    // Longer than the kernel takes.
    let deep = scratch.path().join("d".repeat(200));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join("socket");
    let (_old, _gone) = bind_socket(&path, 0o600).unwrap();
    let (_listener, file) = bind_socket(&path, 0o666).unwrap();
    assert_eq!(mode(&path), 0o666);
    assert!(path.symlink_metadata().unwrap().file_type().is_socket());
    drop(_gone);
    assert!(path.exists(), "it is another one's now");
    drop(file);
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(bind_socket(&path, 0o666).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 1);
}

#[test]
fn trees_go_without_what_their_links_name() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    std::fs::create_dir_all(at("tree/a/b")).unwrap();
    std::fs::create_dir(at("outside")).unwrap();
    std::fs::write(at("outside/precious"), "").unwrap();
    symlink(at("outside"), at("tree/a/link")).unwrap();
    let base = open_directory(scratch.path()).unwrap();
    remove_tree(base.as_fd(), "tree").unwrap();
    assert!(!at("tree").exists() && at("outside/precious").exists());
    assert!(write_new(base.as_fd(), "x", "text").unwrap());
    assert!(!write_new(base.as_fd(), "x", "other").unwrap());
    assert_eq!((mode(&at("x")), std::fs::read(at("x")).unwrap()), (0o644, b"text".to_vec()));
}
