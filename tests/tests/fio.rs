//! fio wrote checksums into each block of some files before they were published; it finds them all
//! through a mount whose cache evicts, by each way of input that it knows.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(200);
/// Less than the files have together.
const QUOTA: &str = "10M";
const MIB: u64 = 1 << 20;
/// Times that each file is read; the kernel drops its pages before each job.
const JOBS: u64 = 2;

/// A file that fio can verify: block size, length, length of a chunk.
struct Laid {
    name: &'static str,
    block: u64,
    len: u64,
    chunk: Option<u64>,
}

const FILES: [Laid; 3] = [
    Laid { name: "whole", block: 4096, len: 6 * MIB, chunk: None },
    Laid { name: "chunked", block: 64 << 10, len: 8 * MIB, chunk: Some(MIB) },
    Laid { name: "crooked", block: 16 << 10, len: 4 * MIB, chunk: Some(100_003) },
];

/// Engine, and whether it goes past the page cache.
const ENGINES: [(&str, bool); 8] = [
    ("psync", false),
    ("psync", true),
    ("pvsync2", false),
    ("mmap", false),
    ("splice", false),
    ("libaio", true),
    ("io_uring", false),
    ("io_uring", true),
];

fn fio(arguments: &[String]) -> Output {
    let mut fio = Command::new("fio");
    fio.args(["--verify=crc32c", "--output-format=json"]).args(arguments).stdin(Stdio::null());
    fio.output().unwrap_or_else(|error| panic!("needs fio (apt-get install fio): {error}"))
}

/// Lays the files out in a native directory.
fn lay_out(directory: &Path) {
    for Laid { name, block, len, .. } in FILES {
        let output = fio(&[
            format!("--name={name}"),
            format!("--filename={}", directory.join(name).display()),
            format!("--bs={block}"),
            format!("--size={len}"),
            "--rw=write".to_owned(),
            "--do_verify=0".to_owned(),
        ]);
        assert!(output.status.success(), "{output:?}");
    }
}

/// Reads a file in random order and verifies each block.
fn verify(path: &Path, file: &Laid, (engine, direct): (&str, bool)) -> Output {
    fio(&[
        format!("--name={engine}"),
        format!("--filename={}", path.display()),
        format!("--bs={}", file.block),
        format!("--size={}", file.len),
        format!("--ioengine={engine}"),
        format!("--direct={}", u8::from(direct)),
        format!("--numjobs={JOBS}"),
        "--iodepth=8".to_owned(),
        "--rw=randread".to_owned(),
        "--readonly".to_owned(),
        "--group_reporting".to_owned(),
    ])
}

/// How many bytes were read: some tools say that all is well when they did nothing.
fn bytes_read(output: &Output) -> u64 {
    // Notes about engines stand in front.
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text.find('{').map(|start| &text[start..]).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(json).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    value["jobs"][0]["read"]["io_bytes"].as_u64().unwrap()
}

/// Engines that work here on a native file; containers may forbid io_uring.
fn engines(native: &Path) -> Vec<(&'static str, bool)> {
    let works = |engine: &(&str, bool)| {
        let works = verify(&native.join(FILES[0].name), &FILES[0], *engine).status.success();
        #[allow(clippy::print_stderr, reason = "what is left out must be told")]
        if !works {
            eprintln!("NOT CHECKED: {engine:?} does not work on native files here");
        }
        works
    };
    let working: Vec<_> = ENGINES.into_iter().filter(works).collect();
    assert!(working.len() > ENGINES.len() / 2, "fio does not work here: {working:?}");
    working
}

fn publish(native: &Path) -> Published {
    let mut repo = TestRepo::new("fio.test.repo");
    for Laid { name, chunk, .. } in FILES {
        let bytes = fs::read(native.join(name)).unwrap();
        let mut flipped = bytes.clone();
        let middle = flipped.len() / 2 + 1000;
        flipped[middle] ^= 1;
        for (directory, bytes) in [("right", bytes), ("flipped", flipped)] {
            let entry = repo.file(format!("/{directory}/{name}"), bytes);
            if let Some(size) = chunk {
                entry.chunked(size);
            }
        }
    }
    repo.publish()
}

fn all(mount: &TestMount, directory: &str) -> impl Iterator<Item = (PathBuf, &'static Laid)> {
    let directory = mount.path(directory);
    FILES.iter().map(move |file| (directory.join(file.name), file))
}

#[test]
fn each_block_is_what_fio_wrote() {
    deadline(LIMIT, || {
        let native = tempfile::tempdir().unwrap();
        lay_out(native.path());
        let engines = engines(native.path());
        let published = publish(native.path());
        let server = TestServer::serving(published.root());
        let mount = MountSpec::published(&client!(), &published, &[&server])
            .arg(format!("--quota={QUOTA}"))
            .open_files(256)
            .start();
        // All engines side by side, so that they evict each other's objects.
        std::thread::scope(|scope| {
            for &engine in &engines {
                let mount = &mount;
                scope.spawn(move || {
                    for (path, file) in all(mount, "right") {
                        let output = verify(&path, file, engine);
                        assert!(output.status.success(), "{engine:?}: {output:?}");
                        assert_eq!(bytes_read(&output), JOBS * file.len, "{engine:?}");
                    }
                });
            }
        });
        // Objects of files, without catalogs; a second copy of them was not read yet.
        let fetched = server.count("*/data/*") - server.count("*/data/*C");
        let chunks = |file: &Laid| file.chunk.map_or(1, |chunk| file.len.div_ceil(chunk));
        let objects: u64 = FILES.iter().map(chunks).sum();
        assert!(fetched as u64 > objects, "{fetched} fetches of {objects} objects: no eviction");

        // The control: a flipped bit is noticed, by every engine.
        for &engine in &engines {
            for (path, file) in all(&mount, "flipped") {
                let output = verify(&path, file, engine);
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                let is_noticed = !output.status.success() && told.contains("verify failed");
                assert!(is_noticed, "{engine:?} found nothing wrong in {path:?}: {told}");
            }
        }
    });
}
