//! A bundle of a publisher.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cvmfs_fuse::fuzzing::bundle(data));
