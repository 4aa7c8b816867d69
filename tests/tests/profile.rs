//! What a program used at its last start is fetched ahead at the next one, on any machine; and what
//! a publisher says is needed along with a file.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Gate, Network, Rule, TestServer};
use tempfile::TempDir;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const FQRN: &str = "profile.test.repo";
const LIMIT: Duration = Duration::from_secs(150);
const SOON: Duration = Duration::from_secs(40);
/// Directories, with a few files each; programs read one of them, so neighbours explain nothing.
const DIRECTORIES: usize = 150;

fn content(name: &str) -> Vec<u8> {
    name.repeat(40).into_bytes()
}

fn name(directory: usize, file: usize) -> String {
    format!("w/d{directory}/f{file}")
}

/// The files of a program in the order of their use; `file` tells programs apart.
fn program(file: usize) -> Vec<String> {
    // 97 has no divisor in common with the number of directories.
    (0..DIRECTORIES).map(|step| name((step * 97 + 13 * file) % DIRECTORIES, file)).collect()
}

fn tree() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(3600);
    for directory in 0..DIRECTORIES {
        for file in 0..3 {
            let name = name(directory, file);
            repo.file(format!("/{name}"), content(&name));
        }
    }
    repo
}

fn mounted(published: &Published, server: &TestServer, cache: &Path) -> TestMount {
    MountSpec::published(&client!(), published, &[server]).cache_dir(cache).start()
}

fn read(mount: &TestMount, name: &str) {
    assert_eq!(fs::read(mount.path(name)).unwrap(), content(name), "{name}");
}

/// The end of the path of a file's object on the server.
fn object(published: &Published, name: &str) -> String {
    let object = published.file_object(format!("/{name}")).unwrap();
    let path = published.object_path(&object);
    let path = path.iter().rev().take(2).map(|part| part.to_str().unwrap());
    let [rest, start] = path.collect::<Vec<_>>()[..] else { panic!("two parts") };
    format!("{start}/{rest}")
}

fn asked(server: &TestServer, objects: &HashSet<String>) -> usize {
    let is_one = |path: &str| {
        let at = path.len().saturating_sub(object_len(objects));
        path.get(at..).is_some_and(|end| objects.contains(end))
    };
    server.requests().iter().filter(|request| is_one(&request.path)).count()
}

fn object_len(objects: &HashSet<String>) -> usize {
    objects.iter().next().map_or(0, String::len)
}

fn objects(published: &Published, names: &[String]) -> HashSet<String> {
    names.iter().map(|name| object(published, name)).collect()
}

/// Objects in an attribute about them.
fn count(mount: &TestMount, name: &str) -> usize {
    mount.attribute(name).unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn profile(arguments: &[&str], cache: &Path, command: &[&str]) -> Output {
    let mut program = client!().command();
    program.arg("profile").args(arguments).arg("--cache-dir").arg(cache);
    if !command.is_empty() {
        program.arg("--").args(command);
    }
    program.output().unwrap()
}

#[track_caller]
fn succeeded(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn temporary() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn json(cache: &Path) -> serde_json::Value {
    serde_json::from_str(&succeeded(profile(&["show", FQRN, "--json"], cache, &[]))).unwrap()
}

/// Ids of all objects that a profile names.
fn known(cache: &Path) -> HashSet<String> {
    let shown = json(cache);
    let segments = shown["segments"].as_array().unwrap();
    let objects = segments.iter().flat_map(|segment| segment["objects"].as_array().unwrap());
    objects.map(|object| object["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_second_start_on_another_machine_finds_all_files_there() {
    deadline(LIMIT, || {
        let published = tree().publish();
        let server = TestServer::serving(published.root());
        let (here, there, files) = (temporary(), temporary(), temporary());
        let order = program(0);
        let first = mounted(&published, &server, here.path());
        order.iter().for_each(|name| read(&first, name));
        assert_eq!(count(&first, "user.prefetched"), 0, "nothing explains it yet");
        assert!(first.unmount().success());
        let shown = succeeded(profile(&["show", FQRN], here.path(), &[]));
        assert_eq!(shown.lines().count(), 1 + DIRECTORIES.div_ceil(64), "{shown}");
        assert_eq!(known(here.path()).len(), DIRECTORIES);

        let file = files.path().join("p");
        let path = file.to_str().unwrap();
        succeeded(profile(&["export", FQRN, "-o", path], here.path(), &[]));
        let text = succeeded(profile(&["export", FQRN], here.path(), &[]));
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        let told = succeeded(profile(&["import", FQRN, path], there.path(), &[]));
        assert!(told.contains(&format!("{DIRECTORIES} objects in 3 segments")), "{told}");
        let other = profile(&["import", "other.test.repo", path], there.path(), &[]);
        assert!(!other.status.success());
        assert!(String::from_utf8_lossy(&other.stderr).contains(FQRN));

        server.reset_log();
        let all = objects(&published, &order);
        let second = mounted(&published, &server, there.path());
        read(&second, &order[0]);
        wait_until(SOON, "all others", || asked(&server, &all) == DIRECTORIES).unwrap();
        let fetched = || count(&second, "user.prefetched");
        wait_until(SOON, "all are stored", || fetched() == DIRECTORIES - 1).unwrap();
        server.set_network(Network::Refusing);
        order.iter().for_each(|name| read(&second, name));
        assert_eq!(count(&second, "user.prefetch_used"), DIRECTORIES - 1, "no waste");
        assert_eq!(asked(&server, &all), DIRECTORIES, "nothing is fetched twice");
        let others = objects(&published, &program(1));
        assert_eq!(asked(&server, &others), 0, "and no neighbours");
    });
}

#[test]
fn who_goes_another_way_fetches_little_and_it_is_forgotten() {
    deadline(LIMIT, || {
        let published = tree().publish();
        let server = TestServer::serving(published.root());
        let cache = temporary();
        let usual = program(0);
        let first = mounted(&published, &server, cache.path());
        usual.iter().for_each(|name| read(&first, name));
        first.unmount();
        succeeded(profile_clean(cache.path()));

        let guessed = objects(&published, &usual[1..]);
        let gate = Gate::new();
        let (is_guessed, len) = (guessed.clone(), object_len(&guessed));
        server.rule(
            Rule::when(move |request| {
                let at = request.path.len().saturating_sub(len);
                request.path.get(at..).is_some_and(|end| is_guessed.contains(end))
            })
            .gate(&gate),
        );
        let second = mounted(&published, &server, cache.path());
        server.reset_log();
        read(&second, &usual[0]);
        assert!(gate.wait_held(8, SOON), "it is taken for the usual program");
        // What is asked for passes by what is guessed.
        let other = program(1);
        other[..20].iter().for_each(|name| read(&second, name));
        gate.release();
        let settled = || count(&second, "user.prefetched") == asked(&server, &guessed);
        wait_until(SOON, "what was under way", settled).unwrap();
        other[20..60].iter().for_each(|name| read(&second, name));
        wait_until(SOON, "what was under way", settled).unwrap();
        let wasted = asked(&server, &guessed);
        // Those that were under way when it was noticed: 48, and what had been answered before.
        assert!(wasted <= 56, "{wasted} of {} were fetched", guessed.len());
        let before = known(cache.path());
        assert!(second.attribute("user.profile_saved").is_some());
        let after = known(cache.path());
        assert_eq!(before.difference(&after).count(), wasted, "guessed wrong, and dropped");
        assert_eq!(after.difference(&before).count(), 60, "and the other way is known");
    });
}

fn profile_clean(cache: &Path) -> Output {
    let mut command = client!().command();
    command.args(["cache", "clean", "--to", "0", "--cache-dir"]).arg(cache).output().unwrap()
}

/// Finds the file of the profile, wherever the cache keeps its records.
fn record_in(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.into_iter().find_map(|path| match path.is_dir() {
        true => record_in(&path),
        false => path.ends_with(format!("{FQRN}.profile")).then_some(path),
    })
}

#[test]
fn processes_that_share_a_cache_learn_for_each_other() {
    deadline(LIMIT, || {
        let published = tree().publish();
        let server = TestServer::serving(published.root());
        let cache = temporary();
        let one = mounted(&published, &server, cache.path());
        let other = mounted(&published, &server, cache.path());
        for (ours, theirs) in program(0).iter().zip(&program(1)) {
            read(&one, ours);
            read(&other, theirs);
        }
        // Both read the record when they were first used: it was empty.
        assert!(one.attribute("user.profile_saved").is_some());
        assert!(other.unmount().success());
        assert!(one.unmount().success());
        assert_eq!(known(cache.path()).len(), 2 * DIRECTORIES);
        // And one that is damaged is begun anew.
        let record = record_in(cache.path()).unwrap();
        fs::write(&record, b"cvmfs-fuse profile 1 profile.test.repo\ns 1\no ../../etc 1 1\n")
            .unwrap();
        let third = mounted(&published, &server, cache.path());
        program(2).iter().for_each(|name| read(&third, name));
        assert!(third.unmount().success());
        assert_eq!(known(cache.path()).len(), DIRECTORIES);
    });
}

#[test]
fn a_command_is_recorded() {
    deadline(LIMIT, || {
        let published = tree().publish();
        let server = TestServer::serving(published.root());
        let (here, there, files) = (temporary(), temporary(), temporary());
        let file = files.path().join("p");
        let path = file.to_str().unwrap();
        let mount = mounted(&published, &server, here.path());
        // Not of the command.
        program(1).iter().for_each(|name| read(&mount, name));
        let order = program(0);
        let names: Vec<_> =
            order.iter().map(|name| mount.path(name).to_str().unwrap().to_owned()).collect();
        let script = format!("cat {} >/dev/null; exit 7", names.join(" "));
        let root = mount.root().to_str().unwrap();
        let record = ["record", FQRN, "--mount", root, "-o", path];
        let recorded = profile(&record, here.path(), &["sh", "-c", &script]);
        let stderr = String::from_utf8_lossy(&recorded.stderr);
        assert_eq!(recorded.status.code(), Some(7), "{stderr}");
        let told = succeeded(profile(&["import", FQRN, path], there.path(), &[]));
        assert!(told.contains(&format!("{DIRECTORIES} objects in 3 segments")), "{told}");

        // Nothing is used: the kernel has it all.
        let nothing = profile(&record, here.path(), &["true"]);
        assert_eq!(nothing.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&nothing.stderr).contains("nothing new"));
        let missing = profile(&record, here.path(), &["/nonexistent/x"]);
        assert_eq!(missing.status.code(), Some(127));
        let elsewhere = ["record", FQRN, "--mount", "/", "-o", path];
        assert_eq!(profile(&elsewhere, here.path(), &["true"]).status.code(), Some(1));

        let second = mounted(&published, &server, there.path());
        read(&second, &order[0]);
        let fetched = || count(&second, "user.prefetched");
        wait_until(SOON, "all are stored", || fetched() == DIRECTORIES - 1).unwrap();
        let none = temporary();
        let shown = profile(&["show", FQRN], none.path(), &[]);
        assert!(String::from_utf8_lossy(&shown.stderr).contains("nothing is known"));
    });
}

#[test]
fn bundles_are_fetched_and_block_nobody() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(3600);
        let big: Vec<u8> = (0..3_u32 << 20).map(|n| (n % 253).to_le_bytes()[0]).collect();
        repo.chunked("/lib/big", big.clone(), 1 << 20);
        for file in ["app/run", "app/bad", "lib/one", "other/two", "unnamed/three"] {
            repo.file(format!("/{file}"), content(file));
        }
        repo.nested("/other");
        let bundle = r#"{"name": "CVMFS_BUNDLE", "version": 1, "encoding": "utf-8", "more": {},
            "dependencies": ["/lib/one", "/missing", "/lib", "relative", "/lib/big", "/other/two"]}"#;
        repo.file("/app/.cvmfsbundle-run", bundle.as_bytes().to_vec());
        repo.file("/app/.cvmfsbundle-bad", b"{\"name\": \"CVMFS_BUNDLE\"".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let gate = Gate::new();
        let held = object(&published, "app/.cvmfsbundle-run");
        server.rule(Rule::on(format!("*/{held}")).gate(&gate));
        let cache = temporary();
        let mount = mounted(&published, &server, cache.path());
        read(&mount, "app/bad");
        read(&mount, "app/run");
        assert!(gate.wait_held(1, SOON), "read while its bundle is not there");
        gate.release();
        // The two bundles, three chunks, and two files.
        let fetched = || count(&mount, "user.prefetched");
        wait_until(SOON, "dependencies", || fetched() == 2 + 3 + 2).unwrap();
        server.set_network(Network::Refusing);
        read(&mount, "lib/one");
        read(&mount, "other/two");
        assert!(fs::read(mount.path("lib/big")).unwrap() == big);
        assert!(fs::read(mount.path("unnamed/three")).is_err());
    });
}
