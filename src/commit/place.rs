//! Changes of both records of a locked entry: it is put, in place of what was there, or removed.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::entry_lock::EntryLock;
use super::read::parts_of;
use super::shard::NewCold;
use crate::codec::{self, AS_IMPORTED, ArrangeError, Base, Cold, Hot, NewExtras, Parts};
use crate::entry::Extras;
use crate::error::{Error, Result};
use crate::storage::encode_error;
use crate::sync::Ordering;

/// What was put in place of an entry, and the commit that takes it.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) hot: Hot,
    pub(crate) cold: Arc<Cold>,
    pub(crate) commit: u64,
}

impl EntryLock<'_> {
    /// Creates the entry or replaces both of its records, under a new revision, and its extras where they are given;
    /// otherwise it keeps those that `cold` points to.
    pub(crate) fn put(&mut self, mut hot: Hot, cold: Cold, extras: Option<&Extras>) -> Result<Placed> {
        hot.set(AS_IMPORTED, false);
        self.put_whole(hot, cold, extras.map_or(NewExtras::Kept, NewExtras::All))
    }

    /// As [`put`](Self::put), of an entry that keeps its extras but for these `changes`: names with their new JSON
    /// texts, or none for what goes. Costs what is new, and a look at the names.
    pub(crate) fn change_extras(
        &mut self,
        mut hot: Hot,
        cold: Cold,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<Placed> {
        hot.set(AS_IMPORTED, false);
        self.put_whole(hot, cold, NewExtras::Changed(changes))
    }

    /// As [`put`](Self::put), for an import: the entry counts as it was imported until it is changed.
    pub(crate) fn put_imported(&mut self, mut hot: Hot, cold: Cold, extras: &Extras) -> Result<Placed> {
        hot.set(AS_IMPORTED, true);
        self.put_whole(hot, cold, NewExtras::All(extras))
    }

    fn put_whole(&mut self, mut hot: Hot, mut cold: Cold, extras: NewExtras<'_>) -> Result<Placed> {
        hot.revision = self.pending.new_revision();
        self.keep_before(true);
        let parts = self.arrange(&mut cold, extras)?;
        let id = cold.session_id.clone();
        let key = self.slot().map(|slot| slot.key.clone());
        // The new id comes before the old one goes: they may be the same, and it must be found at every moment.
        if let Some(key) = key {
            self.pending.new_ids.lock().entry(id).or_default().push(key);
        }
        self.forget_queued_id();
        if self.hot().is_none() {
            self.pending.count.fetch_add(1, Ordering::Relaxed);
            self.end_leases();
        }
        let turned = self.slot().is_some_and(|slot| self.pending.turns.follow(slot.entry, Some(&cold.session_id)));
        let applied = self.pending.progress.applied();
        let cold = Arc::new(cold);
        let new = NewCold { cold: Arc::clone(&cold), parts };
        let commit = self.change(|slot| {
            slot.note_before(applied);
            slot.turned |= turned;
            slot.hot = Some(hot);
            slot.cold = Some(Box::new(new));
            slot.stored = OnceCell::new();
            slot.structural = true;
        });
        Ok(Placed { hot, cold, commit })
    }

    /// Removes the entry. Returns the commit that takes it.
    pub(crate) fn remove(&mut self) -> u64 {
        self.keep_before(true);
        self.forget_queued_id();
        if self.hot().is_some() {
            self.pending.count_one_less();
        }
        self.end_leases();
        let turned = self.slot().is_some_and(|slot| self.pending.turns.follow(slot.entry, None));
        let applied = self.pending.progress.applied();
        self.change(|slot| {
            slot.note_before(applied);
            slot.turned |= turned;
            slot.is_another = true;
            slot.clear();
        })
    }

    /// Gives details and extras their places, and answers the parts that are not on disk yet.
    fn arrange(&self, cold: &mut Cold, extras: NewExtras<'_>) -> Result<Parts> {
        let Some(slot) = self.slot() else { return Ok(Parts::new()) };
        let there = parts_of(self.engine, &slot.key, Some(slot));
        let next = || self.pending.generation.fetch_add(1, Ordering::Relaxed);
        let new = codec::arrange(cold, extras, |at| there.base(at), next);
        let mut parts = new.map_err(|error| match error {
            ArrangeError::Encode(error) => encode_error(error),
            ArrangeError::TooLarge(bytes) => {
                Error::TooLarge { key: slot.key.clone(), bytes, limit: codec::MAX_EXTRAS_BYTES }
            }
            ArrangeError::Base(error) => error,
        })?;
        // Those that wait go with the record that names them now.
        if let (Some(index), Some(waiting)) = (&cold.extras, there.waiting)
            && !waiting.is_empty()
        {
            // One that is on disk names none that wait.
            let base = index.base.and_then(|at| parts.get(&at.generation).or_else(|| waiting.get(&at.generation)));
            let base = base.map(|base| Base::decode(base)).transpose();
            let live = index.live(&base.map_err(|e| self.engine.damaged_extras(&slot.key, e))?.unwrap_or_default());
            let waiting = waiting.iter().filter(|(generation, _)| live.contains(generation));
            parts.extend(waiting.map(|(generation, part)| (*generation, Arc::clone(part))));
        }
        Ok(parts)
    }

    /// They go with the entry, and one that is made again has none of them.
    fn end_leases(&self) {
        if let Some(slot) = self.slot() {
            self.pending.leases.clear(slot.entry);
        }
    }

    fn forget_queued_id(&self) {
        if let Some(slot) = self.slot() {
            self.pending.forget_queued_id(slot);
        }
    }
}
