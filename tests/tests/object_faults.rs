//! One object, one server that fails and perhaps a second good one: each fault of
//! facts/behaviours.md section 3.1, what the reader gets, and who was asked how often.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io;
use std::time::{Duration, Instant};

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Rule, TestServer};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(100);
const FQRN: &str = "object.test.repo";
/// The timeout of an impatient mount (T of the table) and what a path may take beyond it.
const TIMEOUT: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(1);

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn content() -> Vec<u8> {
    noise(1, 200_000)
}

/// A repository on two servers, of which the first will fail.
struct Scene {
    object: String,
    a: TestServer,
    b: TestServer,
    published: Published,
}

impl Scene {
    fn new() -> Self {
        let mut repo = TestRepo::new(FQRN);
        repo.file("/f", content());
        repo.file("/other", b"other".to_vec());
        let published = repo.publish();
        let object = published.object_path(&published.file_object("/f").unwrap());
        let object = format!("*/{}", object.file_name().unwrap().to_str().unwrap());
        let [a, b] = [(); 2].map(|()| TestServer::serving(published.root()));
        Self { object, a, b, published }
    }

    fn mount(&self, servers: &[&TestServer]) -> TestMount {
        MountSpec::published(&client!(), &self.published, servers).impatient().start()
    }

    /// How often each server was asked for the object.
    fn asked(&self) -> (usize, usize) {
        (self.a.count(&self.object), self.b.count(&self.object))
    }
}

type Spoil = fn(Rule) -> Rule;

/// One row: result and requests with A alone, and requests to A and B with both (always good).
struct Row {
    name: &'static str,
    spoil: Spoil,
    alone: (bool, usize),
    both: (usize, usize),
}

const fn row(name: &'static str, spoil: Spoil, alone: (bool, usize), both: (usize, usize)) -> Row {
    Row { name, spoil, alone, both }
}

const GOOD: bool = true;
const EIO: bool = false;

const ROWS: [Row; 17] = [
    row("one bit flipped, always", |r| r.flip_bit(1000), (EIO, 2), (2, 1)),
    row("flipped once only", |r| r.first(1).flip_bit(1000), (GOOD, 2), (2, 0)),
    row("cut once", |r| r.first(1).cut_after(1000), (GOOD, 2), (1, 1)),
    row("cut always", |r| r.cut_after(1000), (EIO, 2), (1, 1)),
    row("empty body", |r| r.body(""), (EIO, 2), (2, 1)),
    row("404", |r| r.status(404), (EIO, 1), (1, 1)),
    row("500", |r| r.status(500), (EIO, 1), (1, 1)),
    row("403", |r| r.status(403), (EIO, 1), (1, 1)),
    row("connection closed", Rule::close, (EIO, 2), (1, 1)),
    row("connection reset", Rule::reset, (EIO, 2), (1, 1)),
    // The body is as it should be; what the header says of it is nobody's business.
    row("gzip", |r| r.with_header("Content-Encoding", "gzip"), (GOOD, 1), (1, 0)),
    row("silent", |r| r.delay(Duration::from_secs(30)), (EIO, 1), (1, 1)),
    row("stall in the body", |r| r.stall_after(1000), (EIO, 1), (1, 1)),
    row("500 bytes/s", |r| r.bytes_per_second(500), (EIO, 1), (1, 1)),
    row("redirect", |r| r.redirect("http://127.0.0.1:9/x"), (EIO, 1), (1, 1)),
    row("longer than the catalog says", |r| r.body(noise(1, 900_000)), (EIO, 1), (1, 1)),
    row("endless", Rule::endless, (EIO, 2), (2, 1)),
];

/// What never ends is either found damaged, and then asked for once more, or too long.
fn as_often(name: &str, asked: usize, expected: usize) -> bool {
    asked == expected || (name == "endless" && asked == 1)
}

fn read_timed(mount: &TestMount) -> (io::Result<Vec<u8>>, Duration) {
    let start = Instant::now();
    let result = std::fs::read(mount.path("f"));
    (result, start.elapsed())
}

#[test]
fn faults_of_the_only_server() {
    deadline(LIMIT, || {
        let mut wrong = Vec::new();
        for Row { name, spoil, alone: (good, requests), .. } in ROWS {
            let scene = Scene::new();
            let mount = scene.mount(&[&scene.a]);
            scene.a.rule(spoil(Rule::on(&*scene.object)));
            let (result, time) = read_timed(&mount);
            let outcome = match result {
                Ok(bytes) => {
                    assert!(bytes == content(), "{name}: wrong bytes");
                    GOOD
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
                    EIO
                }
            };
            let bound = TIMEOUT + GRACE;
            if outcome != good || !as_often(name, scene.asked().0, requests) || time > bound * 2 {
                wrong.push((name, outcome, scene.asked().0, time));
            }
            // Heals by itself, whatever it was.
            scene.a.clear();
            assert!(std::fs::read(mount.path("f")).unwrap() == content(), "{name}: not healed");
            if name == "one bit flipped, always" {
                let name_of_object = scene.object.trim_start_matches('*');
                let no_cache: Vec<_> = scene
                    .a
                    .requests()
                    .iter()
                    .filter(|request| request.path.ends_with(name_of_object))
                    .map(|request| request.header("pragma").is_some())
                    .collect();
                assert_eq!(no_cache[..2], [false, true], "{name}: the second without caches");
            }
        }
        assert!(wrong.is_empty(), "(name, good, requests, time): {wrong:#?}");
    });
}

#[test]
fn faults_of_the_first_of_two_servers() {
    deadline(LIMIT, || {
        let mut wrong = Vec::new();
        for Row { name, spoil, both, .. } in ROWS {
            let scene = Scene::new();
            let mount = scene.mount(&[&scene.a, &scene.b]);
            scene.a.rule(spoil(Rule::on(&*scene.object)));
            let (result, time) = read_timed(&mount);
            let good = result.is_ok_and(|bytes| bytes == content());
            let (a, b) = scene.asked();
            let often = as_often(name, a, both.0) && b == both.1;
            if !good || !often || time > TIMEOUT + GRACE + GRACE {
                wrong.push((name, good, scene.asked(), time));
            }
        }
        assert!(wrong.is_empty(), "(name, good, requests, time): {wrong:#?}");
    });
}

#[test]
fn retry_after_is_obeyed_within_a_bound() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        let mount = scene.mount(&[&scene.a]);
        scene.a.rule(Rule::on(&*scene.object).first(1).status(429).with_header("Retry-After", "1"));
        let (result, time) = read_timed(&mount);
        assert!(result.is_ok_and(|bytes| bytes == content()), "{:?}", scene.asked());
        assert!(time >= Duration::from_millis(900), "{time:?}");
        // A day is not waited for.
        let scene = Scene::new();
        let mount = scene.mount(&[&scene.a, &scene.b]);
        scene.a.rule(Rule::on(&*scene.object).status(429).with_header("Retry-After", "86400"));
        let (result, time) = read_timed(&mount);
        assert!(result.is_ok_and(|bytes| bytes == content()), "{:?}", scene.asked());
        assert!(time < Duration::from_secs(15), "{time:?}");
    });
}

#[test]
fn a_redirect_is_followed_only_where_that_is_allowed() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        let elsewhere = TestServer::serving(scene.published.root());
        let path = scene.published.object_path(&scene.published.file_object("/f").unwrap());
        let path = path.strip_prefix(scene.published.root()).unwrap().display().to_string();
        let target = format!("{}/{path}", elsewhere.url());
        scene.a.rule(Rule::on(&*scene.object).redirect(&target));
        let (result, _) = read_timed(&scene.mount(&[&scene.a]));
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(elsewhere.connections(), 0, "a server outside the list was asked");
        let allowed = MountSpec::published(&client!(), &scene.published, &[&scene.a])
            .arg("--set=CVMFS_FOLLOW_REDIRECTS=yes")
            .start();
        assert!(std::fs::read(allowed.path("f")).unwrap() == content());
        assert_eq!(elsewhere.count(&scene.object), 1);
    });
}

#[test]
fn a_slow_but_steady_transfer_is_good_and_others_stay_fast() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        let mount = scene.mount(&[&scene.a]);
        scene.a.rule(Rule::on(&*scene.object).bytes_per_second(40_000));
        let path = mount.path("f");
        let slow = std::thread::spawn(move || std::fs::read(path));
        assert!(scene.a.wait_for(&scene.object, 1, GRACE * 20));
        assert_eq!(std::fs::read(mount.path("other")).unwrap(), b"other");
        assert!(!slow.is_finished(), "the slow one delayed the other");
        assert!(slow.join().unwrap().unwrap() == content());
        assert_eq!(scene.asked().0, 1);
    });
}
