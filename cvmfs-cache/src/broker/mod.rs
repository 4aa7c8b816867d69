//! A cache among users who do not trust each other: one process, the broker, owns the directory
//! and alone writes to it; the others get descriptors that can only be read.
//!
//! What a client brings is believed only after the broker itself has checked it: a client sends
//! the *stored* bytes of an object in a sealed memory file, and the broker hashes and inflates them
//! as if they came from the network. What a client says about other clients' objects (damage) is
//! looked at, not believed. Records are kept for each user apart.
//!
//! | module | what it holds |
//! |---|---|
//! | `wire` | messages, their bounds, and how descriptors travel |
//! | `listener` | the socket of a process that is alone at its place |
//! | `peer` | who is at the other end |
//! | `seats` | how many connections each user has a right to |
//! | `server` | [`Broker`]: who may connect, and what is done for them |
//! | `client` | [`BrokeredCache`]: a store like any other; without its broker it is memory |

mod client;
mod listener;
mod peer;
mod seats;
mod server;
mod wire;

pub use client::{BrokerError, BrokeredCache};
pub use listener::listen_alone;
pub use peer::peer_of;
pub use server::{Broker, BrokerOptions, Peers};

#[cfg(test)]
mod tests;

/// Input of the fuzz target `cache`.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    wire::fuzz(data);
}
