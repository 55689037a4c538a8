//! Time: [`Timestamp`] in microseconds, and the [`Clock`] that everything asks, so that tests never sleep.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MICROS_PER_SECOND: i64 = 1_000_000;

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
///
/// It lies between [`Timestamp::MIN`] and [`Timestamp::MAX`] (the end of the year 9999, the last that RFC 3339 can
/// write); conversions from outside that range give the nearer end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const MIN: Self = Self(0);
    /// 9999-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(253_402_300_799 * MICROS_PER_SECOND + 999_999);

    /// From microseconds since 1970, clamped to the range.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        if micros < Self::MIN.0 {
            Self::MIN
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This point moved forward, at most to [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(micros(by)))
    }

    /// This point moved back, at most to [`Timestamp::MIN`].
    #[must_use]
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self::from_micros(self.0.saturating_sub(micros(by)))
    }

    /// How long after `earlier` this is; zero if it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self::from_micros(time.timestamp_micros())
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(time: Timestamp) -> Self {
        // Every Timestamp lies within chrono's range, so the fallback is never taken.
        DateTime::from_timestamp_micros(time.0).unwrap_or(DateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with six digits of a second, `2026-06-03T00:41:19.752658Z`: sorted as text, times are in order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&DateTime::<Utc>::from(*self).to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DateTime::<Utc>::deserialize(deserializer).map(Self::from)
    }
}

/// What tells the time.
///
/// The store asks it for every `updated_at`, the watcher for its ticks. [`SystemClock`] is the default; tests use
/// [`ManualClock`]. It is never asked with an entry locked, so it may use the store. One that panics hurts its caller
/// only; if that is the committer, the store turns read-only.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time of day. It may jump, in both directions.
    fn now(&self) -> Timestamp;

    /// Time since some fixed point. It never goes back and never jumps.
    fn monotonic(&self) -> Duration;

    /// A channel that gets one message when `delay` of monotonic time has passed.
    fn after(&self, delay: Duration) -> Receiver<Instant>;
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Utc::now().into()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn after(&self, delay: Duration) -> Receiver<Instant> {
        crossbeam_channel::after(delay)
    }
}

/// A clock that moves only when told. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<ManualState>>,
}

#[derive(Debug)]
struct ManualState {
    wall: Timestamp,
    monotonic: Duration,
    timers: Vec<(Duration, Sender<Instant>)>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let state = ManualState { wall: now, monotonic: Duration::ZERO, timers: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Lets time pass: both clocks move, and timers that are due fire.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock();
        state.wall = state.wall.saturating_add(by);
        state.monotonic = state.monotonic.saturating_add(by);
        let now = state.monotonic;
        state.timers.retain(|(due, timer)| {
            let waiting = *due > now;
            if !waiting {
                // The channel holds one message and gets one; a receiver that is gone no longer cares.
                let _ = timer.try_send(Instant::now());
            }
            waiting
        });
    }

    /// Sets the time of day, as an operator or a bad time server does. Monotonic time stays.
    pub fn set_wall(&self, now: Timestamp) {
        self.state.lock().wall = now;
    }

    /// How many timers wait. Lets a test know that a thread has gone to sleep.
    #[must_use]
    pub fn timers(&self) -> usize {
        self.state.lock().timers.len()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().monotonic
    }

    fn after(&self, delay: Duration) -> Receiver<Instant> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let mut state = self.state.lock();
        let due = state.monotonic.saturating_add(delay);
        state.timers.push((due, sender));
        receiver
    }
}
