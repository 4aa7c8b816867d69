//! The answer of a server about the order of servers; the first byte is their number.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cvmfs_core::fuzzing::geo_answer(data));
