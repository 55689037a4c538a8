//! An entry goes from one key to another, as one step.
//!
//! In memory that is a change of the new key alone, which says where the entry comes from: whatever becomes of the entry
//! before its commit, what is on disk under the old key goes in the same group. Nothing is queued under the old key, and
//! whoever wants to change it waits until a commit has taken the entry. So an entry moves once in a commit, and nothing
//! comes to a key in the commit in which another entry leaves it.

use super::entry_lock::EntryLock;
use super::pending::{Pending, shard_of};
use super::place::Placed;
use super::read::{read_cold, read_extras};
use super::shard::Shard;
use crate::codec::{Cold, Fingerprint, Hot};
use crate::error::Result;
use crate::key::SessionKey;
use crate::storage::Engine;
use crate::sync::MutexGuard;
use crate::unreadable::if_readable;

/// What became of an entry that was to get another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// It has it. The commit takes that.
    There(u64),
    /// There is no such entry.
    Missing,
    /// Another one has that key.
    Taken,
}

/// How far a try has come.
#[derive(Debug)]
pub(super) enum Try {
    Done(Moved),
    /// It is to be tried again when this commit is in the trees.
    After(u64),
}

impl Pending {
    /// Gives the entry of `from` the key `to`, if that has none.
    pub(super) fn rename(&self, engine: &Engine, from: &SessionKey, to: &SessionKey) -> Result<Try> {
        let (old, new) = (engine.fingerprint(from), engine.fingerprint(to));
        let _takes = self.takes.lock();
        let (mut other, mut shard) = self.lock_two(old, new);
        // With both locked, for the reason given in `Commits::lock`.
        self.progress.check_writable()?;

        let of_old = other.as_mut().unwrap_or(&mut shard);
        let place = self.find_or_load(of_old, old, from, || engine.hot_of(old, from))?;
        let Some(slot) = of_old.slot(place) else { return Ok(Try::Done(Moved::Missing)) };
        let moves = slot.moved_away.or_else(|| slot.moved_from.as_ref().map(|_| slot.commit));
        if let Some(commit) = moves {
            return Ok(Try::After(commit));
        }
        let Some(before) = slot.hot else { return Ok(Try::Done(Moved::Missing)) };
        let cold = read_cold(engine, from, Some(slot))?;
        let extras = read_extras(engine, from, &cold, Some(slot))?;

        // What cannot be decoded is there, too.
        let Some(place) = if_readable(self.find_or_load(&mut shard, new, to, || engine.hot_of(new, to)))? else {
            return Ok(Try::Done(Moved::Taken));
        };
        let mut target = EntryLock { pending: self, engine, shard, place };
        if target.hot().is_some() {
            return Ok(Try::Done(Moved::Taken));
        }
        if let Some(commit) = target.moved_away().or_else(|| target.late_commit()) {
            return Ok(Try::After(commit));
        }
        if engine.contains(to)? {
            return Ok(Try::Done(Moved::Taken));
        }

        let Placed { commit, .. } = target.put(before, Cold::clone(&cold), Some(&extras))?;
        let EntryLock { mut shard, place, .. } = target;
        let (turned, leased) = self.move_satellites(old, new);
        if let Some(slot) = shard.slot_mut(place) {
            slot.moved_from = Some(Box::new((from.clone(), old)));
            slot.turned |= turned;
            slot.leased |= leased;
        }
        self.leave(engine, from, before, commit, other.as_mut().unwrap_or(&mut shard));
        Ok(Try::Done(Moved::There(commit)))
    }

    /// What hangs on an entry in memory, beside its records, goes with it: all of that, and here alone. Both keys are
    /// locked. Returns whether the marker of its turn is to be written anew, and whether leases are.
    fn move_satellites(&self, from: Fingerprint, to: Fingerprint) -> (bool, bool) {
        (self.turns.rename(from, to), self.leases.rename(from, to))
    }

    /// Nothing is left under the old key, which had an entry with the record `before`.
    fn leave(&self, engine: &Engine, key: &SessionKey, before: Hot, commit: u64, shard: &mut Shard) {
        let entry = engine.fingerprint(key);
        // The slot of the new key may have taken its place.
        let place = shard.find(entry).unwrap_or_else(|| self.load(shard, entry, key, Some(before)));
        let Some(slot) = shard.slot_mut(place) else { return };
        self.snapshots.keep(engine, slot, true);
        self.forget_queued_id(slot);
        slot.clear();
        slot.commit = commit;
        slot.moved_away = Some(commit);
        self.count_one_less();
    }

    /// Locks the shards of two entries, in the order in which a snapshot locks all: that of the first, if it is another
    /// one, and that of the second.
    fn lock_two(
        &self,
        first: Fingerprint,
        second: Fingerprint,
    ) -> (Option<MutexGuard<'_, Shard>>, MutexGuard<'_, Shard>) {
        match shard_of(first).cmp(&shard_of(second)) {
            std::cmp::Ordering::Less => {
                let other = self.shard(first).lock();
                (Some(other), self.shard(second).lock())
            }
            std::cmp::Ordering::Equal => (None, self.shard(second).lock()),
            std::cmp::Ordering::Greater => {
                let shard = self.shard(second).lock();
                (Some(self.shard(first).lock()), shard)
            }
        }
    }
}
