//! Readers that wait for the network: one's Ctrl-C ends only that one, and where the user wants it
//! a read waits as long as it must.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Gate, Network, Rule, TestServer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{MountSpec, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(100);
const SOON: Duration = Duration::from_secs(20);
const FQRN: &str = "waiting.test.repo";

fn published() -> Published {
    let mut repo = TestRepo::new(FQRN);
    repo.file("/slow", b"worth waiting for".to_vec());
    repo.file("/patient", b"as long as it takes".to_vec());
    repo.publish()
}

fn object(published: &Published, path: &str) -> String {
    let object = published.object_path(&published.file_object(path).unwrap());
    format!("*/{}", object.file_name().unwrap().to_str().unwrap())
}

#[test]
fn an_interrupted_reader_ends_at_once_and_the_others_get_their_data() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let mount =
            MountSpec::new(&client!(), FQRN, &server.base(FQRN), &published.public_key()).start();
        let slow = object(&published, "/slow");
        let gate = Gate::new();
        server.rule(Rule::on(&*slow).gate(&gate));
        for signal in [Signal::SIGINT, Signal::SIGKILL] {
            let mut reader = Command::new("cat")
                .arg(mount.path("slow"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            assert!(gate.wait_held(1, SOON));
            let path = mount.path("slow");
            let other = std::thread::spawn(move || std::fs::read(path));
            let start = Instant::now();
            kill(Pid::from_raw(reader.id().cast_signed()), signal).unwrap();
            let mut ended = None;
            wait_until(SOON, "the end of the reader", || {
                ended = reader.try_wait().unwrap();
                ended.is_some()
            })
            .unwrap();
            assert!(!ended.unwrap().success());
            // The server would be silent for 10 s more.
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
            if signal == Signal::SIGKILL {
                gate.release();
                assert_eq!(other.join().unwrap().unwrap(), b"worth waiting for");
            } else {
                assert!(!other.is_finished(), "the other reader was cancelled, too");
            }
        }
        assert_eq!(server.count(&slow), 1, "one request for all of them");
    });
}

#[test]
fn a_patient_read_waits_for_the_network_and_can_be_interrupted() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let mount = MountSpec::new(&client!(), FQRN, &server.base(FQRN), &published.public_key())
            .arg("--set=CVMFS_FAILOVER_INDEFINITELY=yes")
            .arg("--set=CVMFS_MAX_RETRIES=0")
            .arg("--set=CVMFS_TIMEOUT_DIRECT=1")
            .start();
        assert_eq!(std::fs::read_dir(mount.root()).unwrap().count(), 2);
        server.set_network(Network::Dropping);
        let mut interrupted =
            Command::new("cat").arg(mount.path("slow")).stdout(Stdio::null()).spawn().unwrap();
        let path = mount.path("patient");
        let reader = std::thread::spawn(move || std::fs::read(path));
        // Far more attempts than there are ways.
        let before = server.connections();
        wait_until(SOON, "many attempts", || server.connections() >= before + 8).unwrap();
        assert!(!reader.is_finished(), "it gave up");
        kill(Pid::from_raw(interrupted.id().cast_signed()), Signal::SIGTERM).unwrap();
        wait_until(SOON, "its end", || interrupted.try_wait().unwrap().is_some()).unwrap();
        server.set_network(Network::Up);
        let back = Instant::now();
        assert_eq!(reader.join().unwrap().unwrap(), b"as long as it takes");
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    });
}
