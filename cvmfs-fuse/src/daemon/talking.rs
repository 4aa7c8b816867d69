//! How a mount and the repositories that it has open can be seen: control sockets and telemetry.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::begin::Begun;
use super::serve::AbortOnDrop;
use super::telemetry;
use super::update::Orders;
use crate::config::RepositorySettings;
use crate::fs::{RepoFs, Vfs};
use crate::fuse::activity::Activity;
use crate::fuse::premounted;
use crate::talk::address::Address;
use crate::talk::{self, Desk, Membership, Served, TtlLimit};

/// Updates asked for at a time; who comes later waits for a place.
const MAX_ASKS: usize = 4;

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

/// Answers at the socket that is named after the device of the mount.
pub(super) fn at_device(desk: &Arc<Desk>) -> Option<AbortOnDrop> {
    let address = Address::Device(desk.device()?.to_owned());
    Some(AbortOnDrop(tokio::spawn(talk::listen(address, Arc::clone(desk), None))))
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
    let address = match &settings.parameters.talk_socket {
        Some(path) => Address::Path(path.clone()),
        None => Address::in_workspace(&settings.cache.directory, fqrn),
    };
    let listening = talk::listen(address, Arc::clone(desk), Some(fqrn.to_owned()));
    let listening = AbortOnDrop(tokio::spawn(listening));
    let telling = telemetry::begin(desk, settings);
    (Orders { follows, max_ttl, asks }, (membership, listening, telling))
}
