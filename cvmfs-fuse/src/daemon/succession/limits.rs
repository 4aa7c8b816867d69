//! How long servers may take, and what is made of their deaths.

use std::time::Duration;

/// So many short lives in a row, and there is no point in going on: some 20 s of trying.
const MAX_SHORT_LIVES: u32 = 12;
/// Short lives after which there is a pause before the next start.
const QUICK_STARTS: u32 = 3;
/// The first pause; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A server that lived longer did not die of what it took over.
    pub(super) short_life: Duration,
    /// A successor, until it is ready, and then until it serves. It asks nobody if the cache has
    /// what was shown; else it has to download a catalog.
    pub(super) serve: Duration,
    /// All successors in a row: so long users wait at most before they get errors.
    pub(super) silence: Duration,
    /// A killed server, until it ends; it does not when it waits for its own mount.
    pub(super) kill: Duration,
    /// The last words of a server that was asked to stop.
    pub(super) stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            short_life: seconds(1),
            serve: seconds(60),
            silence: seconds(180),
            kill: seconds(10),
            stop: seconds(20),
        }
    }
}

/// What follows the death of a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next one, at once.
    Now,
    /// The next one, a little later.
    After(Duration),
    /// None: so many died in a row.
    GiveUp(u32),
}

/// Returns what follows after so many short lives in a row.
pub(super) fn after(short_lives: u32) -> Next {
    if short_lives > MAX_SHORT_LIVES {
        return Next::GiveUp(short_lives);
    }
    match short_lives.checked_sub(QUICK_STARTS + 1) {
        Some(more) => Next::After(FIRST_PAUSE.saturating_mul(1 << more.min(16)).min(MAX_PAUSE)),
        None => Next::Now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_answered_quickly_first_then_slowly_then_not() {
        assert_eq!((0..=3).map(after).collect::<Vec<_>>(), [const { Next::Now }; 4]);
        let pauses: Vec<_> = (4..=12)
            .map(|lives| match after(lives) {
                Next::After(pause) => pause.as_millis(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(after(13), Next::GiveUp(13));
    }
}
