//! Commands that talk to live mounts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`talk`] | `talk`, and `cvmfs_talk` |
//! | [`status`] | `status` |
//! | [`why`] | `why` |
//! | [`probe`] | `probe` |
//! | [`bugreport`] | `bugreport` |
//! | [`metrics`] | `metrics` |
//! | [`top`] | `top` |
//! | [`trace`] | `trace` |
//! | `table` | columns of text |

pub mod bugreport;
pub mod metrics;
pub mod probe;
pub mod status;
pub(super) mod table;
pub mod talk;
pub mod top;
pub mod trace;
pub mod why;

use super::exit::{ExitStatus, Failure};
use crate::talk::mounts::{self, Found};

/// Finds all mounts that are seen from here.
fn mounts() -> Result<Vec<Found>, Failure> {
    mounts::all().map_err(|error| {
        Failure::caused(ExitStatus::Unknown, "cannot read /proc/self/mountinfo", &error)
    })
}

/// Waits between two looks of a command.
pub(super) fn pause(time: std::time::Duration) {
    #[expect(clippy::disallowed_methods, reason = "between two looks that a user asked for")]
    std::thread::sleep(time);
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    crate::escape::json(value)
        .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot print", &error))
}
