//! Cloakroom with the clock of the bench.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloakroom::{Options, PrunePolicy, SessionKey, SessionStore, Timestamp};

use super::api::{self, Clock, NoActivity, Resolution, Timer};
use super::contender::{Contender, Fields, bytes_written};
use super::people::source;

/// The time of day is set by the stream; monotonic time is real, so that the store's own work by the clock is measured
/// too.
#[derive(Debug, Clone)]
pub struct StreamClock {
    wall: Arc<AtomicI64>,
    start: Instant,
    /// Seconds that monotonic time was taken ahead.
    ahead: Arc<AtomicU64>,
}

impl StreamClock {
    fn new() -> Self {
        Self { wall: Arc::default(), start: Instant::now(), ahead: Arc::default() }
    }
}

impl Clock for StreamClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.wall.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed() + Duration::from_secs(self.ahead.load(Ordering::Relaxed))
    }

    fn after(&self, delay: Duration) -> Timer {
        api::timer(delay)
    }
}

/// An open store and the keys of its entries.
#[derive(Debug)]
pub struct CloakroomStore {
    pub store: SessionStore,
    clock: StreamClock,
    keys: Arc<Vec<SessionKey>>,
}

impl CloakroomStore {
    /// Makes a store in `dir`.
    pub fn open(dir: &Path, keys: Vec<SessionKey>) -> Self {
        Self::open_at(dir, Arc::new(keys), 0)
    }

    /// Opens the store in `dir` at the time `now`, and makes it where there is none. An opening counts the entries that
    /// lie ahead of its clock, which would be all of them if it had no time.
    pub fn open_at(dir: &Path, keys: Arc<Vec<SessionKey>>, now: i64) -> Self {
        let clock = StreamClock::new();
        clock.wall.store(now, Ordering::Relaxed);
        let options = Options::new(dir.join("sessions.db")).create(true).clock(clock.clone());
        Self { store: SessionStore::open(options).unwrap(), clock, keys }
    }

    /// Makes the store in `dir` from a gateway's file, at the time `now`, and leaves it closed. Answers how many entries
    /// it got.
    pub fn migrate(dir: &Path, file: &Path, now: i64) -> u64 {
        let clock = StreamClock::new();
        clock.wall.store(now, Ordering::Relaxed);
        api::migrate(&Options::new(dir.join("sessions.db")).clock(clock), file)
    }

    pub fn set_now(&self, micros: i64) {
        self.clock.wall.store(micros, Ordering::Relaxed);
    }

    pub fn key(&self, entry: usize) -> &SessionKey {
        &self.keys[entry]
    }
}

impl Contender for CloakroomStore {
    fn name(&self) -> &'static str {
        "cloakroom"
    }

    fn create(&self, entries: Range<usize>, at: &dyn Fn(usize) -> i64) {
        for entry in entries {
            self.set_now(at(entry));
            let resolved = self.store.resolve(&source(entry, self.keys.len())).unwrap();
            assert_eq!(resolved.resolution, Resolution::Created);
        }
        self.store.flush().unwrap();
    }

    fn touches(&self, stream: &mut dyn Iterator<Item = (usize, i64)>) {
        for (entry, now) in stream {
            self.set_now(now);
            self.store.touch(&self.keys[entry]).unwrap().unwrap();
        }
        self.store.flush().unwrap();
    }

    fn modifies(&self, fields: Fields, stream: &mut dyn Iterator<Item = (usize, i64)>) -> bool {
        if !api::CAN_MODIFY {
            return false;
        }
        for (entry, now) in stream {
            self.set_now(now);
            api::modify(&self.store, &self.keys[entry], fields, now);
        }
        self.store.flush().unwrap();
        true
    }

    /// Monotonic time goes ahead by more than a minute before each of several commits, so that all that waits for its time
    /// is due. It is done when nothing more is written but the touch that asks for the commit.
    fn settle(&self) {
        const NOTHING: u64 = 48 << 10;
        let key = &self.keys[0];
        let mut quiet = 0;
        while quiet < 16 {
            let before = bytes_written();
            self.clock.ahead.fetch_add(61, Ordering::Relaxed);
            self.store.touch(key).unwrap().unwrap().wait().unwrap();
            // The committer does it after the commit.
            self.store.touch(key).unwrap().unwrap().wait().unwrap();
            quiet = if bytes_written() - before <= NOTHING { quiet + 1 } else { 0 };
        }
    }

    fn touch_durable(&self, entry: usize, now: i64) {
        self.set_now(now);
        self.store.touch(&self.keys[entry]).unwrap().unwrap().wait().unwrap();
    }

    fn get(&self, entry: usize) -> Option<i64> {
        self.store.get(&self.keys[entry]).unwrap().map(|entry| entry.updated_at.as_micros())
    }

    fn prune(&self, cutoff: i64) -> u64 {
        // As many days as it takes for a clock that is not behind the entries: one that is a day behind most prunes nothing.
        const DAY: i64 = 24 * 60 * super::stream::MINUTE;
        let days = ((self.clock.now().as_micros() - cutoff + DAY - 1) / DAY).max(1);
        let policy = PrunePolicy::max_age_days(days);
        self.set_now(cutoff + days * DAY);
        assert_eq!(policy.cutoff(self.clock.now()), Some(Timestamp::from_micros(cutoff)));
        self.store.prune(&policy, NoActivity).unwrap().removed
    }

    fn recent(&self, limit: usize) -> Vec<i64> {
        let page = self.store.recent(limit, None).unwrap();
        page.entries.iter().map(|summary| summary.updated_at.as_micros()).collect()
    }

    fn count(&self) -> u64 {
        self.store.len()
    }
}
