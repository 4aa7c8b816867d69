//! The attribute blob of a catalog row, and its symlink target.
#![no_main]

use std::collections::BTreeSet;

use cvmfs_core::catalog::symlink::SymlinkVariables;
use cvmfs_core::catalog::xattr::Xattrs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(attributes) = Xattrs::parse(data) {
        let names: BTreeSet<&[u8]> = attributes.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), attributes.iter().count());
        for (name, value) in attributes.iter() {
            assert!(!name.is_empty() && !name.contains(&0));
            assert_eq!(attributes.get(name), Some(value));
        }
    }
    let mut variables = SymlinkVariables::new();
    // Without variables nothing can become longer.
    assert!(variables.expand(data).len() <= data.len());
    variables.set("FOO", "some longer value");
    variables.expand(data);
});
