//! Software is run from the mount: programs, scripts, shared objects.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use tests::{MountSpec, client, deadline};

use crate::zoo::in_zoo;

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[test]
fn programs_and_scripts_run() {
    in_zoo(|zoo| {
        let program = run(&mut Command::new(zoo.mount.path("bin/true-elf")));
        assert_eq!((program.status.code(), program.stdout.as_slice()), (Some(0), &b""[..]));
        let script = zoo.mount.path("bin/run.sh");
        let text = fs::read_to_string(&script).unwrap();
        assert_eq!(text, "#!/bin/sh\necho ran from cvmfs \"$@\"\n");
        let script = run(Command::new(script).args(["with", "arguments"]));
        assert_eq!(script.status.code(), Some(0));
        assert_eq!(script.stdout, b"ran from cvmfs with arguments\n");
        let refused = Command::new(zoo.mount.path("hello.txt")).output().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "no x bit, no execution");
    });
}

/// Returns a shared object of this machine's C library.
fn library() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("libgcc_s.so") || path.contains("libm.so"))
        .map(PathBuf::from)
        .expect("this program uses a shared object")
}

#[test]
fn shared_objects_load() {
    deadline(std::time::Duration::from_secs(60), || {
        let mut repo = TestRepo::new("lib.test.repo");
        repo.file("/lib/loaded.so", fs::read(library()).unwrap()).mode(0o755);
        let site = repo.publish();
        let server = TestServer::serving(site.root());
        let template = format!("{}/@fqrn@", server.url());
        let mount =
            MountSpec::new(&client!(), "lib.test.repo", &template, &site.public_key()).start();
        let object = mount.path("lib/loaded.so");
        // The loader tells of objects it cannot preload on stderr, and runs the program anyway.
        let loaded =
            run(Command::new("/bin/cat").arg("/proc/self/maps").env("LD_PRELOAD", &object));
        assert_eq!(String::from_utf8_lossy(&loaded.stderr), "");
        assert!(mapped(&loaded.stdout, &object), "{}", String::from_utf8_lossy(&loaded.stdout));
    });
}

fn mapped(maps: &[u8], object: &Path) -> bool {
    let object = object.to_string_lossy();
    String::from_utf8_lossy(maps)
        .lines()
        .any(|line| line.contains("r-xp") && line.ends_with(object.as_ref()))
}
