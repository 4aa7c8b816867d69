//! The client with real engines: Docker and rootless Podman, in namespaces of their own.
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
