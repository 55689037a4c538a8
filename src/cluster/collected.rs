//! Touches that are to be sent: of each entry the last, and a bound on what waits and what is on its way together.

use std::collections::HashMap;

use crate::key::SessionKey;

/// The most keys that are collected, and the most that are remembered once they were answered.
pub(super) const MAX_KEYS: usize = 1 << 16;
/// The most bytes of theirs, about.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// What one takes beside its name, about.
pub(super) const BESIDE: usize = 128;

/// A touch that is on its way.
#[derive(Debug)]
pub(super) struct Touch {
    pub(super) key: SessionKey,
    pub(super) time: i64,
    /// How many flushes had begun when it was collected.
    pub(super) since: u64,
}

#[derive(Debug, Default)]
pub(super) struct Collected {
    waiting: HashMap<SessionKey, Waits>,
    /// How many are on their way.
    away: usize,
    /// What all of them take, about.
    bytes: usize,
    flushes: u64,
    /// How many touches have come.
    touches: u64,
}

#[derive(Debug)]
struct Waits {
    time: i64,
    since: u64,
    /// Which touch it was.
    nth: u64,
}

fn size(key: &SessionKey) -> usize {
    key.as_str().len() + BESIDE
}

impl Collected {
    /// False if there is no room.
    pub(super) fn add(&mut self, key: &SessionKey, time: i64) -> bool {
        self.touches += 1;
        let nth = self.touches;
        if let Some(before) = self.waiting.get_mut(key) {
            (before.time, before.nth) = (time.max(before.time), nth);
            return true;
        }
        if self.len() >= MAX_KEYS || self.bytes + size(key) > MAX_BYTES {
            return false;
        }
        self.bytes += size(key);
        self.waiting.insert(key.clone(), Waits { time, since: self.flushes, nth });
        true
    }

    pub(super) fn contains(&self, key: &SessionKey) -> bool {
        self.waiting.contains_key(key)
    }

    /// How many wait or are on their way.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.away
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Names the last touch that has come, of whichever entry.
    pub(super) fn last(&self) -> u64 {
        self.touches
    }

    /// Forgets a touch, unless it came after that one.
    pub(super) fn forget(&mut self, key: &SessionKey, last: u64) {
        if self.waiting.get(key).is_some_and(|waits| waits.nth <= last) {
            self.waiting.remove(key);
            self.bytes = self.bytes.saturating_sub(size(key));
        }
    }

    /// Takes those that do not stay. They are on their way.
    pub(super) fn take(&mut self, stays: impl Fn(&SessionKey) -> bool) -> Vec<Touch> {
        let taken = self.waiting.extract_if(|key, _| !stays(key));
        let taken: Vec<_> = taken.map(|(key, Waits { time, since, .. })| Touch { key, time, since }).collect();
        self.away += taken.len();
        taken
    }

    /// A node has it.
    pub(super) fn landed(&mut self, touch: &Touch) {
        self.away = self.away.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size(&touch.key));
    }

    /// No node has it: it waits again.
    pub(super) fn back(&mut self, touch: Touch) {
        self.away = self.away.saturating_sub(1);
        match self.waiting.get_mut(&touch.key) {
            None => {
                self.waiting.insert(touch.key, Waits { time: touch.time, since: touch.since, nth: self.touches });
            }
            Some(waits) => {
                (waits.time, waits.since) = (touch.time.max(waits.time), touch.since.min(waits.since));
                self.bytes = self.bytes.saturating_sub(size(&touch.key));
            }
        }
    }

    /// A number for a flush that begins.
    pub(super) fn begin_flush(&mut self) -> u64 {
        self.flushes += 1;
        self.flushes
    }

    /// Whether one waits that was collected before that flush.
    pub(super) fn has_before(&self, flush: u64) -> bool {
        self.waiting.values().any(|waits| waits.since < flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> SessionKey {
        SessionKey::new(format!("{n}")).unwrap()
    }

    #[test]
    fn what_is_on_its_way_takes_room_until_it_has_landed() {
        let mut collected = Collected::default();
        assert_eq!((0..MAX_KEYS + 10).filter(|n| collected.add(&key(*n), 1)).count(), MAX_KEYS);
        let mut taken = collected.take(|_| false);
        assert!(collected.is_empty() && !collected.add(&key(0), 2), "all of it may come back");
        let last = taken.pop().unwrap();
        collected.landed(&last);
        assert!(collected.add(&last.key, 3) && !collected.add(&key(MAX_KEYS), 1));
        taken.into_iter().for_each(|touch| collected.back(touch));
        assert_eq!((collected.len(), collected.bytes), (MAX_KEYS, (0..MAX_KEYS).map(|n| size(&key(n))).sum()));
        // Long ones are bounded by their bytes.
        let long = |n: usize| SessionKey::new(format!("{n}{}", "x".repeat(400))).unwrap();
        let mut collected = Collected::default();
        let kept = (0..MAX_KEYS).filter(|n| collected.add(&long(*n), 1)).count();
        assert!(kept < MAX_KEYS && collected.bytes <= MAX_BYTES);
        (0..MAX_KEYS).for_each(|n| collected.forget(&long(n), u64::MAX));
        assert_eq!((collected.len(), collected.bytes), (0, 0));
    }

    #[test]
    fn the_later_time_waits_and_a_flush_waits_for_the_earlier_touch() {
        let mut collected = Collected::default();
        assert!(collected.add(&key(1), 5));
        let first = collected.begin_flush();
        assert!(collected.has_before(first));
        let taken = collected.take(|_| false);
        assert!(!collected.has_before(first));
        assert!(collected.add(&key(1), 4));
        for touch in taken {
            collected.back(touch);
        }
        assert!(collected.has_before(first));
        let taken = collected.take(|key| key.as_str() != "1");
        assert_eq!(taken.iter().map(|touch| touch.time).collect::<Vec<_>>(), [5]);
        collected.landed(&taken[0]);
        assert_eq!((collected.len(), collected.bytes), (0, 0));
        assert!(collected.add(&key(2), 1) && !collected.has_before(first));
    }
}
