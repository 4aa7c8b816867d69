//! Messages of a hostile server to its supervisor.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| cvmfs_fuse::fuzzing::supervisor_protocol(data));
