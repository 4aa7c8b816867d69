//! Who is connected to a broker, and how many connections each user has a right to.
//!
//! A user who comes when all seats are taken gets one of the user who has most, until both have equally many. So no
//! number of connections of one user, or of a few, keeps another one out. Root and the broker's own user have seats that
//! nobody else gets. As many users as there are seats can keep out the next one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::wire::Connection;

/// Connections at a time: a mount uses a handful.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// Of them, those of one user.
pub(super) const MAX_CONNECTIONS_OF_USER: usize = 128;
/// Of them, those that only root gets, and as many for the broker's own user.
const RESERVED: usize = 64;

/// All seats.
#[derive(Debug)]
pub(super) struct Seats {
    /// The broker's own user.
    own: u32,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Number of the next connection; later ones have higher numbers.
    next: u64,
    users: HashMap<u32, BTreeMap<u64, Weak<Connection>>>,
}

/// A place among the connections, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    pub(super) uid: u32,
    number: u64,
}

impl Seats {
    /// Makes the seats of a broker that runs as this user.
    pub(super) fn new(own: u32) -> Self {
        Self { own, taken: Mutex::default() }
    }

    /// Gives a user a seat; `None` if there is none. Whoever has to make room is cut off.
    pub(super) fn take(self: &Arc<Self>, uid: u32, connection: &Arc<Connection>) -> Option<Seat> {
        let mut taken = self.taken.lock();
        let own = taken.count(uid);
        if own >= MAX_CONNECTIONS_OF_USER {
            return None;
        }
        // What is not reserved for a user, all compete for.
        let reserved = |user: u32| if self.is_privileged(user) { RESERVED } else { 0 };
        let competing =
            |(user, seats): (&u32, &BTreeMap<_, _>)| seats.len().saturating_sub(reserved(*user));
        let all: usize = taken.users.iter().map(competing).sum();
        if own >= reserved(uid) && all >= MAX_CONNECTIONS - 2 * RESERVED {
            taken.make_room(own - reserved(uid), |user| !self.is_privileged(user))?;
        }
        let number = taken.next;
        taken.next += 1;
        taken.users.entry(uid).or_default().insert(number, Arc::downgrade(connection));
        Some(Seat { seats: Arc::clone(self), uid, number })
    }

    fn is_privileged(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own
    }
}

impl Taken {
    fn count(&self, uid: u32) -> usize {
        self.users.get(&uid).map_or(0, BTreeMap::len)
    }

    /// Cuts off the latest connection of the user who has most, if that has at least two more than `own`.
    fn make_room(&mut self, own: usize, may_lose: impl Fn(u32) -> bool) -> Option<()> {
        let users = self.users.iter_mut().filter(|(user, _)| may_lose(**user));
        let (_, seats) = users.max_by_key(|(_, seats)| seats.len())?;
        if seats.len() < own + 2 {
            return None;
        }
        let (_, connection) = seats.pop_last()?;
        if let Some(connection) = connection.upgrade() {
            // Gone already, if it fails. Its thread then finds the end.
            let _ = rustix::net::shutdown(connection.socket(), rustix::net::Shutdown::Both);
        }
        Some(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        if let Some(seats) = taken.users.get_mut(&self.uid) {
            seats.remove(&self.number);
            if seats.is_empty() {
                taken.users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::wire::socket;
    use super::*;

    const OWN: u32 = 7;

    /// A user comes again and again; returns the seats.
    fn come(seats: &Arc<Seats>, uid: u32, times: usize) -> Vec<(Seat, Arc<Connection>)> {
        let connect = |_| {
            let connection = Connection::new(socket().unwrap(), Duration::from_secs(1)).unwrap();
            let connection = Arc::new(connection);
            seats.take(uid, &connection).map(|seat| (seat, connection))
        };
        (0..times).filter_map(connect).collect()
    }

    fn count(seats: &Arc<Seats>, uid: u32) -> usize {
        seats.taken.lock().count(uid)
    }

    #[test]
    fn low_four_users_do_not_take_all_seats() {
        let seats = Arc::new(Seats::new(OWN));
        let mut kept = Vec::new();
        for uid in 1001..=1004 {
            kept.push(come(&seats, uid, 200));
        }
        // The fourth got as many as the others, and they lost some.
        let counts: Vec<_> = (1001..=1004).map(|uid| count(&seats, uid)).collect();
        assert_eq!(counts.iter().sum::<usize>(), MAX_CONNECTIONS - 2 * RESERVED);
        assert!(counts.iter().all(|count| (95..=97).contains(count)), "{counts:?}");
        // A fifth as well, and root and the broker's own user whatever the others have.
        kept.push(come(&seats, 1005, 200));
        assert!((75..=78).contains(&count(&seats, 1005)), "{}", count(&seats, 1005));
        for uid in [0, OWN] {
            kept.push(come(&seats, uid, 200));
            assert!(count(&seats, uid) >= RESERVED, "{uid}: {}", count(&seats, uid));
        }
        let all: usize = seats.taken.lock().users.values().map(BTreeMap::len).sum();
        assert!(all <= MAX_CONNECTIONS, "{all}");
        // Those who were cut off leave nothing behind.
        drop(kept);
        assert!(seats.taken.lock().users.is_empty());
    }

    #[test]
    fn low_many_users_with_one_seat_each_leave_room_for_root() {
        let seats = Arc::new(Seats::new(OWN));
        let kept: Vec<_> = (1000..2000).flat_map(|uid| come(&seats, uid, 1)).collect();
        assert_eq!(kept.len(), MAX_CONNECTIONS - 2 * RESERVED);
        assert_eq!(come(&seats, 0, 1).len() + come(&seats, OWN, 1).len(), 2);
    }
}
