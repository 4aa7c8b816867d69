//! The journal of inodes that a dead server left.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| cvmfs_fuse::fuzzing::journal(data));
