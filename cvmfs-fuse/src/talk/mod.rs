//! How people and scripts talk to a live mount: a line goes in, text comes out, as with upstream's
//! `cvmfs_talk` (spec/config.md section 7); or one JSON object each way.
//!
//! | module | what it holds |
//! |---|---|
//! | [`wire`] | requests and replies |
//! | [`address`] | where mounts are found: a socket in the workspace, and one named after the device |
//! | [`client`] | asking |
//! | `listener` | who may ask, how many, for how long |
//! | `place` | the sockets themselves, for as long as the mount lives |
//! | [`desk`] | what one process can be asked about |
//! | `commands` | the answers |
//! | [`mounts`] | which mounts there are, and which of them answer |
//! | [`report`] | what `status` shows of a repository |
//! | [`figures`] | what of that is a number |
//!
//! A server that takes over a mount binds the same sockets again; those who ask in between try
//! again for a moment.

pub mod address;
pub mod client;
mod commands;
pub mod desk;
pub mod figures;
mod listener;
pub mod mounts;
mod place;
pub mod report;
pub mod wire;

pub use commands::activity::Watched;
pub(crate) use desk::{Ask, Desk, Membership, Served, TtlLimit};
pub(crate) use place::listen;
