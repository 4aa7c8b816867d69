//! How a mount and the repositories that it has open can be seen: control sockets and telemetry.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketType;
use tokio::sync::mpsc;

use super::begin::Begun;
use super::estate::{Bequest, Passed};
use super::serve::AbortOnDrop;
use super::telemetry;
use super::update::Orders;
use crate::config::RepositorySettings;
use crate::fs::{RepoFs, Vfs};
use crate::fuse::activity::Activity;
use crate::fuse::premounted;
use crate::talk::directory::{ControlDirectory, Record, TALK};
use crate::talk::{self, Desk, Membership, Served, TtlLimit};

/// Updates asked for at a time; who comes later waits for a place.
const MAX_ASKS: usize = 4;
/// How long the supervisor may take to say where clients are answered. It does that at once.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(5);

/// A repository can be asked about for as long as this lives.
pub(super) type Talk = (Membership, AbortOnDrop, Option<AbortOnDrop>);

/// Makes the desk of a mount.
pub(super) fn desk_of<V: Vfs>(
    begun: &Begun<V>,
    has_several: bool,
    settings: &RepositorySettings,
    activity: Arc<Activity>,
) -> Arc<Desk> {
    let mountpoint = premounted::seen_at(&begun.mountpoint, begun.device);
    let device = begun.device.map(|device| device.to_string());
    let owner = settings.parameters.talk_owner;
    Arc::new(Desk::new(mountpoint, device, has_several, owner, activity))
}

/// Answers at the socket in the control directory of the mount, where the supervisor listens.
pub(super) fn in_control_directory(
    desk: &Arc<Desk>,
    bequest: &Bequest,
    settings: &RepositorySettings,
) -> Option<AbortOnDrop> {
    let device = desk.device()?.to_owned();
    let (desk, bequest) = (Arc::clone(desk), bequest.clone());
    let cache = settings.cache.directory.clone();
    let answering = async move {
        let passed = tokio::task::spawn_blocking(move || bequest.control(SUPERVISOR_LIMIT)).await;
        let outcome = match passed {
            Ok(Passed::Listener(listener)) => talk::serve_passed(listener, desk).await,
            Ok(Passed::Nothing) | Err(_) => Ok(()),
            Ok(Passed::Silent) => in_own(&device, &cache, desk).await,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "no control address for the mount");
        }
    };
    Some(AbortOnDrop(tokio::spawn(answering)))
}

/// Answers in a control directory of the server's own: its supervisor is of a version that makes none.
async fn in_own(device: &str, cache: &Path, desk: Arc<Desk>) -> std::io::Result<()> {
    let mut directory =
        ControlDirectory::make(device, &[cache.to_owned()]).map_err(std::io::Error::other)?;
    let supervisor = nix::unistd::getppid().as_raw().cast_unsigned();
    let record = Record::of(device, desk.mountpoint(), supervisor);
    let listener = directory
        .listen(TALK, SocketType::STREAM)
        .and_then(|listener| directory.write(&record).map(|()| listener))
        .map_err(std::io::Error::other)?;
    talk::serve_passed(listener, desk).await
}

/// Makes a repository known to the desk, and answers at its socket in the workspace.
pub(super) fn begin(
    desk: &Arc<Desk>,
    fs: &Arc<RepoFs>,
    settings: &RepositorySettings,
    follows: bool,
) -> (Orders, Talk) {
    let (updates, asks) = mpsc::channel(MAX_ASKS);
    let max_ttl = TtlLimit::new(settings.parameters.max_ttl);
    let fqrn = settings.fqrn.as_str();
    let served = Served::new(fs, settings.clone(), updates, max_ttl.clone());
    let membership = desk.open(fqrn, served);
    let in_workspace = || settings.cache.directory.join(format!("cvmfs_io.{fqrn}"));
    let path = settings.parameters.talk_socket.clone().unwrap_or_else(in_workspace);
    let listening = talk::listen(path, Arc::clone(desk), Some(fqrn.to_owned()));
    let listening = AbortOnDrop(tokio::spawn(listening));
    let telling = telemetry::begin(desk, settings);
    (Orders { follows, max_ttl, asks }, (membership, listening, telling))
}
