//! How people and scripts talk to a live mount: a line goes in, text comes out, as with upstream's
//! `cvmfs_talk` (spec/config.md section 7); or one JSON object each way.
//!
//! | module | what it holds |
//! |---|---|
//! | [`wire`] | requests and replies |
//! | [`address`] | where a mount is talked to: its control directory, or a socket in the workspace |
//! | `directory` | the control directory of a mount, as its supervisor makes it |
//! | `dial` | connecting, for a limited time |
//! | `finding` | how a client finds it, and whom it believes |
//! | `proof` | how a peer proves that it sees the mount |
//! | [`client`] | asking |
//! | `listener` | who may ask, how many, for how long |
//! | `place` | the socket in the workspace, for as long as the mount lives |
//! | [`desk`] | what one process can be asked about |
//! | `commands` | the answers |
//! | [`mounts`] | which mounts there are, and which of them answer |
//! | [`report`] | what `status` shows of a repository |
//! | [`figures`] | what of that is a number |
//!
//! The supervisor listens at the socket in the control directory and hands the listener to each server: clients
//! wait in the kernel's queue while a server is replaced. docs/control-plane.md is the design.

pub mod address;
pub mod client;
mod commands;
pub mod desk;
pub(crate) mod dial;
pub(crate) mod directory;
pub mod figures;
pub(crate) mod finding;
mod listener;
pub mod mounts;
mod place;
pub(crate) mod proof;
pub mod report;
pub mod wire;

pub use commands::activity::Watched;
pub(crate) use desk::{Ask, Desk, Membership, Served, TtlLimit};
pub(crate) use listener::serve_passed;
pub(crate) use place::listen;
