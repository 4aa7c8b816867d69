//! Entry of the fuzz target `cache` (`cvmfs-fuse/fuzz`) to parsers that are not public.

use crate::layout::{object_name, parse_object_name};

/// Reads messages of both sides of a broker, and the name of an object in a cache.
pub fn read(data: &[u8]) {
    crate::broker::fuzz(data);
    if let Ok(name) = std::str::from_utf8(data)
        && let Some(id) = parse_object_name(name)
    {
        // One object has one name, whoever states it.
        assert_eq!(parse_object_name(&object_name(&id)), Some(id));
    }
}
