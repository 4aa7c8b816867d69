//! Between the kernel and [`crate::fs::Vfs`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`dispatch`] | poll a request once on the worker thread, hand it to the runtime if it must wait |
//! | [`adapter`] | fuser's calls turned into calls of `Vfs`, results turned into replies |
//! | [`activity`] | what is asked, by whom, and how long it takes |
//! | `greeting` | what we ask of the kernel when a connection begins |
//! | [`backing`] | files that the kernel reads without us |
//! | [`device`] | the number of a mounted device |
//! | [`attributes`] | values of `Vfs` in the kernel's terms |
//! | [`directory`] | directory listings written into reply buffers |
//! | [`failure`] | the one place that logs and counts failed requests |
//! | [`mountinfo`] | which mounts there are |
//! | [`mount`] | mount(2), or fusermount for users; unmounting |
//! | [`mounter`] | a process that mounts for a server, which may not |
//! | [`notify`] | what we say to the kernel unasked |
//! | [`premounted`] | `/dev/fd/N`: somebody else has mounted |
//! | [`received`] | what a descriptor is that another process has sent |
//! | [`session`] | capabilities, worker threads, a mount's life |
//!
//! **Where async begins.** The kernel's requests arrive on fuser's worker threads. Each becomes a
//! future that owns its reply. If its first poll ends it (everything cached), the answer leaves
//! from the worker thread; otherwise the future moves to the tokio runtime and the worker takes
//! the next request, so that slow servers cannot use up the workers.

pub mod activity;
pub mod adapter;
pub mod attributes;
pub mod backing;
pub mod device;
pub mod directory;
pub mod dispatch;
pub mod failure;
mod greeting;
pub mod handover;
#[cfg(test)]
mod hostile;
mod interrupt;
pub mod mount;
pub mod mounter;
pub mod mountinfo;
pub mod notify;
pub mod premounted;
pub mod received;
mod request;
pub mod session;
