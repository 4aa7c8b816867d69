//! The answer of a proxy script, and a list of proxies as sites write it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cvmfs_core::fuzzing::pac_answer(data));
