//! Commands that talk to live mounts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`talk`] | `talk`, and `cvmfs_talk` |
//! | [`status`] | `status` |
//! | [`why`] | `why` |
//! | [`probe`] | `probe` |
//! | [`bugreport`] | `bugreport` |
//! | [`top`] | `top` |
//! | `table` | columns of text |

pub mod bugreport;
pub mod probe;
pub mod status;
mod table;
pub mod talk;
pub mod top;
pub mod why;

use super::exit::{ExitStatus, Failure};
use crate::talk::mounts::{self, Found};

/// Finds all mounts that are seen from here.
fn mounts() -> Result<Vec<Found>, Failure> {
    mounts::all().map_err(|error| {
        Failure::caused(ExitStatus::Unknown, "cannot read /proc/self/mountinfo", &error)
    })
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot print", &error))
}
