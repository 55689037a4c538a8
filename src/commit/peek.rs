//! Looks at entries that change nothing: at what is pending, and where nothing is, at the trees.

use std::sync::Arc;

use super::entry_lock::EntryLock;
use super::read::{read_cold, read_extras};
use super::{Commits, Core};
use crate::codec::{Activity, ActivityRow, Cold, Fingerprint, Hot};
use crate::entry::Extras;
use crate::error::Result;
use crate::key::{SessionId, SessionKey};
use crate::unreadable::{Unreadable, if_readable};

impl Commits {
    /// Whether memory knows that a key has no entry, though the trees may still have it.
    pub(crate) fn is_removed(&self, key: &SessionKey) -> Result<bool> {
        let Core { engine, pending, .. } = self.core()?;
        let entry = engine.fingerprint(key);
        Ok(pending.shard(entry).lock().get(entry).is_some_and(|slot| slot.hot.is_none()))
    }

    /// Locks an entry to look at it, if there is one. It stays in memory, to be found sooner next time.
    pub(crate) fn look(&self, key: &SessionKey) -> Result<Option<EntryLock<'_>>> {
        let Core { engine, pending, .. } = self.core()?;
        pending.look(engine, key)
    }

    /// The hot record of an entry, without keeping it in memory.
    pub(crate) fn peek_hot(&self, key: &SessionKey) -> Result<Option<Hot>> {
        let Core { engine, pending, .. } = self.core()?;
        let entry = engine.fingerprint(key);
        match pending.shard(entry).lock().get(entry) {
            Some(slot) => Ok(slot.hot),
            None => engine.hot_of(entry, key),
        }
    }

    /// The key and the hot record of an entry that an index leads to, without keeping them in memory.
    pub(crate) fn peek_listed(&self, entry: Fingerprint) -> Result<Option<Activity>> {
        let Core { engine, pending, .. } = self.core()?;
        match pending.shard(entry).lock().get(entry) {
            Some(slot) => Ok(slot.hot.map(|hot| Activity { key: slot.key.clone(), hot })),
            None => engine.listed(entry),
        }
    }

    /// The entry of a row of the index by age, if it has no other row there. While a change is on its way to the trees, the
    /// row is the one that the entry has in them.
    pub(crate) fn peek_row(&self, row: &ActivityRow) -> Result<Option<Activity>> {
        let Core { engine, pending, progress, .. } = self.core()?;
        let is_its = |found: &Activity| found.hot.updated_at == row.time;
        let mut shard = pending.shard(row.entry).lock();
        let Some(slot) = shard.get(row.entry) else { return engine.of_row(row) };
        let Some(found) = slot.hot.map(|hot| Activity { key: slot.key.clone(), hot }) else { return Ok(None) };
        let is_late = slot.queued || slot.commit > progress.applied();
        // A crash may have left it a row beside its own. Where its record cannot be decoded, any row leads to it.
        let stored = if is_late { if_readable(engine.listed(row.entry))? } else { Some(None) };
        let is_row = match stored {
            Some(Some(stored)) => is_its(&stored),
            Some(None) => is_its(&found),
            None => true,
        };
        Ok(is_row.then_some(found))
    }

    /// Both records of an entry as of one moment, and its extras if `with_extras`. What was not in memory is not kept there:
    /// this is for scans.
    pub(crate) fn peek(&self, key: &SessionKey, with_extras: bool) -> Result<Option<Peeked>> {
        let Core { engine, pending, .. } = self.core()?;
        let entry = engine.fingerprint(key);
        let mut shard = pending.shard(entry).lock();
        let slot = shard.get(entry);
        let Some(hot) = slot.map_or_else(|| engine.hot_of(entry, key), |slot| Ok(slot.hot))? else { return Ok(None) };
        let cold = read_cold(engine, key, slot)?;
        let extras = with_extras.then(|| read_extras(engine, key, &cold, slot)).transpose()?;
        Ok(Some(Peeked { hot, cold, extras: extras.unwrap_or_default() }))
    }

    /// Keys that have this id, or had it when their last change was applied. Each is to be looked at.
    pub(crate) fn candidates_of_id(&self, id: &SessionId, unreadable: &mut Unreadable) -> Result<Vec<SessionKey>> {
        // Memory first: what leaves it is in the tree by then.
        let Core { engine, pending, .. } = self.core()?;
        let mut keys = pending.keys_of_new_id(id);
        for key in engine.keys_of_id(id)? {
            keys.extend(unreadable.pass(key)?);
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }
}

/// An entry as of one moment.
#[derive(Debug)]
pub(crate) struct Peeked {
    pub(crate) hot: Hot,
    pub(crate) cold: Arc<Cold>,
    pub(crate) extras: Extras,
}
