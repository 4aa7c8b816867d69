//! A file of the machine: in the language of the shell, and as TOML.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cvmfs_fuse::fuzzing::configuration_file(data));
