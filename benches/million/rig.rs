//! A store in a directory of its own, and its time of day.

use std::ops::Range;
use std::time::{Duration, Instant};

use cloakroom::SessionKey;
use tempfile::TempDir;

use crate::support::api::Resolution;
use crate::support::cloakroom_store::CloakroomStore;
use crate::support::people::{created_at, key, source};
use crate::support::stream::{MINUTE, shuffled};

pub struct Rig {
    pub cloakroom: CloakroomStore,
    pub dir: TempDir,
    pub entries: usize,
    /// The time of the last touch.
    pub now: i64,
}

impl Rig {
    /// Makes a store with the given number of entries, a hundred a minute. Keys are made when they are needed, so that
    /// the memory that is measured is the store's.
    pub fn load(entries: usize) -> (Self, Duration) {
        let dir = tempfile::tempdir_in(".").unwrap();
        let cloakroom = CloakroomStore::open(dir.path(), Vec::new());
        let rig = Self { cloakroom, dir, entries, now: created_at(entries - 1) };
        let took = rig.create(0..entries, &created_at);
        assert_eq!(rig.cloakroom.store.len(), entries as u64);
        (rig, took)
    }

    /// How many entries are left untouched, to be pruned.
    pub fn tenth(&self) -> usize {
        self.entries / 10
    }

    pub fn key(&self, entry: usize) -> SessionKey {
        key(&source(entry, self.entries))
    }

    pub fn create(&self, entries: Range<usize>, at: &dyn Fn(usize) -> i64) -> Duration {
        let started = Instant::now();
        for entry in entries {
            self.cloakroom.set_now(at(entry));
            let resolved = self.cloakroom.store.resolve(&source(entry, self.entries)).unwrap();
            assert_eq!(resolved.resolution, Resolution::Created);
        }
        self.cloakroom.store.flush().unwrap();
        started.elapsed()
    }

    pub fn next_minute(&mut self) {
        self.now = (self.now / MINUTE + 1) * MINUTE;
    }

    /// Touches each of `entries` once, in a seeded order, `step` µs apart. The time is with the making of the keys and
    /// the commit of the last.
    pub fn touch_each(&mut self, entries: Range<usize>, step: i64) -> Duration {
        let order = shuffled(entries.len(), 7);
        let started = Instant::now();
        for at in &order {
            self.now += step;
            self.cloakroom.set_now(self.now);
            self.cloakroom.store.touch(&self.key(entries.start + at)).unwrap().unwrap();
        }
        self.cloakroom.store.flush().unwrap();
        let took = started.elapsed();
        self.assert_touched(entries.start + order[order.len() - 1]);
        took
    }

    /// The last touch was this entry's.
    pub fn assert_touched(&self, entry: usize) {
        let found = self.cloakroom.store.get(&self.key(entry)).unwrap().unwrap();
        assert_eq!(found.updated_at.as_micros(), self.now);
    }
}
