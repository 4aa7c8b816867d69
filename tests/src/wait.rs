//! Waiting for what only polling can tell, such as the end of a mount.

use std::time::{Duration, Instant};

/// Pause between two looks at the condition.
const PAUSE: Duration = Duration::from_millis(5);

/// A condition that did not become true in time.
#[derive(Debug, thiserror::Error)]
#[error("no {what} within {limit:?}")]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub limit: Duration,
}

/// Waits until `condition` is true, for at most `limit`.
///
/// # Errors
/// [`TimedOut`], which says `what` was missing.
pub fn wait_until(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<(), TimedOut> {
    let start = Instant::now();
    loop {
        // The condition is asked once more after the limit: this thread may have been asleep.
        let late = start.elapsed() >= limit;
        if condition() {
            return Ok(());
        }
        if late {
            return Err(TimedOut { what: what.to_owned(), limit });
        }
        #[allow(clippy::disallowed_methods, reason = "the condition is waited for, with a limit")]
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_at_last_and_never() {
        let mut looks = 0;
        wait_until(Duration::from_secs(60), "third look", || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
        let error = wait_until(Duration::ZERO, "rain", || false).unwrap_err();
        assert_eq!(error.to_string(), "no rain within 0ns");
    }
}
