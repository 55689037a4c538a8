//! The floor: a hash map, a list by recency and an append-only log with one fdatasync for each group. No store that
//! writes each touch can be much faster; this one cannot be opened again, compacted, or larger than memory.

use std::collections::HashMap;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use crate::group::Group;
use crate::layout;
use crate::support::contender::{COMMIT_INTERVAL, Contender, Fields};
use crate::support::people::record;

const NONE: u32 = u32::MAX;

struct Slot {
    updated_at: i64,
    newer: u32,
    older: u32,
    entry: usize,
    counters: [i64; 2],
    cold: Vec<u8>,
}

struct State {
    places: HashMap<String, u32>,
    slots: Vec<Slot>,
    newest: u32,
    oldest: u32,
    /// What is not written yet.
    tail: Vec<u8>,
}

impl State {
    fn unlink(&mut self, place: u32) {
        let Slot { newer, older, .. } = self.slots[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let before = self.newest;
        let slot = &mut self.slots[place as usize];
        (slot.newer, slot.older) = (NONE, before);
        self.newest = place;
        match before {
            NONE => self.oldest = place,
            before => self.slots[before as usize].newer = place,
        }
    }

    fn log(&mut self, kind: u8, place: u32, time: i64) {
        self.tail.push(kind);
        self.tail.extend_from_slice(&place.to_le_bytes());
        self.tail.extend_from_slice(&time.to_le_bytes());
        // Where a checksum would stand.
        self.tail.extend_from_slice(&(place ^ time as u32).to_le_bytes());
    }

    fn change(&mut self, key: &str, now: i64, fields: Option<Fields>) {
        self.touch(key, now);
        let Some(fields) = fields else { return };
        let slot = &mut self.slots[self.places[key] as usize];
        slot.counters[0] += 7;
        match fields {
            Fields::Counters => slot.counters[1] = now,
            Fields::Details => slot.cold = layout::renamed(&slot.cold, format!("shown {now}")),
        }
        for counter in slot.counters {
            self.tail.extend_from_slice(&counter.to_le_bytes());
        }
        if fields == Fields::Details {
            self.tail.extend_from_slice(&slot.cold);
        }
    }

    fn touch(&mut self, key: &str, now: i64) {
        let place = self.places[key];
        self.unlink(place);
        self.link_newest(place);
        self.slots[place as usize].updated_at = now;
        self.log(1, place, now);
    }
}

pub struct Floor {
    state: Mutex<State>,
    log: File,
    keys: Arc<Vec<String>>,
    group: Group,
}

impl Floor {
    pub fn open(dir: &Path, keys: Arc<Vec<String>>) -> Self {
        let state = State { places: HashMap::new(), slots: Vec::new(), newest: NONE, oldest: NONE, tail: Vec::new() };
        let log = File::create(dir.join("log")).unwrap();
        Self { state: Mutex::new(state), log, keys, group: Group::default() }
    }

    fn in_groups(&self, stream: &mut dyn Iterator<Item = (usize, i64)>, fields: Option<Fields>) {
        let mut ended = false;
        while !ended {
            let started = Instant::now();
            'group: while started.elapsed() < COMMIT_INTERVAL {
                for _ in 0..16 {
                    match stream.next() {
                        Some((entry, now)) => self.state.lock().unwrap().change(&self.keys[entry], now, fields),
                        None => {
                            ended = true;
                            break 'group;
                        }
                    }
                }
            }
            self.sync();
            thread::yield_now();
        }
    }

    fn sync(&self) {
        let tail = std::mem::take(&mut self.state.lock().unwrap().tail);
        (&self.log).write_all(&tail).unwrap();
        self.log.sync_data().unwrap();
    }
}

impl Contender for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn create(&self, entries: Range<usize>, at: &dyn Fn(usize) -> i64) {
        for entry in entries {
            let mut state = self.state.lock().unwrap();
            let now = at(entry);
            let cold = layout::cold(&record(entry, self.keys.len(), now));
            let place = u32::try_from(state.slots.len()).unwrap();
            state.places.insert(self.keys[entry].clone(), place);
            state.log(0, place, now);
            state.tail.extend_from_slice(self.keys[entry].as_bytes());
            state.tail.extend_from_slice(&cold);
            state.slots.push(Slot { updated_at: now, newer: NONE, older: NONE, entry, counters: [0; 2], cold });
            state.link_newest(place);
            if state.tail.len() > 1 << 20 {
                drop(state);
                self.sync();
            }
        }
        self.sync();
    }

    fn touches(&self, stream: &mut dyn Iterator<Item = (usize, i64)>) {
        self.in_groups(stream, None);
    }

    fn modifies(&self, fields: Fields, stream: &mut dyn Iterator<Item = (usize, i64)>) -> bool {
        self.in_groups(stream, Some(fields));
        true
    }

    fn touch_durable(&self, entry: usize, now: i64) {
        self.group.run((entry, now), |group| {
            let mut state = self.state.lock().unwrap();
            group.iter().for_each(|(entry, now)| state.touch(&self.keys[*entry], *now));
            drop(state);
            self.sync();
        });
    }

    fn get(&self, entry: usize) -> Option<i64> {
        let state = self.state.lock().unwrap();
        let slot = &state.slots[*state.places.get(&self.keys[entry])? as usize];
        black_box(layout::texts(&slot.cold));
        Some(slot.updated_at)
    }

    fn prune(&self, cutoff: i64) -> u64 {
        let mut removed = 0;
        let mut state = self.state.lock().unwrap();
        while state.oldest != NONE && state.slots[state.oldest as usize].updated_at < cutoff {
            let place = state.oldest;
            state.unlink(place);
            let entry = state.slots[place as usize].entry;
            state.places.remove(&self.keys[entry]).unwrap();
            state.slots[place as usize].cold = Vec::new();
            state.log(2, place, cutoff);
            removed += 1;
        }
        drop(state);
        if removed > 0 {
            self.sync();
        }
        removed
    }

    fn recent(&self, limit: usize) -> Vec<i64> {
        let state = self.state.lock().unwrap();
        let mut times = Vec::new();
        let mut place = state.newest;
        while place != NONE && times.len() < limit {
            times.push(state.slots[place as usize].updated_at);
            place = state.slots[place as usize].older;
        }
        times
    }

    fn count(&self) -> u64 {
        self.state.lock().unwrap().places.len() as u64
    }
}
