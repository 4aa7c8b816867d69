//! What clients ask a mount, and a broker.

/// Reads a request of the control socket.
pub fn talk_request(data: &[u8]) {
    crate::talk::wire::fuzz(data);
}

/// Reads messages between a broker and its clients, names of objects, and records.
pub fn cache(data: &[u8]) {
    cvmfs_cache::fuzzing::read(data);
}
