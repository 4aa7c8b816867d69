//! What a server of these settings keeps of its rights.

use std::path::Path;

use rustix::thread::CapabilitySet;

use super::begin;
use super::serve::Origin;
use crate::config::RepositorySettings;
use crate::sandbox::{Confinement, capabilities};

/// Before the path of a server that is a directory.
const DIRECTORY: &str = "file://";

/// What a mount shows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shows<'a> {
    /// One repository.
    One(&'a Origin),
    /// All of them.
    All,
}

/// Decides which capabilities of [`capabilities`]' table a server needs; to be called before it becomes another
/// user, who has none.
pub(super) fn of(settings: &RepositorySettings, shows: Shows<'_>) -> Confinement {
    let mut keep = CapabilitySet::empty();
    let name = settings.fqrn.as_str();
    let passes_through = match shows {
        Shows::One(Origin::First(_)) => {
            settings.parameters.pass_through && settings.cache.is_only_ours()
        }
        // As the mount began, whatever the parameters say.
        Shows::One(Origin::Successor(candidate)) => begin::passed_through(candidate, name),
        Shows::All => false,
    };
    keep.set(CapabilitySet::SYS_ADMIN, passes_through);
    keep.set(CapabilitySet::CHOWN, settings.parameters.talk_owner.is_some());
    let cache = &settings.cache;
    let lower = cache.lower.iter().map(|(directory, _)| directory.as_path());
    let written = std::iter::once(cache.alien.as_deref().unwrap_or(&cache.directory)).chain(lower);
    for directory in written {
        capabilities::join_group_of(directory);
        keep |= capabilities::to_write(directory);
    }
    let servers = settings.servers.iter().chain(&settings.external_servers);
    for directory in servers.filter_map(|server| server.strip_prefix(DIRECTORY)) {
        keep |= capabilities::to_read(Path::new(directory));
    }
    Confinement { keep, calls: settings.parameters.process.calls }
}
