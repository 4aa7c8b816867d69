//! How values are written.

use std::time::Duration;

use super::MostInodes;
use crate::config::Account;

/// A number of seconds.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_secs)
}

/// The words that upstream takes for yes and no.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" | "1" => Some(true),
        "no" | "off" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// A number of inodes that the kernel may know. Fewer than a thousand would be those in use.
pub(super) fn most_inodes(text: &str) -> Option<MostInodes> {
    match text.parse().ok()? {
        0 => Some(MostInodes(None)),
        most => (most >= 1000).then_some(MostInodes(Some(most))),
    }
}

/// A user by number or name. Names are those of this machine's file: nothing may be asked that a
/// static program cannot ask.
pub(crate) fn user_number(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    Account::named(text).map(|account| account.uid)
}
