//! A read-only fsx: random reads by every way that there is, each compared with the truth.
//!
//! The original writes a file and checks what it reads back. A mount of ours is written to by a
//! publisher only, so here the content is known before ([`Library`]) and any number of [`Reader`]s
//! check it, while the caller evicts, publishes and kills. A reader's steps follow from its seed
//! alone, which is part of every [`Report`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`truth`] | what a file must hold, in each of its versions |
//! | `span` | where to read: at borders more often than anywhere else |
//! | `mapping` | part of a file in memory |
//! | [`operation`] | the ways to read |
//! | [`reader`] | one thread: opens, reads, closes, and keeps old versions open |

mod mapping;
pub mod operation;
pub mod reader;
mod span;
pub mod truth;

pub use operation::{Failure, OPERATIONS};
pub use reader::{Reader, Report};
pub use truth::{Library, Truth};

#[cfg(test)]
mod tests;
