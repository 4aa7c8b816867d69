//! The client with real engines: Docker and rootless Podman, in namespaces of their own.
//!
//! There are three ways to have repositories in a container, and each had its downsides (named in the
//! DEVELOPERS.md of the systems that use the older client). Here is what shows that they are gone.
//!
//! | way | downside | test that shows it gone |
//! |---|---|---|
//! | on the host | packages, libraries | `images::docker` (an image with one file), `packaging::a_debian_package_is_made_and_installed` (depends on nothing) |
//! | | autofs | `service::docker_automount`, `packaging::systemd_accepts_the_unit` |
//! | | configuration | all of these: flags only; `packaging::a_line_of_fstab_mounts_a_repository` |
//! | | mounts that hang | `host::docker` (killed, upgraded, cut off), `doctor::a_mount_that_hangs_does_not_hang_the_doctor` |
//! | a container that mounts | it is privileged | `service::docker`, `service::docker_automount`: one capability, one device |
//! | | its cache dies with it | `shared_cache::docker`; `doctor::docker` warns of such a cache |
//! | | "Transport endpoint is not connected" in others, when its server dies | `service::docker`, `service::docker_automount`: nobody notices |
//! | | the same, when all of it dies | the same tests: who has the volume with rslave finds it again; `service::docker_with_a_holder`, `service::docker_automount_with_a_holder`: nobody notices |
//! | in each container | a daemon and a cache for each | `shared_cache::docker`: each object once for ten containers |
//! | | a daemon that nobody starts again | `entry_point`, "its server is killed three times" |
//! | | a network that went away once | `entry_point`, "the network goes away and comes back" |
//! | | a mount that fails ends the container | `entry_point`, "--optional runs the command all the same" |
//! | | sudo, a group `fuse`, D-Bus | `entry_point`: images with none of them, also as user 1001 |
//! | | automounting is left to who makes the image | `images::docker`: one line, `run --repo` |
//! | | flags that nobody remembers | `printed`, `doctor`, and the messages in `entry_point` |
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

#[path = "containers/doctor.rs"]
mod doctor;
#[path = "containers/entry_point.rs"]
mod entry_point;
#[path = "containers/host.rs"]
mod host;
#[path = "containers/images.rs"]
mod images;
#[path = "containers/printed.rs"]
mod printed;
#[path = "containers/service.rs"]
mod service;
#[path = "containers/shared_cache.rs"]
mod shared_cache;

use std::time::Duration;

/// For one test with its engine.
const LIMIT: Duration = Duration::from_secs(200);
