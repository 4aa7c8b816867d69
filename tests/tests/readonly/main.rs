//! A mount is a well-behaved read-only file system: facts/behaviours.md, section 5.

#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

mod errors;
mod execute;
mod handles;
mod listing;
mod mounted;
mod zoo;
