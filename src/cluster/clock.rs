//! The time of the servers: the process's monotonic time and an offset that the lanes measure.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use redis::Value;

use super::value::{at, int};
use crate::time::{Clock, SystemClock, Timer, Timestamp};

/// How long a measure counts before a worse one may take its place.
const STALE: Duration = Duration::from_secs(60);

/// What the servers' clocks say, within half a round trip. A step of this host's clock does nothing.
#[derive(Debug)]
pub(super) struct ServerClock {
    own: SystemClock,
    best: Mutex<Option<Measure>>,
}

#[derive(Debug, Clone, Copy)]
struct Measure {
    /// What the server said, and when.
    said: Timestamp,
    at: Instant,
    round_trip: Duration,
}

impl ServerClock {
    pub(super) fn new() -> Self {
        Self { own: SystemClock::new(), best: Mutex::default() }
    }

    /// Takes the answer to a `TIME` that was sent at `sent` and has just come.
    pub(super) fn told(&self, sent: Instant, time: &[Value]) {
        let (Some(seconds), Some(micros)) = (int(at(time, 0)), int(at(time, 1))) else { return };
        let round_trip = sent.elapsed();
        let said = Timestamp::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros));
        let measure = Measure { said, at: sent + round_trip / 2, round_trip };
        let mut best = self.best.lock();
        if best.is_none_or(|best| round_trip <= best.round_trip || best.at.elapsed() > STALE) {
            *best = Some(measure);
        }
    }
}

impl Clock for ServerClock {
    fn now(&self) -> Timestamp {
        match *self.best.lock() {
            Some(Measure { said, at, .. }) => said.saturating_add(at.elapsed()),
            None => SystemTime::now().into(),
        }
    }

    fn monotonic(&self) -> Duration {
        self.own.monotonic()
    }

    fn after(&self, delay: Duration) -> Timer {
        self.own.after(delay)
    }
}
