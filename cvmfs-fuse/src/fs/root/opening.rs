//! The one attempt that everybody waits for who asks for a repository.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::share::{self, Caller, Shares};
use futures_util::FutureExt as _;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::{FsError, Gate};
use super::attempts::{Attempt, Attempts, Missing, Outcome};
use super::members::{Member, Members, Open};
use super::{OpenError, Opener, RootFsOptions, Wanted};

/// Attempts for names of which nobody knows whether they are repositories, at a time: whatever a
/// program makes up, servers see no more of it.
pub(super) const MAX_ATTEMPTS: usize = 8;
/// How long such a name waits for its turn, behind others that get no answer.
const TURN_LIMIT: Duration = Duration::from_secs(30);
/// A repository used within this time is not closed for another one.
const JUST_USED: Duration = Duration::from_secs(2);
/// How long an opening may take; the network has tighter limits for each attempt.
const OPEN_LIMIT: Duration = Duration::from_secs(5 * 60);

/// What openings take along.
pub(super) struct Shared {
    pub(super) opener: Arc<dyn Opener>,
    pub(super) options: RootFsOptions,
    pub(super) gate: Arc<Gate>,
    pub(super) members: RwLock<Members>,
    pub(super) attempts: Mutex<Attempts>,
    pub(super) turns: Arc<Shares>,
    pub(super) places: Arc<Semaphore>,
}

impl Shared {
    /// Returns an open repository; opens it, or waits for whoever does already.
    pub(super) async fn opened(
        self: &Arc<Self>,
        fqrn: &Fqrn,
    ) -> Result<(Arc<Member>, Arc<Open>), FsError> {
        if let Some(found) = self.now_open(fqrn) {
            return Ok(found);
        }
        let attempt = {
            let mut attempts = self.attempts.lock();
            // Again under the lock, under which attempts end.
            if let Some(found) = self.now_open(fqrn) {
                return Ok(found);
            }
            if let Some(missing) = attempts.remembered(fqrn, Instant::now()) {
                return Err(missing.error(fqrn));
            }
            match attempts.running.get(fqrn) {
                Some((attempt, caller)) => {
                    caller.join(share::present());
                    attempt.clone()
                }
                None => {
                    let caller = Caller::new(share::present());
                    let attempt = self.start(fqrn.clone(), Arc::clone(&caller));
                    attempts.running.insert(fqrn.clone(), (attempt.clone(), caller));
                    attempt
                }
            }
        };
        attempt.await.map_err(|missing| missing.error(fqrn))
    }

    fn now_open(&self, fqrn: &Fqrn) -> Option<(Arc<Member>, Arc<Open>)> {
        let member = self.members.read().named(fqrn)?;
        let open = member.open()?;
        Some((member, open))
    }

    /// Starts an attempt as a task of its own: it helps the next one who asks, whatever becomes of
    /// the present one.
    fn start(self: &Arc<Self>, fqrn: Fqrn, caller: Arc<Caller>) -> Attempt {
        let shared = Arc::clone(self);
        let defect = || Missing::Failed("defect in this program".into());
        let task = tokio::spawn(share::scope_of(caller, async move {
            let outcome = AssertUnwindSafe(shared.attempt(&fqrn)).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|_| Err(defect()));
            if let Err(missing) = &outcome {
                shared.members.write().dismiss(&fqrn);
                if let Missing::Failed(reason) | Missing::Busy(reason) = missing {
                    tracing::warn!(%fqrn, %reason, "cannot be opened");
                }
            }
            shared.attempts.lock().ended(&fqrn, &outcome, Instant::now());
            outcome
        }));
        task.map(move |joined| joined.unwrap_or_else(|_| Err(defect()))).boxed().shared()
    }

    async fn attempt(self: &Arc<Self>, fqrn: &Fqrn) -> Outcome {
        // Those that are known to exist do not wait behind those that may not.
        let is_known = self.members.read().named(fqrn).is_some();
        let _turn = match is_known {
            true => None,
            false => {
                let turn = self.turns.turn(TURN_LIMIT).await;
                Some(turn.map_err(|exhausted| {
                    let busy = format!("too many other names are being looked for: {exhausted}");
                    Missing::Busy(busy.into())
                })?)
            }
        };
        let crowded = || Missing::Crowded(self.options.most);
        let place = self.place().ok_or_else(crowded)?;
        let (member, dismissed) = self.members.write().admit(fqrn, false).ok_or_else(crowded)?;
        if let Some(dismissed) = dismissed {
            self.opener.dismissed(&dismissed);
        }
        let former = member.begin();
        let beginning = Beginning(Some(&member));
        let (slot, gate) = (member.slot, Arc::clone(&self.gate));
        let wanted = Wanted { fqrn: fqrn.clone(), slot, gate, former };
        let opened = match tokio::time::timeout(OPEN_LIMIT, self.opener.open(wanted)).await {
            Ok(Ok(opened)) => opened,
            // Nobody signs a 404: a name that is listed, or was open before, is not taken away by it.
            Ok(Err(OpenError::Unknown)) if is_known => {
                let reason = "all servers say that there is no such repository (HTTP 404)";
                return Err(Missing::Failed(reason.into()));
            }
            Ok(Err(OpenError::Unknown)) => return Err(Missing::Unknown),
            Ok(Err(OpenError::Failed(reason))) => return Err(Missing::Failed(reason.into())),
            Err(_) => {
                let reason = format!("not open after {} s", OPEN_LIMIT.as_secs());
                return Err(Missing::Failed(reason.into()));
            }
        };
        beginning.succeeds();
        if let Some(journal) = opened.fs.journal() {
            journal.slot(member.slot);
        }
        tracing::info!(%fqrn, slot = member.slot.number(), "open");
        let open = member.keep(opened, place);
        Ok((member, open))
    }

    /// Returns a place for one more open repository; the one that was not used for the longest time
    /// may have to go for it.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        let free = || Arc::clone(&self.places).try_acquire_owned().ok();
        free().or_else(|| {
            // One of those that count as open may have no place yet.
            self.unused(JUST_USED).iter().find_map(|fqrn| self.close(fqrn).then(free).flatten())
        })
    }

    /// Returns the open repositories that nobody has used for this long, the longest first.
    pub(super) fn unused(&self, limit: Duration) -> Vec<Fqrn> {
        let members = self.members.read();
        let open = members.all().filter(|member| member.is_open());
        let mut unused: Vec<_> =
            open.map(|m| (m.unused_for(), m.fqrn.clone())).filter(|(t, _)| *t >= limit).collect();
        drop(members);
        unused.sort_by_key(|(unused_for, _)| std::cmp::Reverse(*unused_for));
        unused.into_iter().map(|(_, fqrn)| fqrn).collect()
    }

    /// Closes a repository, unless somebody could notice: false then.
    pub(super) fn close(&self, fqrn: &Fqrn) -> bool {
        let member = self.members.read().named(fqrn);
        let closed = member.is_none_or(|member| member.close());
        if closed {
            tracing::info!(%fqrn, "closed: nobody uses it");
        }
        closed
    }
}

/// An opening that ends in vain unless it is told otherwise, even by a panic.
struct Beginning<'a>(Option<&'a Member>);

impl Beginning<'_> {
    fn succeeds(mut self) {
        self.0 = None;
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        if let Some(member) = self.0 {
            member.give_up();
        }
    }
}
