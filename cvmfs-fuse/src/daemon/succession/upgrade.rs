//! Another program in the place of the one that serves.

use std::rc::Rc;

use nix::unistd::Pid;
use rustix::process::WaitStatus;

use super::super::child::{Child, Order, Program, Reason};
use super::super::control::Answer;
use super::{Succession, name_of, shown};

/// An upgrade under way.
#[derive(Debug)]
pub(super) struct Upgrade {
    from: String,
    /// Who was there when it was asked for.
    replaced: Option<Pid>,
}

impl Succession {
    /// Replaces the server by the program that is on disk now.
    pub(crate) fn upgrade(&mut self) {
        if !self.has_mount() || self.outcome.is_some() || self.stopping.is_some() {
            return self.answer(Answer::Failed("there is no mount to go on with".to_owned()));
        }
        if self.upgrade.is_some() {
            return;
        }
        let from = self.server.as_ref().map_or_else(|| "a dead server".to_owned(), name_of);
        let program = match &self.on_disk {
            Some(path) => Program::at(path).map_err(|error| format!("{}: {error}", path.display())),
            None => Err("it is not known where the program is".to_owned()),
        };
        let started = program.and_then(|program| {
            self.program = Rc::new(program);
            self.prepare(Order::Later).map_err(|error| error.to_string())
        });
        match started {
            Ok(candidate) => {
                if let Some(mut spare) = self.candidate.replace(candidate) {
                    spare.kill(Reason::Overdue);
                }
                let replaced = self.server.as_ref().map(|server| server.pid);
                self.upgrade = Some(Upgrade { from, replaced });
                if self.server.is_none() {
                    // In a pause between two that died.
                    self.pausing = None;
                    self.promote();
                }
            }
            Err(reason) => {
                self.program = Rc::clone(&self.trusted);
                tracing::warn!(reason, "the new program cannot be started");
                self.answer(Answer::Failed(format!("cannot start the new program: {reason}")));
            }
        }
    }

    /// Tells that `server` serves, who is `to`.
    ///
    /// It may be the one to be replaced: it answers users a moment before it says here that it
    /// serves, and is asked to go in that moment.
    pub(super) fn upgraded(&mut self, server: Pid, to: String) {
        let done = self.upgrade.take_if(|upgrade| upgrade.replaced != Some(server));
        if let Some(Upgrade { from, .. }) = done {
            tracing::info!(from, to, "upgraded");
            self.answer(Answer::Upgraded { from, to });
        }
    }

    pub(super) fn candidate_ended(&mut self, candidate: &Child, status: WaitStatus) {
        if candidate.killed.is_some_and(|(_, reason)| reason == Reason::Crowded) {
            // The server said more than a successor took. It is not to keep itself from being replaced, so it
            // goes first, and the next successor takes over what it has left.
            if let (Some(server), Some(_)) = (&mut self.server, &self.upgrade) {
                server.kill(Reason::Upgrade);
            }
            return;
        }
        if candidate.program != self.trusted {
            self.fall_back(&format!("it ended before it was ready: {}", shown(status)));
        }
    }

    /// Goes back to the program that served before.
    pub(super) fn fall_back(&mut self, why: &str) {
        if self.program == self.trusted {
            return;
        }
        tracing::warn!(program = %self.program, why, "upgrade failed; going on with the old program");
        self.program = Rc::clone(&self.trusted);
        self.upgrade = None;
        self.answer(Answer::Failed(format!("{why}; the mount goes on with the old program")));
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        if let Some(control) = &mut self.control {
            control.answer(&answer);
        }
    }
}
