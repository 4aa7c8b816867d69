//! A proxy script, evaluated: JavaScript of whoever answers for the name wpad.
#![no_main]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::net::pac::{Clock, Names, Script};
use libfuzzer_sys::fuzz_target;

/// How long a script may take.
const LIMIT: Duration = Duration::from_secs(1);

struct Fixed;

impl Names for Fixed {
    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        assert!(!name.is_empty() && name.is_ascii());
        vec![IpAddr::from([192, 0, 2, 1])]
    }

    fn own_address(&self) -> Option<IpAddr> {
        Some(IpAddr::from([127, 0, 0, 1]))
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(script) = Script::new(data) else { return };
    let clock = Clock::system();
    let found = script.find_proxies("http://a.b/c", "a.b", Arc::new(Fixed), &clock, LIMIT);
    assert!(found.map_or(true, |choices| !choices.is_empty()));
});
