//! A request to the control socket of a mount, and a reply.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cvmfs_fuse::fuzzing::talk_request(data));
