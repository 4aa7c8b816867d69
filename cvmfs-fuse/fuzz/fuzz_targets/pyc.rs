//! A compiled Python module.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cvmfs_fuse::fuzzing::pyc(data));
