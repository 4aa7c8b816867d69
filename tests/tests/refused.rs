//! A damaged byte anywhere in the chain of trust: refused, and the cache holds nothing of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::{Rule, TestServer};
use tests::{MountSpec, client, deadline};

const LIMIT: Duration = Duration::from_secs(150);
/// Exit code of everything that is wrong with manifest, whitelist, certificate or root catalog.
const CATALOG_FAILURE: i32 = 16;

fn objects_in(cache: &Path) -> Vec<String> {
    fn collect(directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                collect(&entry.path(), found);
            } else {
                found.push(entry.path().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    for part in ["v2/objects", "v2/txn"] {
        collect(&cache.join(part), &mut found);
    }
    found.sort();
    found
}

/// The paths of the four files of the chain below the server's root.
fn chain(genuine: &Genuine) -> [(&'static str, String); 4] {
    let manifest = std::fs::read(genuine.root().join(".cvmfspublished")).unwrap();
    let field = |key: u8| {
        let line = manifest.split(|b| *b == b'\n').find(|line| line[0] == key).unwrap();
        String::from_utf8(line[1..].to_vec()).unwrap()
    };
    let object = |hash: String, suffix| format!("data/{}/{}{suffix}", &hash[..2], &hash[2..]);
    [
        ("manifest", ".cvmfspublished".to_owned()),
        ("whitelist", ".cvmfswhitelist".to_owned()),
        ("certificate", object(field(b'X'), 'X')),
        ("root catalog", object(field(b'C'), 'C')),
    ]
}

fn ls(genuine: &Genuine, server: &TestServer, cache: &Path) -> Command {
    let mut command = client!().command();
    command
        .arg("ls")
        .arg(format!("{}:/", genuine.fqrn()))
        .args(["--server", &server.base(genuine.fqrn())])
        .arg("--public-key")
        .arg(genuine.public_key())
        .arg("--cache-dir")
        .arg(cache);
    command
}

fn flips(name_of_part: &str) {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let (_, path) =
            chain(&genuine).into_iter().find(|(name, _)| *name == name_of_part).unwrap();
        let len = std::fs::metadata(genuine.root().join(&path)).unwrap().len();
        let len = usize::try_from(len).unwrap();
        // Unit tests damage every byte of the letters; here every part of each file has a turn.
        for at in (0..len).step_by(len / 20 + 1).chain([len - 1]) {
            let scratch = tempfile::tempdir().unwrap();
            let rule = server.rule(Rule::on(format!("*/{path}")).flip_bit(at * 8 + at % 8));
            let output = ls(&genuine, &server, scratch.path()).output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(CATALOG_FAILURE), "byte {at}: {message}");
            assert!(output.stdout.is_empty(), "byte {at}");
            assert!(message.contains(&server.url()), "byte {at}: no server in {message}");
            let allowed = if name_of_part == "root catalog" { 1 } else { 0 };
            let stored = objects_in(scratch.path());
            // The certificate was good and may stay; nothing of the damaged file may.
            assert!(stored.len() <= allowed, "byte {at}: {stored:?}");
            assert!(stored.iter().all(|path| path.ends_with('X')), "byte {at}: {stored:?}");
            server.remove(rule);
        }
        // The same server, undamaged, is fine: it was the byte.
        let scratch = tempfile::tempdir().unwrap();
        assert!(ls(&genuine, &server, scratch.path()).status().unwrap().success());
    });
}

#[test]
fn flipped_manifest() {
    flips("manifest");
}

#[test]
fn flipped_whitelist() {
    flips("whitelist");
}

#[test]
fn flipped_certificate() {
    flips("certificate");
}

#[test]
fn flipped_root_catalog() {
    flips("root catalog");
}

/// A real mount is refused just so, and leaves the mountpoint as it was.
#[test]
fn mounts_are_refused() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        for (name, path) in chain(&genuine) {
            let cache = tempfile::tempdir().unwrap();
            let rule = server.rule(Rule::on(format!("*/{path}")).flip_bit(80));
            let spec = MountSpec::genuine(&client!(), &genuine, &server).cache_dir(cache.path());
            let failure = spec.try_start().err().unwrap_or_else(|| panic!("{name} was accepted"));
            assert!(format!("{failure:?}").contains("(16 - file catalog failure)"), "{failure:?}");
            assert!(
                objects_in(cache.path()).iter().all(|path| path.ends_with('X')),
                "{name}: {:?}",
                objects_in(cache.path())
            );
            server.remove(rule);
        }
    });
}
