//! The time of the servers: the process's monotonic time and offsets that the lanes measure.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use redis::Value;

use super::value::{at, int};
use crate::time::{Clock, SystemClock, Timer, Timestamp};

/// How long a measure counts before a worse one may take its place.
const STALE: Duration = Duration::from_secs(60);
/// How long it counts at all.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Two clocks that differ by more disagree, and nobody knows which of them is right.
const APART: Duration = Duration::from_secs(60);

/// What the servers' clocks say, within half a round trip. Of several nodes the one in the middle counts, so one whose clock
/// is wrong moves nothing. A step of this host's clock does nothing either.
#[derive(Debug)]
pub(super) struct ServerClock {
    own: SystemClock,
    best: Mutex<HashMap<String, Measure>>,
}

#[derive(Debug, Clone, Copy)]
struct Measure {
    /// What the server said, and when.
    said: Timestamp,
    at: Instant,
    round_trip: Duration,
}

impl Measure {
    /// Whether the two cannot both be right: this host slept since, or the node's clock was set.
    fn contradicts(&self, other: &Self) -> bool {
        let (one, two) = (self.now(), other.now());
        one.since(two).max(two.since(one)) > self.round_trip + other.round_trip
    }

    fn now(&self) -> Timestamp {
        self.said.saturating_add(self.at.elapsed())
    }
}

/// The time in an answer to `TIME`.
pub(super) fn time_of(time: &[Value]) -> Option<Timestamp> {
    let (seconds, micros) = (int(at(time, 0))?, int(at(time, 1))?);
    Some(Timestamp::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros)))
}

/// Whether the times are such that something may be said of ages.
pub(super) fn agree(times: &[Timestamp]) -> bool {
    let (first, last) = (times.iter().min(), times.iter().max());
    first.zip(last).is_none_or(|(first, last)| last.since(*first) <= APART)
}

impl ServerClock {
    pub(super) fn new() -> Self {
        Self { own: SystemClock::new(), best: Mutex::default() }
    }

    /// Takes a node's answer to a `TIME` that was sent at `sent` and has just come.
    pub(super) fn told(&self, node: &str, sent: Instant, time: &[Value]) {
        let Some(said) = time_of(time) else { return };
        let round_trip = sent.elapsed();
        let measure = Measure { said, at: sent + round_trip / 2, round_trip };
        let mut best = self.best.lock();
        best.retain(|_, measure| measure.at.elapsed() < FORGOTTEN);
        match best.get_mut(node) {
            Some(best) if round_trip > best.round_trip && best.at.elapsed() <= STALE && !measure.contradicts(best) => {}
            Some(best) => *best = measure,
            None => drop(best.insert(node.to_owned(), measure)),
        }
    }
}

impl Clock for ServerClock {
    fn now(&self) -> Timestamp {
        let mut times: Vec<_> = self.best.lock().values().map(Measure::now).collect();
        times.sort_unstable();
        let middle = times.len().saturating_sub(1) / 2;
        times.get(middle).copied().unwrap_or_else(|| SystemTime::now().into())
    }

    fn monotonic(&self) -> Duration {
        self.own.monotonic()
    }

    fn after(&self, delay: Duration) -> Timer {
        self.own.after(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The monotonic clock stands still while a host is suspended, and the first measures after that are slow ones.
    #[test]
    fn a_measure_that_contradicts_a_better_one_takes_its_place() {
        let clock = ServerClock::new();
        let said = |seconds: i64| [Value::Int(seconds), Value::Int(0)];
        let tell = |seconds: i64, round_trip: Duration| {
            clock.told("one", Instant::now().checked_sub(round_trip).unwrap(), &said(seconds));
        };
        let is_at = |seconds: i64| {
            let apart = clock.now().as_micros() - seconds * 1_000_000;
            apart.abs() < 30_000_000
        };
        tell(1_000_000, Duration::ZERO);
        tell(1_000_000, Duration::from_secs(2));
        assert!(is_at(1_000_000));
        tell(1_003_600, Duration::from_secs(2));
        assert!(is_at(1_003_600));
    }
}
