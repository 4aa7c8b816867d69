//! Files of a configuration repository, evaluated beside those of a machine with a secret.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cvmfs_fuse::fuzzing::configuration_repository(data));
