//! What a CernVM-FS repository is, and how to get it.
//!
//! The crate knows no FUSE, no cache directory, no environment and no configuration file.
//! Two ideas carry it: **metadata turns a path into a content hash, data turns a content hash
//! into bytes**, and **everything that is named by a hash is immutable**.
//!
//! From the bottom up (a module may use those before it, never those after it):
//!
//! | module | what it holds |
//! |---|---|
//! | [`chain`], [`clock`], [`descriptors`], [`reminder`] | errors with their causes; time as a parameter; who may open how many files; messages about what lasts |
//! | [`share`] | turns that no user can take all of |
//! | [`hash`], [`object`], [`path`] | the value types: content hashes, object names, repository paths |
//! | [`decode`] | one pass over a body: hash what was sent, inflate, bound the size |
//! | [`format`] | parsers of the signed letters and the certificate: bytes in, value out |
//! | [`trust`] | the chain from the master keys to a [`trust::Verified`] manifest |
//! | [`exact_names`] | databases opened where no link is followed |
//! | [`catalog`], [`history`] | the SQLite databases of a repository |
//! | [`cache`] | the contract of a store for objects |
//! | [`net`] | transport and the choice of servers |
//! | [`fetch`] | objects by id: from the cache, or downloaded, checked and stored |
//! | `letters`, `memory` | the signed letters of a server; what is remembered of them over restarts |
//! | [`revision`], [`repository`] | one immutable snapshot; a repository and its current snapshot |
//! | [`mirrors`] | the servers of a repository measured, checked and compared |

pub mod cache;
pub mod catalog;
pub mod chain;
pub mod clock;
pub mod decode;
pub mod descriptors;
pub mod exact_names;
pub mod fetch;
pub mod format;
pub mod fqrn;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod hash;
pub mod history;
mod letters;
mod memory;
pub mod mirrors;
pub mod net;
pub mod object;
pub mod path;
pub mod reminder;
pub mod repository;
pub mod revision;
pub mod share;
pub mod trust;
