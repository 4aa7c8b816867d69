//! Deadlines, and the end of a mount.

use std::time::Instant;

use super::super::abort;
use super::super::child::Reason;
use super::super::control::Answer;
use super::{Outcome, Succession};
use crate::cli::exit::{ExitStatus, Failure};

impl Succession {
    pub(super) fn keep_deadlines(&mut self, now: Instant) {
        let limits = self.limits;
        let late = |since: Option<Instant>, limit| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
        };
        if let Some(candidate) = &mut self.candidate
            && !candidate.ready
            && late(Some(candidate.started), limits.serve)
        {
            tracing::warn!("a successor was not ready in time");
            candidate.kill(Reason::Overdue);
        }
        let Some(server) = &mut self.server else { return };
        if let Some((at, _)) = server.killed {
            if late(Some(at), limits.kill) {
                self.give_up("a killed server does not end");
            }
            return;
        }
        if late(self.stopping, limits.stop) {
            server.kill(Reason::Overdue);
        }
        if !server.serving && late(server.heir_since, limits.serve) {
            tracing::warn!(limit = ?limits.serve, "a successor does not serve in time; it is killed");
            server.kill(Reason::Overdue);
            if late(self.silent_since, limits.silence) {
                self.give_up("no successor serves");
            }
        }
    }

    pub(super) fn is_unmounted(&self) -> bool {
        self.holdings.mount.as_ref().is_some_and(|mount| abort::is_over(&mount.connection))
    }

    /// Asked to stop while there is a pause between two servers.
    pub(super) fn end_without_server(&mut self) {
        if let Some(mount) = self.holdings.mount.take() {
            abort::end(mount, false);
        }
        self.end(Outcome::Unmounted);
    }

    /// Ends the mount, so that its users get an error instead of waiting for ever.
    pub(super) fn give_up(&mut self, reason: &str) {
        if let Some(mount) = self.holdings.mount.take() {
            abort::end(mount, true);
        }
        if let Some(server) = &mut self.server {
            server.kill(Reason::Overdue);
        }
        let message = format!("the mount is given up: {reason}; see the messages before");
        let failure = Failure::new(ExitStatus::FuseLoop, message).advise("mount it again");
        self.end(Outcome::GivenUp(failure));
    }

    pub(super) fn end(&mut self, outcome: Outcome) {
        if let Some(candidate) = &mut self.candidate {
            candidate.kill(Reason::Overdue);
        }
        self.pausing = None;
        self.answer(Answer::Failed("the mount has ended".to_owned()));
        if let Some(deposit) = &mut self.deposit
            && !matches!(outcome, Outcome::Left)
        {
            deposit.release();
        }
        self.outcome.get_or_insert(outcome);
    }
}
