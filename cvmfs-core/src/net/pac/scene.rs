//! What one evaluation knows of the world, and the bounds it has used up.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Clock, MAX_ADDRESSES, MAX_LOOKUPS, Names, host};

/// A bound of ours, as opposed to one the engine keeps, that ends an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The time is up.
    Deadline,
    /// Too many names were looked up.
    Lookups,
}

/// The world of one evaluation.
pub(super) struct Scene {
    pub(super) clock: Clock,
    names: Arc<dyn Names>,
    /// The time allowed, and when it is up.
    pub(super) limit: Duration,
    deadline: Instant,
    /// Names already looked up: a ladder of `isInNet` asks for the same one at every rung.
    known: RefCell<HashMap<String, Rc<[IpAddr]>>>,
    own: OnceCell<Option<IpAddr>>,
    stop: Cell<Option<Stop>>,
}

impl Scene {
    pub(super) fn new(
        names: Arc<dyn Names>,
        clock: Clock,
        limit: Duration,
        deadline: Instant,
    ) -> Self {
        Self {
            clock,
            names,
            limit,
            deadline,
            known: RefCell::default(),
            own: OnceCell::new(),
            stop: Cell::new(None),
        }
    }

    /// The bound that was exceeded, if one was.
    pub(super) fn stopped(&self) -> Option<Stop> {
        self.stop.get()
    }

    /// Whether the engine has to stop, asked by it at intervals.
    pub(super) fn must_stop(&self) -> bool {
        if self.stop.get().is_none() && Instant::now() >= self.deadline {
            self.stop.set(Some(Stop::Deadline));
        }
        self.stop.get().is_some()
    }

    /// The addresses of a host; one that is an address already is its own.
    pub(super) fn addresses(&self, name: &str) -> Result<Rc<[IpAddr]>, Stop> {
        let name = name.trim();
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Rc::from([address]));
        }
        if !host::is_name(name) {
            return Ok(Rc::from([]));
        }
        let key = name.to_ascii_lowercase();
        if let Some(found) = self.known.borrow().get(&key) {
            return Ok(Rc::clone(found));
        }
        if self.known.borrow().len() >= MAX_LOOKUPS && self.stop.get().is_none() {
            self.stop.set(Some(Stop::Lookups));
        }
        // A look-up may take long, and none is begun that can no longer matter.
        self.must_stop();
        if let Some(stop) = self.stop.get() {
            return Err(stop);
        }
        let mut found = self.names.addresses(&key);
        found.truncate(MAX_ADDRESSES);
        let found: Rc<[IpAddr]> = found.into();
        self.known.borrow_mut().insert(key, Rc::clone(&found));
        Ok(found)
    }

    /// The first IPv4 address of a host, the only kind the original functions know.
    pub(super) fn ipv4(&self, name: &str) -> Result<Option<Ipv4Addr>, Stop> {
        let addresses = self.addresses(name)?;
        Ok(addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        }))
    }

    /// The address of this machine, asked for once.
    pub(super) fn own(&self) -> Option<IpAddr> {
        *self.own.get_or_init(|| self.names.own_address())
    }
}
