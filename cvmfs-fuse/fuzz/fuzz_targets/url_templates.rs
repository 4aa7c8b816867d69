//! Lists of servers with templates.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cvmfs_fuse::fuzzing::url_templates(data));
