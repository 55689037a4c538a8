//! Changes that wait for the committer, in sharded memory.
//!
//! Every read and every change of an entry goes through its key's shard lock, so what one thread sees and changes is
//! one step to all others. The committer takes the queues shard by shard and never holds a lock while it writes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Settings;
use super::kept::{Kept, Snapshots};
use super::leases::Leases;
use super::receipt::Progress;
use super::shard::{Shard, Slot};
use super::turns::Turns;
use crate::codec::{COMMIT_SHIFT, Fingerprint, Hot};
use crate::entry::Revision;
use crate::error::Result;
use crate::key::{SessionId, SessionKey};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};

/// More shards than threads that will ever meet.
const SHARDS: usize = 64;

/// All shards.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(super) shards: Box<[Mutex<Shard>]>,
    /// The commit that takes what is changed now.
    pub(super) open_commit: AtomicU64,
    /// The last commit took a change that had got the number of the next one.
    pub(super) is_ahead: AtomicBool,
    /// Entries there are, changes that wait included.
    pub(super) count: AtomicU64,
    /// Changes that wait or are in flight: entries, however often each was changed.
    pub(super) changes: AtomicUsize,
    /// What they count against the bound.
    pub(super) weight: AtomicUsize,
    /// Ids given by changes that are not in the trees yet, for look-ups by id.
    pub(super) new_ids: Mutex<HashMap<SessionId, Vec<SessionKey>>>,
    /// The next generation of extras. Never used twice, so what a crash left of one is never taken for another.
    pub(super) generation: AtomicU64,
    /// The next revision, from a random number on.
    revision: AtomicU64,
    pub(super) snapshots: Snapshots,
    pub(super) turns: Turns,
    pub(super) leases: Arc<Leases>,
    pub(super) progress: Arc<Progress>,
    /// Held while a commit takes the queues, and while an entry moves from one to another: both ends are taken by the
    /// same commit. Taken before any shard.
    pub(super) takes: Mutex<()>,
    slots_per_shard: usize,
}

impl Pending {
    /// Nothing pending; commit numbers go on after `commit`, which no earlier opening has had.
    pub(super) fn new(
        (commit, count): (u64, u64),
        turns: Turns,
        leases: Leases,
        settings: &Settings,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            open_commit: AtomicU64::new(commit + 1),
            is_ahead: AtomicBool::new(false),
            count: AtomicU64::new(count),
            changes: AtomicUsize::new(0),
            weight: AtomicUsize::new(0),
            new_ids: Mutex::default(),
            generation: AtomicU64::new(commit << COMMIT_SHIFT),
            revision: AtomicU64::new(settings.first_revision.number()),
            snapshots: Snapshots::default(),
            turns,
            leases: Arc::new(leases),
            progress,
            takes: Mutex::default(),
            slots_per_shard: settings.cached_entries.div_ceil(SHARDS),
        }
    }

    /// How many entries there are.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many changes wait or are in flight.
    pub(crate) fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    /// What they weigh: large ones count more than once.
    pub(crate) fn weight(&self) -> usize {
        self.weight.load(Ordering::Relaxed)
    }

    /// A revision that no entry has had.
    pub(super) fn new_revision(&self) -> Revision {
        Revision::from_number(self.revision.fetch_add(1, Ordering::Relaxed))
    }

    /// The commit that takes what is changed now.
    pub(super) fn open_commit(&self) -> u64 {
        self.open_commit.load(Ordering::Acquire)
    }

    pub(super) fn load(&self, shard: &mut Shard, entry: Fingerprint, key: &SessionKey, hot: Option<Hot>) -> usize {
        shard.insert(entry, key.clone(), hot, self.slots_per_shard, self.progress.applied())
    }

    /// The place of an entry's slot. One that is not in memory gets the hot record that `read` finds.
    pub(super) fn find_or_load(
        &self,
        shard: &mut Shard,
        entry: Fingerprint,
        key: &SessionKey,
        read: impl FnOnce() -> Result<Option<Hot>>,
    ) -> Result<usize> {
        match shard.find(entry) {
            Some(place) => Ok(place),
            None => Ok(self.load(shard, entry, key, read()?)),
        }
    }

    /// An entry goes.
    pub(super) fn count_one_less(&self) {
        // Where the count was too low, the committer reports it.
        let less = |count: u64| count.checked_sub(1);
        let _ = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    pub(super) fn shard(&self, entry: Fingerprint) -> &Mutex<Shard> {
        #[expect(clippy::indexing_slicing, reason = "the index is below the number of shards")]
        &self.shards[shard_of(entry)]
    }

    /// Keys whose entry got this id in a change that is not in the trees yet.
    pub(super) fn keys_of_new_id(&self, id: &SessionId) -> Vec<SessionKey> {
        self.new_ids.lock().get(id).cloned().unwrap_or_default()
    }

    /// Whether somebody may wait for a commit: of a change that none has taken, or that was taken ahead of its number.
    pub(super) fn is_waiting(&self) -> bool {
        self.weight() > 0 || self.is_ahead.load(Ordering::Relaxed)
    }

    /// A cold record that waits is being replaced: its id is no longer this key's.
    pub(super) fn forget_queued_id(&self, slot: &Slot) {
        if let Some(new) = slot.cold.as_ref().filter(|_| slot.structural) {
            self.forget_new_id(&new.cold.session_id, &slot.key);
        }
    }

    pub(super) fn forget_new_id(&self, id: &SessionId, key: &SessionKey) {
        let mut ids = self.new_ids.lock();
        if let Some(keys) = ids.get_mut(id) {
            if let Some(at) = keys.iter().position(|known| known == key) {
                keys.swap_remove(at);
            }
            if keys.is_empty() {
                ids.remove(id);
            }
        }
    }
}

pub(super) fn shard_of(entry: Fingerprint) -> usize {
    // The table uses the low bits and the top seven; these lie between.
    (entry.table_hash() >> 40) as usize % SHARDS
}

impl Pending {
    /// Begins a snapshot of all entries as they are now.
    pub(super) fn begin_snapshot(&self) -> Arc<Kept> {
        // More than one are locked in this order only. A turn begins, and a lease that is kept on disk is taken, with
        // its entry locked, so turns and leases are of this moment too.
        let shards: Vec<_> = self.shards.iter().map(Mutex::lock).collect();
        let pending = self.new_ids.lock().values().flatten().cloned().collect();
        let kept = self.snapshots.begin(pending, self.turns.copy(), self.leases.copy());
        drop(shards);
        kept
    }
}

#[cfg(test)]
mod tests {
    use crate::change::Repoint;
    use crate::{Options, SessionId, SessionSource, SessionStore};

    #[test]
    fn ids_are_remembered_until_they_are_in_the_trees() {
        let dir = tempfile::tempdir().unwrap();
        let options =
            Options::new(dir.path().join("db")).create(true).commit_interval(std::time::Duration::from_secs(3600));
        let store = SessionStore::open(options).unwrap();
        let create = |user: &str| {
            let source = SessionSource { user_id: Some(user.into()), platform: "discord".into(), ..Default::default() };
            store.resolve(&source).unwrap().entry.key
        };
        let known = || store.commits().core.pending.new_ids.lock().values().map(Vec::len).sum::<usize>();
        let [a, b, c] = ["a", "b", "c"].map(create);
        assert_eq!(known(), 3);
        // Before any commit: another id instead of the first one, one that two share, and one that goes.
        let shared = SessionId::new("shared").unwrap();
        store.repoint(&a, shared.clone(), &Repoint::new()).unwrap();
        store.repoint(&b, shared.clone(), &Repoint::new()).unwrap();
        assert_eq!((known(), store.find_by_session_id(&shared).unwrap().items.len()), (3, 2));
        store.remove(&b).unwrap();
        assert_eq!(known(), 2);
        store.flush().unwrap();
        assert_eq!((known(), store.find_by_session_id(&shared).unwrap().items.len()), (0, 1));
        store.reset(&c).unwrap();
        store.flush().unwrap();
        assert_eq!(known(), 0);
    }
}
