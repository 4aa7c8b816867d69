//! The program `cvmfs-fuse`: mounts CernVM-FS repositories through /dev/fuse.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | settings from flags and built-in knowledge; the only reader of the environment |
//! | [`fs`] | the filesystem as plain values: inodes, content, listings; testable without a kernel |
//! | [`prefetch`] | objects fetched ahead of their use |
//! | [`fuse`] | fuser's calls turned into calls of [`fs::Vfs`]; mount and worker threads |
//! | [`talk`] | what a live mount tells about itself, and what it can be told to do |
//! | [`daemon`] | builds everything in order, tells the parent that the mount is usable, stops orderly |
//! | [`sandbox`] | capabilities and system calls that a server keeps |
//! | [`container`] | a command with repositories mounted for it, in containers and on bare nodes |
//! | [`inherited`] | signals, limits and umask of whoever started a process |
//! | [`demo`] | the bundled genuine repository on a loopback server |
//! | [`doctor`] | what stands in the way of a mount, and what to do about it |
//! | [`mirrors`] | the servers of a repository compared, as table, CSV and page |
//! | [`cli`] | the subcommands and their exit codes |

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod cli;
pub mod config;
pub mod container;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod escape;
pub mod fs;
pub mod fuse;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod inherited;
pub mod mirrors;
pub mod prefetch;
pub mod sandbox;
pub mod talk;
