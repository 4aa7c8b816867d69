//! Messages between a broker and its clients, and names of objects in a cache.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cvmfs_fuse::fuzzing::cache(data));
