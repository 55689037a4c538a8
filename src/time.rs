//! Time: [`Timestamp`] in microseconds, and the [`Clock`] that everything asks, so that tests never sleep.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// A time that the range does not hold becomes its nearer end.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        time.duration_since(UNIX_EPOCH).map_or(Self::MIN, |since| Self::MIN.saturating_add(since))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + time.since(Timestamp::MIN)
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
/// [`ManualClock`]. It is never asked with an entry locked, so it may use the store; but the committer asks it too, and on that
/// thread a call that would wait for a commit is [`Error::Unsupported`](crate::Error::Unsupported). One that panics hurts its
/// caller only; if that is the committer, the store turns read-only.
///
/// A clock whose days are an hour long:
///
/// ```
/// use std::time::Duration;
/// use cloakroom::time::{Clock, SystemClock, Timer};
/// use cloakroom::{Options, SessionKey, SessionStore, Timestamp};
///
/// #[derive(Debug)]
/// struct Fast(SystemClock, Timestamp);
///
/// impl Clock for Fast {
///     fn now(&self) -> Timestamp {
///         self.1.saturating_add(self.monotonic())
///     }
///     fn monotonic(&self) -> Duration {
///         self.0.monotonic() * 24
///     }
///     fn after(&self, delay: Duration) -> Timer {
///         Timer::after(delay / 24)
///     }
/// }
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("sessions.db");
/// let clock = Fast(SystemClock::new(), SystemClock::new().now());
/// let store = SessionStore::open(Options::new(path).create(true).clock(clock))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time of day. It may jump, in both directions.
    fn now(&self) -> Timestamp;

    /// Time since some fixed point. It never goes back and never jumps.
    fn monotonic(&self) -> Duration;

    /// How long the machine has been running, and which of its runs this is. Nobody can set it, so the time of day is
    /// checked against it. By default [`monotonic`](Clock::monotonic), of a run that is not known: two openings of a
    /// store are then compared by the time of day alone.
    fn boot_time(&self) -> BootTime {
        BootTime { boot_id: None, elapsed: self.monotonic() }
    }

    /// A timer that goes off when `delay` of monotonic time has passed.
    fn after(&self, delay: Duration) -> Timer;
}

/// Something that goes off once: what [`Clock::after`] answers.
///
/// ```
/// use cloakroom::time::Timer;
/// let (trigger, timer) = Timer::manual();
/// let thread = std::thread::spawn(|| timer.wait());
/// trigger.pull();
/// thread.join().expect("it has gone off");
/// ```
#[derive(Debug)]
pub struct Timer(Receiver<Instant>);

impl Timer {
    /// One that goes off when the operating system's monotonic clock has moved by `delay`.
    #[must_use]
    pub fn after(delay: Duration) -> Self {
        Self(crossbeam_channel::after(delay))
    }

    /// One that goes off when its [`Trigger`] is pulled, or dropped.
    #[must_use]
    pub fn manual() -> (Trigger, Self) {
        let (sender, receiver) = crossbeam_channel::bounded(0);
        (Trigger { _sender: sender }, Self(receiver))
    }

    /// Waits until it goes off.
    pub fn wait(self) {
        // An error means that its trigger is gone, which is the same.
        let _ = self.0.recv();
    }

    /// For a thread that waits for other things too. Disconnected counts as gone off.
    pub(crate) fn receiver(&self) -> &Receiver<Instant> {
        &self.0
    }
}

/// Sets a [`Timer`] off, for clocks that are moved by hand. Dropped it does so as well, so that nothing waits for a clock
/// that is gone.
#[derive(Debug)]
pub struct Trigger {
    _sender: Sender<Instant>,
}

impl Trigger {
    /// Sets the timer off.
    pub fn pull(self) {}
}

/// How long a machine has been running: what [`Clock::boot_time`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTime {
    /// Names this run of the machine; another run has another. `None` if it is not known.
    pub boot_id: Option<u128>,
    /// Time since the machine was started, or since some other point that is the same for one `boot_id`. It includes
    /// the time that the machine was asleep, never goes back and never jumps.
    pub elapsed: Duration,
}

/// The clock of the operating system.
///
/// On Linux [`boot_time`](Clock::boot_time) is `CLOCK_BOOTTIME`, of the run that `/proc/sys/kernel/random/boot_id` names.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
    boot_id: Option<u128>,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now(), boot_id: boot_id() }
    }
}

/// The kernel's name for this run, a UUID. Containers see that of their machine.
fn boot_id() -> Option<u128> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // chrono's own panics before 1970.
        SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[cfg(target_os = "linux")]
    fn boot_time(&self) -> BootTime {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        BootTime { boot_id: self.boot_id, elapsed: Duration::try_from(time).unwrap_or_default() }
    }

    fn after(&self, delay: Duration) -> Timer {
        Timer::after(delay)
    }
}

/// A clock that moves only when told. Clones are the same clock, of a machine that has its own
/// [boot time](Clock::boot_time).
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<ManualState>>,
}

#[derive(Debug)]
struct ManualState {
    wall: Timestamp,
    monotonic: Duration,
    boot_id: u128,
    /// Monotonic time when the machine was started.
    booted: Duration,
    timers: Vec<(Duration, Trigger)>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let (monotonic, boot_id) = (Duration::ZERO, new_boot_id());
        let state = ManualState { wall: now, monotonic, boot_id, booted: monotonic, timers: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Lets time pass: both clocks move, and timers that are due fire.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock();
        state.wall = state.wall.saturating_add(by);
        state.monotonic = state.monotonic.saturating_add(by);
        let now = state.monotonic;
        // A dropped trigger is a pulled one.
        state.timers.retain(|(due, _)| *due > now);
    }

    /// Sets the time of day, as an operator or a bad time server does. Monotonic time stays.
    pub fn set_wall(&self, now: Timestamp) {
        self.state.lock().wall = now;
    }

    /// Starts the machine anew: [`boot_time`](Clock::boot_time) is that of another run, and begins at zero. The time of
    /// day and the monotonic time stay.
    pub fn reboot(&self) {
        let mut state = self.state.lock();
        (state.boot_id, state.booted) = (new_boot_id(), state.monotonic);
    }

    /// How many timers wait. Lets a test know that a thread has gone to sleep.
    #[must_use]
    pub fn timers(&self) -> usize {
        self.state.lock().timers.len()
    }
}

/// Another at each call, and in each process.
fn new_boot_id() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().monotonic
    }

    fn boot_time(&self) -> BootTime {
        let state = self.state.lock();
        BootTime { boot_id: Some(state.boot_id), elapsed: state.monotonic.saturating_sub(state.booted) }
    }

    fn after(&self, delay: Duration) -> Timer {
        let (trigger, timer) = Timer::manual();
        let mut state = self.state.lock();
        let due = state.monotonic.saturating_add(delay);
        state.timers.push((due, trigger));
        timer
    }
}

/// How far the two clocks of a [`Reading`] may drift apart and still agree: a time server moves the clock by less, but
/// for steps that are jumps.
const TOLERANCE: Duration = Duration::from_secs(60);
/// A clock that is being slewed runs too fast or too slow by up to a two-thousandth.
const SLEW: u32 = 1000;

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) wall: Timestamp,
    pub(crate) boot: BootTime,
}

impl Reading {
    /// What the clock says now.
    pub(crate) fn of(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), boot: clock.boot_time() }
    }

    /// How long ago `earlier` was, a reading of this process; `None` if the time of day was set in between.
    pub(crate) fn since(self, earlier: Self) -> Option<Duration> {
        let passed = self.boot.elapsed.saturating_sub(earlier.boot.elapsed);
        let by_wall = self.wall.as_micros() - earlier.wall.as_micros();
        let apart = Duration::from_micros(by_wall.abs_diff(micros(passed)));
        (apart <= TOLERANCE.saturating_add(passed / SLEW)).then_some(passed)
    }

    /// The same of a reading that another process may have left. In another run of the machine only the time of day
    /// tells, and nobody knows whether that was set.
    pub(crate) fn since_kept(self, kept: Self) -> Option<Duration> {
        let same_run = self.boot.boot_id.is_some() && self.boot.boot_id == kept.boot.boot_id;
        if same_run && self.boot.elapsed >= kept.boot.elapsed {
            return self.since(kept);
        }
        (self.wall >= kept.wall).then(|| self.wall.since(kept.wall))
    }
}

/// A duration in a report: whole seconds.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn times_of_the_system_are_clamped_and_come_back() {
        let time = UNIX_EPOCH + Duration::from_micros(1_781_222_813_123_456);
        assert_eq!(SystemTime::from(Timestamp::from(time)), time);
        assert_eq!(Timestamp::from(UNIX_EPOCH - HOUR), Timestamp::MIN);
        assert_eq!(Timestamp::from(SystemTime::from(Timestamp::MAX) + HOUR), Timestamp::MAX);
    }

    #[test]
    fn a_reading_tells_a_jump_from_time_that_passed() {
        let clock = ManualClock::new(Timestamp::from_micros(1_781_222_813_123_456));
        let first = Reading::of(&clock);
        clock.advance(HOUR);
        let second = Reading::of(&clock);
        assert_eq!((second.since(first), second.since_kept(first)), (Some(HOUR), Some(HOUR)));
        clock.set_wall(second.wall.saturating_sub(Duration::from_secs(61)));
        assert_eq!(Reading::of(&clock).since(second), None);
        clock.set_wall(second.wall.saturating_add(Duration::from_secs(61)));
        assert_eq!(Reading::of(&clock).since_kept(second), None);
        // A clock that is slewed for ten days.
        clock.set_wall(second.wall.saturating_add(240 * HOUR + Duration::from_secs(400)));
        let mut slewed = Reading::of(&clock);
        slewed.boot.elapsed += 240 * HOUR;
        assert_eq!(slewed.since(second), Some(240 * HOUR));
        // Another run, where only the time of day tells.
        clock.reboot();
        let third = Reading::of(&clock);
        assert_eq!(third.since_kept(second), Some(third.wall.since(second.wall)));
        clock.set_wall(first.wall);
        assert_eq!(Reading::of(&clock).since_kept(second), None, "it was set back");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_names_its_run() {
        let (one, other) = (SystemClock::new().boot_time(), SystemClock::new().boot_time());
        assert!(one.boot_id.is_some() && one.boot_id == other.boot_id);
        assert!(one.elapsed > Duration::ZERO && other.elapsed >= one.elapsed);
    }
}
