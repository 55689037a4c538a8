//! [`EntryLock`]: one entry, read and changed as one step.

use std::sync::Arc;

use super::Seen;
use super::pending::Pending;
use super::read::{parts_of, read_cold, read_extras, structural_weight};
use super::shard::{Shard, Slot};
use super::turns::Marker;
use crate::codec::{AS_IMPORTED, Activity, Cold, Hot, Term};
use crate::entry::{Extras, Revision};
use crate::error::Result;
use crate::key::{SessionId, SessionKey};
use crate::storage::Engine;
use crate::sync::{MutexGuard, Ordering};
use crate::time::Timestamp;

/// One entry, with its shard locked: nobody else sees or changes it meanwhile.
#[derive(Debug)]
pub(crate) struct EntryLock<'a> {
    pub(super) pending: &'a Pending,
    pub(super) engine: &'a Engine,
    pub(super) shard: MutexGuard<'a, Shard>,
    /// The place of the entry's slot in the shard.
    pub(super) place: usize,
}

impl Pending {
    /// Locks an entry for reading or changing, and loads its hot record if it is not in memory.
    pub(super) fn lock<'a>(&'a self, engine: &'a Engine, key: &SessionKey) -> Result<EntryLock<'a>> {
        let entry = engine.fingerprint(key);
        let mut shard = self.shard(entry).lock();
        let place = self.find_or_load(&mut shard, entry, key, || engine.hot_of(entry, key))?;
        Ok(EntryLock { pending: self, engine, shard, place })
    }

    /// Like `lock`, of an entry that was `seen` when `applied` was the newest commit in the trees: where that has not changed it
    /// is not read again.
    pub(super) fn lock_seen<'a>(&'a self, engine: &'a Engine, seen: &Activity, applied: u64) -> Result<EntryLock<'a>> {
        let entry = engine.fingerprint(&seen.key);
        let mut shard = self.shard(entry).lock();
        let place = self.find_or_load(&mut shard, entry, &seen.key, || {
            // What is on its way to the trees is in memory.
            let is_newest = self.progress.applied() == applied;
            if is_newest { Ok(Some(seen.hot)) } else { engine.hot_of(entry, &seen.key) }
        })?;
        Ok(EntryLock { pending: self, engine, shard, place })
    }

    /// Like `lock`, for reading alone. Of an entry that is not there nothing is kept in memory.
    pub(super) fn look<'a>(&'a self, engine: &'a Engine, key: &SessionKey) -> Result<Option<EntryLock<'a>>> {
        let entry = engine.fingerprint(key);
        let mut shard = self.shard(entry).lock();
        let place = match shard.find(entry) {
            Some(place) => place,
            None => match engine.hot_of(entry, key)? {
                None => return Ok(None),
                hot => self.load(&mut shard, entry, key, hot),
            },
        };
        Ok(Some(EntryLock { pending: self, engine, shard, place }))
    }
}

impl EntryLock<'_> {
    /// The hot record; `None` if there is no such entry.
    pub(crate) fn hot(&self) -> Option<Hot> {
        self.slot().and_then(|slot| slot.hot)
    }

    /// The hot record where it is: a copy costs more than a touch needs.
    pub(crate) fn hot_ref(&self) -> Option<&Hot> {
        self.slot()?.hot.as_ref()
    }

    /// The cold record.
    pub(crate) fn cold(&self) -> Result<Option<Arc<Cold>>> {
        match self.slot() {
            Some(slot) if slot.hot.is_some() => read_cold(self.engine, &slot.key, Some(slot)).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether the entry was changed, or changes that no commit had taken, since it was seen.
    pub(crate) fn changed_since(&self, seen: Seen) -> bool {
        self.slot().is_some_and(|slot| slot.queued || slot.commit >= seen.open)
    }

    /// The commit that takes the entry that was here to another key, while none has.
    pub(super) fn moved_away(&self) -> Option<u64> {
        self.slot()?.moved_away
    }

    /// The commit that takes the last change, if it may not be in the trees yet.
    pub(super) fn late_commit(&self) -> Option<u64> {
        self.slot().map(|slot| slot.commit).filter(|commit| *commit > self.pending.progress.applied())
    }

    /// The extras that belong to `cold`, the entry's cold record.
    pub(crate) fn extras(&self, cold: &Cold) -> Result<Extras> {
        match self.slot() {
            Some(slot) => read_extras(self.engine, &slot.key, cold, Some(slot)),
            None => Ok(Extras::default()),
        }
    }

    /// One of the extras that belong to `cold`, the entry's cold record. Reads the names and that text.
    pub(crate) fn extra(&self, cold: &Cold, name: &str) -> Result<Option<String>> {
        match (self.slot(), &cold.extras) {
            (Some(slot), Some(index)) => parts_of(self.engine, &slot.key, Some(slot)).text(index, name),
            _ => Ok(None),
        }
    }

    /// Whether it has one of this name. Reads the names.
    pub(crate) fn has_extra(&self, cold: &Cold, name: &str) -> Result<bool> {
        match (self.slot(), &cold.extras) {
            (Some(slot), Some(index)) => parts_of(self.engine, &slot.key, Some(slot)).has(index, name),
            _ => Ok(false),
        }
    }

    /// Replaces the hot record of an existing entry, under a new revision if more is new than its time. Returns the commit
    /// that takes it.
    pub(crate) fn set_hot(&mut self, mut hot: Hot) -> u64 {
        if self.hot().is_some_and(|before| before != Hot { updated_at: before.updated_at, ..hot }) {
            hot.set(AS_IMPORTED, false);
            hot.revision = self.pending.new_revision();
        }
        self.set_times(hot)
    }

    /// Replaces the hot record of an existing entry by one that has other times, and nothing else new: the revision
    /// stays. Returns the commit that takes it.
    pub(crate) fn set_times(&mut self, hot: Hot) -> u64 {
        self.keep_before(false);
        let is_touch = self.hot_ref().is_some_and(|before| hot == Hot { updated_at: hot.updated_at, ..*before });
        self.queue(is_touch, |slot| slot.hot = Some(hot))
    }

    /// Moves the time of activity to `now`, unless it is later. Returns the commit that takes it, and the revision, which
    /// stays; `None` if there is no such entry.
    pub(crate) fn touch(&mut self, now: Timestamp) -> Option<(u64, Revision)> {
        let revision = self.hot_ref()?.revision;
        self.keep_before(false);
        let commit = self.queue(true, |slot| {
            if let Some(hot) = &mut slot.hot {
                hot.updated_at = hot.updated_at.max(now);
            }
        });
        Some((commit, revision))
    }

    /// Begins a turn of the entry, whose hot record becomes `hot`, in the place of the turn there may be. Returns its
    /// token, and the commit that takes it.
    pub(crate) fn begin_turn(&mut self, hot: Hot, session_id: SessionId, at: Timestamp) -> (u64, u64) {
        self.keep_before(false);
        let token = self.slot().map_or(0, |slot| self.pending.turns.begin(slot.entry, session_id, at));
        let commit = self.change(|slot| {
            slot.hot = Some(hot);
            slot.turned = true;
        });
        (token, commit)
    }

    /// The marker of the entry's turn, if there is one.
    pub(crate) fn marker(&self) -> Option<Marker> {
        self.slot().and_then(|slot| self.pending.turns.marker(slot.entry))
    }

    /// Ends the turn of `token`, or any. Returns the commit that takes it; `None` if the entry has no such turn.
    pub(crate) fn end_turn(&mut self, token: Option<u64>) -> Option<u64> {
        let ended = self.slot().is_some_and(|slot| self.pending.turns.end(slot.entry, token));
        ended.then(|| self.change(|slot| slot.turned = true))
    }

    /// Holds the entry until the guard of the number that this returns is dropped.
    pub(crate) fn hold(&self, since: Timestamp) -> u64 {
        self.slot().map_or(0, |slot| self.pending.leases.hold(slot.entry, since))
    }

    /// Holds the entry under a name until the end of the term, or changes the end of the lease of that name, if it has not
    /// ended by `now`. Returns the commit that takes it; `None` if the entry has too many.
    pub(crate) fn hold_until(&mut self, name: &str, term: Term, now: Timestamp) -> Option<u64> {
        let held = self.slot().is_some_and(|slot| self.pending.leases.hold_until(slot.entry, name, term, now));
        held.then(|| self.change(|slot| slot.leased = true))
    }

    /// Ends the lease of that name. Returns the commit that takes it; `None` if there is none.
    pub(crate) fn release(&mut self, name: &str) -> Option<u64> {
        let was_held = self.slot().is_some_and(|slot| self.pending.leases.release(slot.entry, name));
        was_held.then(|| self.change(|slot| slot.leased = true))
    }

    /// Whether a lease holds the entry at `now`.
    pub(crate) fn is_held(&self, now: Timestamp) -> bool {
        self.slot().is_some_and(|slot| self.pending.leases.is_held(slot.entry, now))
    }

    /// Keeps what is about to change for the snapshots that are being read: the hot record, or all of the entry.
    pub(super) fn keep_before(&mut self, is_all: bool) {
        if let Some(slot) = self.shard.slot_mut(self.place) {
            self.pending.snapshots.keep(self.engine, slot, is_all);
        }
    }

    /// Changes the slot and queues it for the open commit, whose number it returns.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Slot)) -> u64 {
        self.queue(false, change)
    }

    /// As [`change`](Self::change). A touch changes nothing but the time of activity.
    fn queue(&mut self, is_touch: bool, change: impl FnOnce(&mut Slot)) -> u64 {
        let place = self.place;
        let commit = self.pending.open_commit();
        if let Some(slot) = self.shard.slot_mut(place) {
            change(slot);
            slot.is_touch = is_touch && (slot.is_touch || !slot.queued);
            slot.commit = commit;
            let weight = match &slot.cold {
                Some(new) if slot.structural => structural_weight(&new.cold, &new.parts),
                _ => 1,
            };
            let before = std::mem::replace(&mut slot.weight, weight);
            let mut is_first = false;
            if weight >= before {
                is_first = self.pending.weight.fetch_add(weight - before, Ordering::Relaxed) == 0;
            } else {
                self.pending.weight.fetch_sub(before - weight, Ordering::Relaxed);
            }
            if !std::mem::replace(&mut slot.queued, true) {
                self.shard.queue.push(place);
                self.pending.changes.fetch_add(1, Ordering::Relaxed);
            }
            if is_first {
                self.pending.progress.stir();
            }
        }
        commit
    }

    pub(super) fn slot(&self) -> Option<&Slot> {
        self.shard.slot(self.place)
    }
}
