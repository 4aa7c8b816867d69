//! Where the bytes of CernVM-FS objects are kept on this machine.
//!
//! [`DiskCache`] is a directory of plain files, one for each object, found by name alone: no
//! index, no daemon, nothing to repair. Any number of processes of one user may share it. What
//! may be asked of a store is stated by [`cvmfs_core::cache`]; nothing above sees more than that.
//!
//! | module | what it holds |
//! |---|---|
//! | `layout` | names of directories and files, their modes, and what is refused |
//! | `seal` | what makes a file under an object's name the whole object |
//! | `transaction` | from a temporary file to the final name, in one step |
//! | `tally` | how many bytes are stored, counted in small portions |
//! | `disk` | [`DiskCache`] itself |

mod disk;
mod layout;
mod record;
mod seal;
mod tally;
mod transaction;

pub use disk::DiskCache;
pub use layout::UnfitDirectory;
pub use transaction::Naming;
