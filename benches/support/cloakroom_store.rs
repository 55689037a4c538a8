//! Cloakroom with the clock of the bench.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use cloakroom::change::{Edit, Modified, Resolution, Touch};
use cloakroom::prune::NoActivity;
use cloakroom::time::{Clock, Timer};
use cloakroom::{Options, PrunePolicy, SessionKey, SessionStore, Timestamp};

use super::contender::{Contender, Fields};
use super::people::source;

/// The time of day is set by the stream; monotonic time is real, so that the store's own work by the clock is measured
/// too.
#[derive(Debug, Clone)]
pub struct StreamClock {
    wall: Arc<AtomicI64>,
    start: Instant,
}

impl Clock for StreamClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.wall.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn after(&self, delay: Duration) -> Timer {
        Timer::after(delay)
    }
}

/// An open store and the keys of its entries.
#[derive(Debug)]
pub struct CloakroomStore {
    pub store: SessionStore,
    clock: StreamClock,
    keys: Vec<SessionKey>,
}

impl CloakroomStore {
    /// Opens the store in `dir`, and makes it where there is none.
    pub fn open(dir: &Path, keys: Vec<SessionKey>) -> Self {
        let clock = StreamClock { wall: Arc::new(AtomicI64::new(0)), start: Instant::now() };
        let options = Options::new(dir.join("sessions.db")).create(true).clock(clock.clone());
        Self { store: SessionStore::open(options).unwrap(), clock, keys }
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
        for (entry, now) in stream {
            self.set_now(now);
            let done = self.store.modify(&self.keys[entry], Touch::Yes, |draft| {
                draft.entry.usage.total_tokens += 7;
                match fields {
                    Fields::Counters => draft.entry.usage.last_prompt_tokens = now.unsigned_abs(),
                    Fields::Details => draft.entry.details.display_name = Some(format!("shown {now}")),
                }
                Edit::Write
            });
            assert!(matches!(done, Ok(Modified::Changed(_))));
        }
        self.store.flush().unwrap();
        true
    }

    fn touch_durable(&self, entry: usize, now: i64) {
        self.set_now(now);
        self.store.touch(&self.keys[entry]).unwrap().unwrap().wait().unwrap();
    }

    fn get(&self, entry: usize) -> Option<i64> {
        self.store.get(&self.keys[entry]).unwrap().map(|entry| entry.updated_at.as_micros())
    }

    fn prune(&self, cutoff: i64) -> u64 {
        let policy = PrunePolicy::max_age_days(1);
        self.set_now(cutoff + 24 * 60 * super::stream::MINUTE);
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
