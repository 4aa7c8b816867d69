//! Fair shares of turns: who may do how much of something at a time, by user.
//!
//! Turns are scarce where many users share one mount: transfers with a server, downloads of a
//! repository, attempts to open an unknown name. [`Shares`] gives them out so that no user can take
//! them all, whatever is asked for and however slow the answers are.
//!
//! Rule: a user who holds no turn may take any free one. A user who holds some may take another
//! only while that user holds fewer than [`WEIGHT`] times the turns that stay free, and more than
//! an eighth of all turns is free ([`RESERVE`]). So one user gets three quarters at most, and a
//! newcomer finds a free turn until an eighth of the number of turns are users of their own. A turn
//! that becomes free goes to the waiting user who holds the fewest. (Switches share their packet
//! buffers in a similar way: "dynamic thresholds".)
//!
//! For whom work is done is known from the task: [`scope`] says it, and [`present`] returns it.
//! Work that several users wait for has a [`Caller`] that each of them joins, so that nobody waits
//! in another user's queue.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Turns of one user per turn that stays free. 3 leaves a quarter to others, and costs a user who
/// is alone on the machine that quarter.
const WEIGHT: usize = 3;
/// The part of all turns that only users take who hold none: one in this many.
const RESERVE: usize = 8;
/// Users noted for one piece of work. Each has a thread that waits; more only wait along.
const MAX_JOINED: usize = 1024;

/// For whom something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// The mount itself, or the user of a command: signed metadata, updates. Not bounded by shares.
    Service,
    /// A user of the mount, by number.
    User(u32),
    /// Nobody yet: what is fetched ahead. Gives way to all others.
    Ahead,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("the mount itself"),
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Ahead => f.write_str("prefetch"),
        }
    }
}

/// The users that one piece of work is done for.
#[derive(Debug)]
pub struct Caller(Mutex<CallerState>);

#[derive(Debug)]
struct CallerState {
    owners: Vec<Owner>,
    waiting: Option<(Weak<Shares>, Weak<Waiter>)>,
}

impl Caller {
    /// Starts with one user.
    pub fn new(owner: Owner) -> Arc<Self> {
        Arc::new(Self(Mutex::new(CallerState { owners: vec![owner], waiting: None })))
    }

    /// Notes one more user who waits for the work. A turn that the work waits for may be taken out of
    /// that user's share from now on.
    pub fn join(&self, owner: Owner) {
        let mut state = self.0.lock();
        if owner == Owner::Ahead
            || state.owners.contains(&owner)
            || state.owners.len() >= MAX_JOINED
        {
            return;
        }
        state.owners.push(owner);
        let waiting = state
            .waiting
            .as_ref()
            .and_then(|(shares, waiter)| Some((shares.upgrade()?, waiter.upgrade()?)));
        drop(state);
        if let Some((shares, waiter)) = waiting {
            shares.also(owner, waiter);
        }
    }
}

/// For whom the present task works.
#[derive(Debug, Clone)]
enum Whom {
    One(Owner),
    Several(Arc<Caller>),
}

tokio::task_local! {
    static WHOM: Whom;
}

/// Runs `work` for `owner`.
pub fn scope<F: Future>(owner: Owner, work: F) -> impl Future<Output = F::Output> {
    WHOM.scope(Whom::One(owner), work)
}

/// Runs `work` for all users of `caller`, also those who join later.
pub fn scope_of<F: Future>(caller: Arc<Caller>, work: F) -> impl Future<Output = F::Output> {
    WHOM.scope(Whom::Several(caller), work)
}

/// Returns for whom the present task works; the mount itself where nobody said.
pub fn present() -> Owner {
    let first = |whom: &Whom| match whom {
        Whom::One(owner) => *owner,
        Whom::Several(caller) => caller.0.lock().owners.first().copied().unwrap_or(Owner::Service),
    };
    WHOM.try_with(first).unwrap_or(Owner::Service)
}

/// No turn within the time, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    /// Who waited.
    pub owner: Owner,
    /// The turns that the owner holds.
    pub held: usize,
    /// The turns that all hold.
    pub taken: usize,
    /// All turns.
    pub limit: usize,
    /// For how long the owner waited.
    pub waited: Duration,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, held, taken, limit, waited } = self;
        if *held > 0 && taken < limit {
            let share = "which is its share, and got no other";
            write!(f, "{owner} has {held} of {limit} turns, {share} within {waited:?}")
        } else {
            let others = format_args!("({held} by {owner})");
            write!(f, "{taken} of {limit} turns are taken {others} for {waited:?}")
        }
    }
}

impl std::error::Error for Exhausted {}

/// A bounded number of turns.
pub struct Shares {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    held: HashMap<Owner, usize>,
    queues: HashMap<Owner, Queue>,
    /// Turns given to waiters so far.
    served: u64,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Arc<Waiter>>,
    /// When this owner was last served.
    served: u64,
}

/// One piece of work that waits for a turn; it may stand in the queues of several users.
#[derive(Debug)]
struct Waiter(Mutex<Option<oneshot::Sender<Turn>>>);

impl Waiter {
    fn is_gone(&self) -> bool {
        self.0.lock().as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// The right to go on; ends with this value.
#[derive(Debug)]
pub struct Turn {
    shares: Arc<Shares>,
    owner: Owner,
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Shares {
    /// Makes `limit` turns, at least one.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), state: Mutex::default() })
    }

    /// Waits for a turn for whom the present task works; at most for `limit`.
    pub async fn turn(self: &Arc<Self>, limit: Duration) -> Result<Turn, Exhausted> {
        let whom = WHOM.try_with(Clone::clone).unwrap_or(Whom::One(Owner::Service));
        let (owner, receiver, _place) = match &whom {
            Whom::One(owner) => match self.take_or_wait(&[*owner]) {
                Ok(turn) => return Ok(turn),
                Err((receiver, waiter)) => (*owner, receiver, waiter),
            },
            Whom::Several(caller) => {
                // Held, so that nobody joins between the look and the wait.
                let mut state = caller.0.lock();
                match self.take_or_wait(&state.owners) {
                    Ok(turn) => return Ok(turn),
                    Err((receiver, waiter)) => {
                        state.waiting = Some((Arc::downgrade(self), Arc::downgrade(&waiter)));
                        let owner = state.owners.first().copied().unwrap_or(Owner::Service);
                        (owner, receiver, waiter)
                    }
                }
            }
        };
        match tokio::time::timeout(limit, receiver).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => {
                let state = self.state.lock();
                Err(Exhausted {
                    owner,
                    held: state.held.get(&owner).copied().unwrap_or(0),
                    taken: state.taken,
                    limit: self.limit,
                    waited: limit,
                })
            }
        }
    }

    fn take_or_wait(
        self: &Arc<Self>,
        owners: &[Owner],
    ) -> Result<Turn, (oneshot::Receiver<Turn>, Arc<Waiter>)> {
        let mut state = self.state.lock();
        if let Some(&owner) = owners.iter().find(|owner| state.may_take(**owner, self.limit)) {
            state.take(owner);
            return Ok(Turn { shares: Arc::clone(self), owner });
        }
        let (sender, receiver) = oneshot::channel();
        let waiter = Arc::new(Waiter(Mutex::new(Some(sender))));
        for owner in owners {
            state.queues.entry(*owner).or_default().waiters.push_back(Arc::clone(&waiter));
        }
        Err((receiver, waiter))
    }

    /// Puts a waiter into the queue of one more user.
    fn also(self: &Arc<Self>, owner: Owner, waiter: Arc<Waiter>) {
        let mut state = self.state.lock();
        state.queues.entry(owner).or_default().waiters.push_back(waiter);
        self.hand_out(state);
    }

    /// Gives free turns to those who wait.
    fn hand_out(self: &Arc<Self>, mut state: parking_lot::MutexGuard<'_, State>) {
        let mut given = Vec::new();
        while let Some((owner, sender)) = state.next(self.limit) {
            state.take(owner);
            given.push((sender, Turn { shares: Arc::clone(self), owner }));
        }
        // A turn that nobody takes any more comes back through its drop, which takes the lock.
        drop(state);
        for (sender, turn) in given {
            drop(sender.send(turn));
        }
    }

    /// Returns how many turns are taken.
    pub fn taken(&self) -> usize {
        self.state.lock().taken
    }
}

impl State {
    fn may_take(&self, owner: Owner, limit: usize) -> bool {
        let free = limit.saturating_sub(self.taken);
        let held = self.held.get(&owner).copied().unwrap_or(0);
        match owner {
            _ if free == 0 => false,
            Owner::Service => true,
            Owner::User(_) => held == 0 || (free > limit / RESERVE && held < WEIGHT * (free - 1)),
            Owner::Ahead => {
                let waits = |(owner, queue): (&Owner, &Queue)| {
                    *owner != Owner::Ahead && queue.waiters.iter().any(|waiter| !waiter.is_gone())
                };
                held < free && !self.queues.iter().any(waits)
            }
        }
    }

    fn take(&mut self, owner: Owner) {
        self.taken += 1;
        *self.held.entry(owner).or_default() += 1;
    }

    /// Finds who gets a turn next: of those who may, who holds the fewest and waits the longest.
    fn next(&mut self, limit: usize) -> Option<(Owner, oneshot::Sender<Turn>)> {
        loop {
            let held = |owner: &Owner| self.held.get(owner).copied().unwrap_or(0);
            let class = |owner: &Owner| match owner {
                Owner::Service => 0,
                Owner::User(_) => 1,
                Owner::Ahead => 2,
            };
            let may = self.queues.iter().filter(|(owner, _)| self.may_take(**owner, limit));
            let (&owner, _) =
                may.min_by_key(|(owner, queue)| (class(owner), held(owner), queue.served))?;
            let queue = self.queues.get_mut(&owner)?;
            let mut found = None;
            while let Some(waiter) = queue.waiters.pop_front() {
                found = waiter.0.lock().take().filter(|sender| !sender.is_closed());
                if found.is_some() {
                    break;
                }
            }
            self.served += 1;
            queue.served = self.served;
            if queue.waiters.is_empty() {
                self.queues.remove(&owner);
            }
            if let Some(sender) = found {
                return Some((owner, sender));
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.shares.state.lock();
        state.taken = state.taken.saturating_sub(1);
        if let Some(held) = state.held.get_mut(&self.owner) {
            *held -= 1;
            if *held == 0 {
                state.held.remove(&self.owner);
            }
        }
        if !state.queues.is_empty() {
            let shares = Arc::clone(&self.shares);
            shares.hand_out(state);
        }
    }
}

#[cfg(test)]
mod tests;
