//! Replies that the kernel may keep, and the switch to another revision: never at the same time.
//!
//! A reply made from one revision may be kept for an hour, because a switch takes back what
//! changed. That works only if the reply reached the kernel before the switch begins to take
//! back. So a reply is sent under the gate, and kept by the kernel only if the gate has not been
//! advanced since the request began.

use parking_lot::RwLock;

/// Counts switches.
#[derive(Debug, Default)]
pub struct Gate(RwLock<u64>);

impl Gate {
    /// Returns the number of switches so far; to be taken before a request is worked on.
    pub fn epoch(&self) -> u64 {
        *self.0.read()
    }

    /// Sends a reply. `send` is told whether its content is still current, so that the kernel may
    /// keep it; it must not wait for anything.
    pub fn reply<T>(&self, begun: u64, send: impl FnOnce(bool) -> T) -> T {
        let epoch = self.0.read();
        send(*epoch == begun)
    }

    /// Switches, while no reply is being sent.
    pub fn advance<T>(&self, switch: impl FnOnce() -> T) -> T {
        let mut epoch = self.0.write();
        *epoch += 1;
        switch()
    }
}
