//! One shard of what is held in memory: a table of slots, found by fingerprint.
//!
//! A slot holds the newest hot record of an entry, and its cold one while that is not on disk yet. A slot with changes
//! is *queued*; one whose changes are all applied is *clean* and stays as a cache until its place is needed. So a
//! change is readable from the moment it is made, through its commit, and after.

use std::cell::OnceCell;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::codec::{Cold, Fingerprint, Hot, Parts};
use crate::key::SessionKey;
use crate::storage::{Known, StoredCold};

/// What is known of one key. In C's order: what a touch reads and writes lies in neighbouring cache lines, and comes first.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    pub(super) entry: Fingerprint,
    /// The last commit that takes a change of this slot, as it is known so far. Until it is applied the slot must stay.
    pub(super) commit: u64,
    /// What the queued change counts against the bound.
    pub(super) weight: usize,
    /// In the shard's queue for the next commit.
    pub(super) queued: bool,
    /// What is queued is a later time of activity, and nothing else.
    pub(super) is_touch: bool,
    /// What is queued is more than a new hot record.
    pub(super) structural: bool,
    /// The marker of its turn has changed with it.
    pub(super) turned: bool,
    /// Leases of it have changed with it.
    pub(super) leased: bool,
    /// The entry on disk was removed: what is queued is gone, or another.
    pub(super) is_another: bool,
    /// Used since the clock hand last passed.
    recent: bool,
    /// The newest snapshot when the slot was last kept for those that are read, and whether that was all of the entry.
    pub(super) kept: (u64, bool),
    /// The hot record; `None` if there is no such entry.
    pub(super) hot: Option<Hot>,
    pub(super) key: SessionKey,
    /// The cold record, from its change until that is applied. Otherwise the one on disk holds.
    pub(super) cold: Option<Box<NewCold>>,
    /// The cold record on disk, once it was read.
    pub(super) stored: OnceCell<StoredCold>,
    /// What was on disk before the change that is queued, where that is known.
    pub(super) before: Option<Box<Known>>,
    /// The key that the entry had until now, where the change that is queued gives it this one.
    pub(super) moved_from: Option<Box<(SessionKey, Fingerprint)>>,
    /// The entry that was here has another key now, and this commit takes that.
    pub(super) moved_away: Option<u64>,
}

impl Slot {
    /// Notes what is on disk, before a change of a slot all of whose changes are there.
    pub(super) fn note_before(&mut self, applied: u64) {
        if self.queued || self.commit > applied {
            return;
        }
        self.before = match (self.hot, self.stored.get()) {
            (None, _) => Some(Box::new(Known::Nothing)),
            (Some(hot), Some(cold)) => Some(Box::new(Known::Entry { hot, cold: cold.clone() })),
            (Some(_), None) => None,
        };
    }

    /// The entry is no more.
    pub(super) fn clear(&mut self) {
        self.hot = None;
        self.cold = None;
        self.stored = OnceCell::new();
        self.structural = true;
    }
}

/// A cold record that is not on disk yet.
#[derive(Debug, Clone)]
pub(super) struct NewCold {
    pub(super) cold: Arc<Cold>,
    /// The parts of its extras that are new too.
    pub(super) parts: Parts,
}

/// A part of the keys, with its lock around it.
#[derive(Debug, Default)]
pub(super) struct Shard {
    table: HashTable<usize>,
    slots: Vec<Slot>,
    /// Slots that changed since the last commit.
    pub(super) queue: Vec<usize>,
    hand: usize,
}

/// How many slots the clock hand looks at before the shard grows instead.
const EVICTION_STEPS: usize = 16;

impl Shard {
    /// The place of an entry's slot.
    pub(super) fn find(&mut self, entry: Fingerprint) -> Option<usize> {
        let Self { table, slots, .. } = self;
        let place =
            *table.find(entry.table_hash(), |&place| slots.get(place).is_some_and(|slot| slot.entry == entry))?;
        if let Some(slot) = slots.get_mut(place) {
            slot.recent = true;
        }
        Some(place)
    }

    /// An entry's slot.
    pub(super) fn get(&mut self, entry: Fingerprint) -> Option<&Slot> {
        self.get_mut(entry).map(|slot| &*slot)
    }

    pub(super) fn get_mut(&mut self, entry: Fingerprint) -> Option<&mut Slot> {
        self.find(entry).and_then(|place| self.slot_mut(place))
    }

    pub(super) fn slot(&self, place: usize) -> Option<&Slot> {
        self.slots.get(place)
    }

    pub(super) fn slot_mut(&mut self, place: usize) -> Option<&mut Slot> {
        self.slots.get_mut(place)
    }

    /// Adds a clean slot for what is on disk. With `capacity` slots in use it takes the place of a clean one that was
    /// not used lately; where none is found it grows, which the bound on pending changes limits.
    pub(super) fn insert(
        &mut self,
        entry: Fingerprint,
        key: SessionKey,
        hot: Option<Hot>,
        capacity: usize,
        applied: u64,
    ) -> usize {
        let slot = Slot {
            key,
            entry,
            hot,
            cold: None,
            stored: OnceCell::new(),
            before: None,
            queued: false,
            is_touch: false,
            structural: false,
            turned: false,
            leased: false,
            is_another: false,
            moved_from: None,
            moved_away: None,
            weight: 0,
            commit: 0,
            kept: (0, false),
            recent: true,
        };
        let place = match self.evict(capacity, applied) {
            Some(place) => {
                if let Some(old) = self.slots.get_mut(place) {
                    *old = slot;
                }
                place
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        let Self { table, slots, .. } = self;
        table.insert_unique(entry.table_hash(), place, |&place| {
            slots.get(place).map_or(0, |slot| slot.entry.table_hash())
        });
        place
    }

    /// Frees a place by the clock algorithm: the hand passes over slots used since its last visit.
    fn evict(&mut self, capacity: usize, applied: u64) -> Option<usize> {
        if self.slots.len() < capacity {
            return None;
        }
        for _ in 0..EVICTION_STEPS {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len().max(1);
            let slot = self.slots.get_mut(place)?;
            if slot.queued || slot.commit > applied {
                continue;
            }
            if std::mem::take(&mut slot.recent) {
                continue;
            }
            let hash = slot.entry.table_hash();
            if let Ok(found) = self.table.find_entry(hash, |&other| other == place) {
                found.remove();
            }
            return Some(place);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    const CAPACITY: usize = 4;
    const APPLIED: u64 = 10;

    fn entry(n: u8) -> Fingerprint {
        Fingerprint::from_bytes([n; 16])
    }

    fn insert(shard: &mut Shard, n: u8) -> usize {
        let key = SessionKey::new(format!("agent:main:discord:dm:{n}")).unwrap();
        shard.insert(entry(n), key, Some(Hot::fresh(Timestamp::MIN)), CAPACITY, APPLIED)
    }

    fn there(shard: &Shard) -> Vec<u8> {
        (0..20).filter(|n| shard.slots.iter().any(|slot| slot.entry == entry(*n))).collect()
    }

    #[test]
    fn a_full_shard_takes_the_place_of_what_was_not_used_lately() {
        let mut shard = Shard::default();
        assert_eq!([0, 1, 2, 3].map(|n| insert(&mut shard, n)), [0, 1, 2, 3]);
        // All are new: the hand goes round once, and takes the first.
        assert_eq!(insert(&mut shard, 4), 0);
        assert_eq!((shard.find(entry(0)), shard.find(entry(4)), shard.slots.len()), (None, Some(0), CAPACITY));
        // The next in its way was used.
        assert_eq!(shard.find(entry(1)), Some(1));
        assert_eq!(insert(&mut shard, 5), 2);
        assert_eq!(there(&shard), [1, 3, 4, 5]);
        // What is queued stays. The one behind it is in use, and the one after that no more.
        shard.slots[3].queued = true;
        assert_eq!(insert(&mut shard, 6), 1);
        assert_eq!(there(&shard), [3, 4, 5, 6]);
    }

    #[test]
    fn what_is_not_in_the_trees_yet_stays_and_the_shard_grows() {
        let mut shard = Shard::default();
        for n in 0..4 {
            insert(&mut shard, n);
            shard.slots[usize::from(n)].commit = APPLIED + 1;
        }
        assert_eq!(insert(&mut shard, 4), 4);
        shard.slots[2].commit = APPLIED;
        assert_eq!(insert(&mut shard, 5), 2);
        assert_eq!(there(&shard), [0, 1, 3, 4, 5]);
    }
}
