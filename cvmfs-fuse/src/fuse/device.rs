//! The number of a mounted device.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Device number of a mount, as two numbers.
///
/// Its text form `MAJOR:MINOR` becomes part of paths below /sys, so text of others is parsed where it comes in, and
/// only numbers go on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Device {
    /// Major number; 0 for filesystems without a block device, as FUSE is.
    pub major: u32,
    /// Minor number; for FUSE also the number of the connection in /sys/fs/fuse/connections.
    pub minor: u32,
}

/// Text that is no device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a device number (MAJOR:MINOR)")]
pub struct NotADevice;

impl Device {
    /// Returns the device of the FUSE connection with a number.
    pub fn of_connection(number: u32) -> Self {
        Self { major: 0, minor: number }
    }
}

impl FromStr for Device {
    type Err = NotADevice;

    fn from_str(text: &str) -> Result<Self, NotADevice> {
        // `u32::from_str` would also take a sign.
        let number = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| is_number).ok_or(NotADevice)
        };
        let (major, minor) = text.split_once(':').ok_or(NotADevice)?;
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl TryFrom<String> for Device {
    type Error = NotADevice;

    fn try_from(text: String) -> Result<Self, NotADevice> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_only_two_numbers_are_a_device() {
        let device: Device = "0:57".parse().unwrap();
        assert_eq!((device, device.to_string()), (Device::of_connection(57), "0:57".to_owned()));
        assert_eq!(serde_json::to_string(&device).unwrap(), "\"0:57\"");
        for text in
            ["0:../../x", "0:", ":1", "", "0:+1", "0:1/abort", "0:1:2", "0:99999999999", "0: 1"]
        {
            assert_eq!(text.parse::<Device>(), Err(NotADevice), "{text:?}");
        }
        assert!(serde_json::from_str::<Device>("\"0:../../x\"").is_err());
    }
}
