//! What a server says to its supervisor, and leaves to its successor.

/// Reads the messages of a server as its supervisor does.
pub fn supervisor_protocol(data: &[u8]) {
    crate::daemon::fuzz_supervisor_protocol(data);
}

/// Reads the journal of a dead server.
pub fn journal(data: &[u8]) {
    crate::fs::journal::fuzz(data);
}
