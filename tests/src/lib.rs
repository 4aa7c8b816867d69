//! End-to-end tests: the real program, real mounts, genuine repositories, a server that fails as
//! it is told (`fixtures::server`).
//!
//! | module | what it holds |
//! |---|---|
//! | [`apart`] | mounts, processes and users apart from those of the machine |
//! | [`engines`] | Docker and rootless Podman, with images, networks and mounts of their own |
//! | [`fsx`] | random reads by every way that there is, compared with the truth |
//! | [`mount`] | [`MountSpec`] and [`TestMount`]: one mount, ended with its value |
//! | [`mountinfo`] | what the kernel says about a mount |
//! | [`walk`] | a mounted tree as data, and how it differs from the truth |
//! | [`site`] | files of a site, and the program under upstream's names |
//! | [`stop`] | telling threads to end |
//! | [`versioned`] | content that tells which revision it is from |
//! | [`wait`] | the one loop that waits for a condition |
//! | [`watchdog`] | a hard limit for each test, also for one that hangs in the kernel |
//!
//! FUSE tests never skip: without `/dev/fuse` they fail and say so. A test looks like this:
//!
//! ```ignore
//! #[test]
//! fn hello() {
//!     deadline(LIMIT, || {
//!         let genuine = Genuine::small();
//!         let server = TestServer::serving(genuine.dir());
//!         let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
//!         assert_eq!(std::fs::read(mount.path("one-byte")).unwrap().len(), 1);
//!     });
//! }
//! ```

pub mod apart;
pub mod engines;
pub mod fsx;
pub mod mount;
pub mod mountinfo;
pub mod site;
pub mod stop;
pub mod versioned;
pub mod wait;
pub mod walk;
pub mod watchdog;

pub use mount::{Client, MountFailure, MountSpec, TestMount};
pub use stop::StopAtEnd;
pub use wait::{TimedOut, wait_until};
pub use watchdog::deadline;

/// The program under test; for integration tests of this package.
#[macro_export]
macro_rules! client {
    () => {
        $crate::Client::at(env!("CARGO_BIN_EXE_client-under-test"))
    };
}
