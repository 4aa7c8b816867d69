//! Entries of the fuzz targets (`cvmfs-core/fuzz`) to parsers that are not public.

/// Reads the answer of a server about the order of servers.
pub fn geo_answer(data: &[u8]) {
    crate::net::geo::fuzz(data);
}

/// Reads the answer of a proxy script, and a list of proxies.
pub fn pac_answer(data: &[u8]) {
    crate::net::discovery::fuzz(data);
}
