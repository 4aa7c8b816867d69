//! Messages about something that lasts: one when it begins, then at doubling intervals.

/// Seconds between the first and the second message.
const FIRST: i64 = 60;
/// Most seconds between two messages: who reads the log of a day sees that it still lasts.
const LONGEST: i64 = 24 * 3600;

/// Decides when a message about something that lasts is due again. A short interruption does not
/// start it anew, so that what comes and goes each second is no flood.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reminder {
    /// When the last message was due, Unix seconds, and how long the next one has to wait.
    last: Option<(i64, i64)>,
}

impl Reminder {
    /// Tells whether a message is due at `now` (Unix seconds); the caller then writes it.
    pub fn is_due(&mut self, now: i64) -> bool {
        let wait = match self.last {
            None => FIRST,
            // The clock was set back: as if the last one was just now.
            Some((last, wait)) if now < last => {
                self.last = Some((now, wait));
                return false;
            }
            Some((last, wait)) if now - last < wait => return false,
            // Nothing happened for long: something new.
            Some((last, wait)) if now - last >= wait.saturating_mul(4) => FIRST,
            Some((_, wait)) => (wait * 2).min(LONGEST),
        };
        self.last = Some((now, wait));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_what_lasts_is_said_at_doubling_intervals_and_once_a_day_at_most() {
        let mut reminder = Reminder::default();
        let year = 365 * 24 * 3600;
        let mut said: Vec<i64> = Vec::new();
        // A look each minute for a year.
        for now in (0..year).step_by(60) {
            if reminder.is_due(now) {
                said.push(now);
            }
        }
        assert_eq!(said[..5], [0, 60, 180, 420, 900]);
        assert!(said.len() < 380, "{}", said.len());
        assert!(said.windows(2).skip(11).all(|pair| pair[1] - pair[0] >= LONGEST));
        // Each second.
        let mut reminder = Reminder::default();
        assert_eq!((0..3600).filter(|&now| reminder.is_due(now)).count(), 6);
        // Long after it was over.
        assert!(reminder.is_due(1_000_000));
        assert!(!reminder.is_due(1_000_059));
        assert!(reminder.is_due(1_000_060));
        // The clock is set back.
        assert!(!reminder.is_due(0));
        assert!(reminder.is_due(200));
    }
}
