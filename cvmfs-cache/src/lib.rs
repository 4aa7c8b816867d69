//! Where the bytes of CernVM-FS objects are kept on this machine.
//!
//! [`DiskCache`] is a directory of plain files, one for each object, found by name alone. Any
//! number of processes, containers and users of one group share it, and none of them is special:
//! whoever dies leaves nothing that the others need. What may be asked of a store is stated by
//! [`cvmfs_core::cache`]; nothing above sees more than that.
//!
//! | module | what it holds |
//! |---|---|
//! | `sharing` | who may write to a directory, and what that makes of modes and trust |
//! | [`safe_path`] | directories, logs, outputs and sockets made where others can write |
//! | `layout` | names of directories and files |
//! | `seal`, `checksum` | what makes a file under an object's name the whole, right object |
//! | `condition` | whether it still is, to the last byte |
//! | `transaction` | from a temporary file to the final name, in one step |
//! | `quota`, `gauge` | how much may be stored; how much is |
//! | `session` | who is alive, and what they pin |
//! | `claims` | who downloads what |
//! | `index`, `keeper` | when objects were used last; the thread that evicts and counts |
//! | `store`, `disk` | what these share; [`DiskCache`] itself |
//! | `audit` | what the commands ask: list, check, clean, wipe |
//! | `alien` | [`AlienCache`]: a directory in upstream's layout |
//! | `broker` | a cache among users who do not trust each other |

mod alien;
mod audit;
mod broker;
mod checksum;
mod claims;
mod condition;
mod disk;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gauge;
mod index;
mod keeper;
mod layout;
mod quota;
mod record;
pub mod safe_path;
mod seal;
mod session;
mod sharing;
mod store;
mod transaction;
#[cfg(test)]
mod trials;

pub use alien::{AlienCache, Breadcrumb};
pub use audit::{CacheInfo, CheckReport, Damage, Progress, wipe};
pub use broker::{Broker, BrokerError, BrokerOptions, BrokeredCache, Peers, listen_alone, peer_of};
pub use disk::{DiskCache, DiskCacheOptions};
pub use index::IndexedObject;
pub use keeper::Evicted;
pub use quota::{Quota, QuotaError, parse_size};
pub use sharing::{Sharing, UnfitDirectory};
pub use store::{CacheStatistics, Verify};
pub use transaction::Naming;
