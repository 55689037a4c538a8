//! What the times of a file say about the clock.

use crate::error::{Error, Result};
use crate::time::Timestamp;

/// Counts the entries that were active in the future. A single one is wrong itself; where many are, the clock is, and
/// to move their times to now would make all of them one.
#[derive(Debug)]
pub(super) struct Evidence {
    now: Timestamp,
    /// The latest time that is believed.
    latest: Timestamp,
    /// The file itself is from the future.
    file_is_ahead: bool,
    /// Entries that say when they were active.
    entries: u64,
    ahead: u64,
    /// The latest of their times.
    last: Timestamp,
}

impl Evidence {
    pub(super) fn new(now: Timestamp, latest: Timestamp, file_time: Option<Timestamp>) -> Self {
        let file_is_ahead = file_time.is_some_and(|time| time > latest);
        Self { now, latest, file_is_ahead, entries: 0, ahead: 0, last: Timestamp::MIN }
    }

    /// Adds the activity of an entry, in microseconds since 1970.
    pub(super) fn add(&mut self, activity: Option<i64>) {
        // Where all times are trusted, one beyond the calendar says nothing about the clock.
        let Some(micros) = activity.filter(|_| self.latest < Timestamp::MAX) else { return };
        self.entries += 1;
        if micros > self.latest.as_micros() {
            self.ahead += 1;
            self.last = self.last.max(Timestamp::from_micros(micros));
        }
    }

    /// Half or more of the entries are proof, and so is one if the file was written in the future too. The number does
    /// not matter: most files hold a few entries.
    pub(super) fn judge(&self) -> Result<()> {
        let &Self { now, file_is_ahead, entries, ahead, last, .. } = self;
        if ahead > 0 && (2 * ahead >= entries || file_is_ahead) {
            return Err(Error::ClockBehind { ahead, entries, latest: last, now });
        }
        Ok(())
    }
}
