//! The commands on the bundled genuine repository, over HTTP.

use std::cell::RefCell;
use std::rc::Rc;

use clap::Parser as _;

use super::super::args::{Cli, Command};
use super::*;
use crate::demo::archive;
use crate::demo::server::DemoServer;

#[derive(Clone, Default)]
struct Captured(Rc<RefCell<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails as a closed pipe does.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    server: DemoServer,
    home: tempfile::TempDir,
    environment: Environment,
}

impl Bench {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("key"), archive::MASTER_KEY).unwrap();
        let environment = Environment {
            is_root: false,
            home: None,
            cache_home: Some(home.path().to_owned()),
            config_home: None,
            log: None,
            http_proxy: None,
            configuration: "/nonexistent".into(),
            reads_config_repository: true,
        };
        Self {
            server: DemoServer::start(archive::unpack().unwrap()).await.unwrap(),
            home,
            environment,
        }
    }

    /// Runs a line such as `ls -l small.test.repo:/` with the flags for the server.
    async fn run_into(&self, line: &str, output: Output) -> Result<ExitStatus, Failure> {
        let key = self.home.path().join("key").display().to_string();
        let server = self.server.base_url("@fqrn@");
        let flags = ["--server", &server, "--public-key", &key];
        let words = ["cvmfs-fuse"].into_iter().chain(line.split(' ')).chain(flags);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Ls(args) => {
                let mut reader =
                    Reader::new(&args.repository, &self.environment, output, &args.targets);
                let outcome = ls::run(&mut reader, &args).await;
                reader.finish(outcome)
            }
            Command::Cat(args) => {
                let mut reader =
                    Reader::new(&args.repository, &self.environment, output, &args.targets);
                let outcome = cat::run(&mut reader, &args).await;
                reader.finish(outcome)
            }
            Command::Stat(args) => {
                let mut reader =
                    Reader::new(&args.repository, &self.environment, output, &args.targets);
                let outcome = stat::run(&mut reader, &args).await;
                reader.finish(outcome)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn run(&self, line: &str) -> (Result<u8, u8>, Vec<u8>) {
        let captured = Captured::default();
        let output = Output { writer: Box::new(captured.clone()), is_terminal: false };
        let outcome = self.run_into(line, output).await;
        let codes = outcome.map(ExitStatus::code).map_err(|failure| failure.status.code());
        (codes, captured.0.take())
    }

    async fn text(&self, line: &str) -> String {
        let (code, output) = self.run(line).await;
        assert_eq!(code, Ok(0), "{line}");
        String::from_utf8(output).unwrap()
    }
}

#[tokio::test]
async fn listings() {
    let bench = Bench::new().await;
    let root = bench.text("ls small.test.repo:/").await;
    assert_eq!(root.lines().count(), 21);
    assert!(root.starts_with("big-chunked.bin\nbin\n"), "{root}");
    let long = bench.text("ls -l small.test.repo:/special").await;
    let columns: Vec<_> =
        long.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(columns, ["brw-r--r--", "crw-r--r--", "prw-r--r--", "srwxr-xr-x"]);
    assert!(long.lines().nth(1).unwrap().contains(" 1, 3 "), "{long}");

    let both = bench.text("ls small.test.repo:/empty-dir small.test.repo:/deep").await;
    assert_eq!(both, "small.test.repo:/empty-dir:\n\nsmall.test.repo:/deep:\na\n");
    // A link that leads nowhere is listed itself; names are raw for programs.
    let link = bench.text("ls -l small.test.repo:/links/dangling").await;
    assert!(link.ends_with(" small.test.repo:/links/dangling -> missing\n"), "{link}");
    let (_, names) = bench.run("ls small.test.repo:/names").await;
    assert!(names.windows(10).any(|w| w == b"bad\xff\xfeutf8\n"), "raw bytes");
    let many = bench.text("ls small.test.repo:/many").await;
    assert_eq!(many.lines().count(), 3000);
}

#[tokio::test]
async fn names_are_escaped_for_people() {
    let bench = Bench::new().await;
    let captured = Captured::default();
    let output = Output { writer: Box::new(captured.clone()), is_terminal: true };
    bench.run_into("ls small.test.repo:/names", output).await.unwrap();
    let shown = String::from_utf8(captured.0.take()).unwrap();
    assert!(
        shown.contains("\nbad\\xff\\xfeutf8\n") && shown.contains("\nnew\\x0aline\n"),
        "{shown}"
    );
}

#[tokio::test]
async fn contents() {
    let bench = Bench::new().await;
    assert_eq!(bench.text("cat small.test.repo:/hello.txt").await, "hello cvmfs\n");
    let twice = bench.text("cat small.test.repo:/links/up small.test.repo:/rel-link").await;
    assert_eq!(twice, "hello cvmfs\nhello cvmfs\n");
    // Digests from the truth file of the genuine client.
    for (path, digest) in [
        ("big-chunked.bin", "65c3df5ec30051e84ee5d28b9a84464efbd6943f84facc40c08d3ab42aeef887"),
        ("zeros.bin", "3fb3661f659e89fea0d325bc25ae17d9410cd6c85867e55ed641ed062650a55e"),
        ("empty", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ] {
        use sha2::Digest as _;
        let (code, content) = bench.run(&format!("cat small.test.repo:/{path}")).await;
        let found: String =
            sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((code, found.as_str()), (Ok(0), digest), "{path}");
    }
}

#[tokio::test]
async fn facts() {
    let bench = Bench::new().await;
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let file = json(bench.text("stat --json small.test.repo:/big-chunked.bin").await);
    assert_eq!(file["size"], 3_158_073);
    assert_eq!(file["mode"], "0644");
    assert_eq!(file["mtime_ns"], 936_096_746);
    assert_eq!(file["chunks"].as_array().unwrap().len(), 8);
    assert_eq!(file["chunks"][7]["offset"], 2_933_697);
    let link = json(bench.text("stat --json small.test.repo:/links/variant-default").await);
    assert_eq!((&link["kind"], &link["target"]), (&"symlink".into(), &"fallback/x".into()));
    let xattrs = json(bench.text("stat --json small.test.repo:/xattrs/f").await);
    let values: Vec<_> = xattrs["xattrs"].as_array().unwrap().iter().collect();
    assert!(values.contains(&&serde_json::json!({ "name": "user.color", "value": "blue" })));
    assert!(
        values
            .contains(&&serde_json::json!({ "name": "user.binary", "value": { "hex": "00ff10" } }))
    );
    let inner = json(bench.text("stat --json small.test.repo:/nested/one").await);
    assert_eq!(inner["catalog"]["path"], "/nested");
    let text = bench.text("stat small.test.repo:/hello.txt").await;
    assert!(text.contains("     Size: 12\n     Mode: 0644 (-rw-r--r--)\n"), "{text}");
}

#[tokio::test]
async fn failures_and_their_codes() {
    let bench = Bench::new().await;
    // The others are still shown.
    let (code, output) = bench.run("cat small.test.repo:/nope small.test.repo:/hello.txt").await;
    assert_eq!((code, output.as_slice()), (Ok(1), &b"hello cvmfs\n"[..]));
    for (line, code) in [
        ("ls small.test.repo:/nope", Ok(1)),
        ("ls small.test.repo:/hello.txt/below", Ok(1)),
        ("cat small.test.repo:/nested", Ok(1)),
        ("cat small.test.repo:/special/fifo", Ok(1)),
        ("cat small.test.repo:/links/abs", Ok(1)),
        ("stat small.test.repo:/nope", Ok(1)),
        ("ls other.test.repo:/", Err(16)),
        ("ls --tag nope small.test.repo:/", Err(22)),
        ("ls small.test.repo:/a/../b", Err(2)),
        ("ls --proxy auto small.test.repo:/", Err(23)),
    ] {
        assert_eq!(bench.run(line).await.0, code, "{line}");
    }
    let closed = Output { writer: Box::new(Closed), is_terminal: false };
    let outcome = bench.run_into("cat small.test.repo:/zeros.bin", closed).await;
    assert_eq!(outcome, Ok(ExitStatus::Ok));
    // No disk for the cache: memory does it.
    std::fs::write(bench.home.path().join("file"), "").unwrap();
    let line = format!(
        "cat --cache-dir {} small.test.repo:/hello.txt",
        bench.home.path().join("file").display()
    );
    assert_eq!(bench.text(&line).await, "hello cvmfs\n");
}
