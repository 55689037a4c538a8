//! Changes that wait for the committer, in sharded memory.
//!
//! Every read and every change of an entry goes through its key's shard lock, so what one thread sees and changes is
//! one step to all others. The committer takes the queues shard by shard and never holds a lock while it writes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Settings;
use super::kept::{Kept, Snapshots};
use super::leases::Leases;
use super::read::{read_cold, read_extras, structural_weight};
use super::receipt::Progress;
use super::shard::{Shard, Slot};
use super::turns::Turns;
use crate::codec::{Activity, ActivityRow, Cold, Fingerprint, Hot, Turn};
use crate::entry::{Extras, Revision};
use crate::error::Result;
use crate::key::{SessionId, SessionKey};
use crate::storage::{Change, Content, Engine, Late, MovedFrom};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::unreadable::if_readable;

/// More shards than threads that will ever meet.
const SHARDS: usize = 64;

/// The marker of an entry: to be set, or to be removed.
pub(super) type MarkerChange = (Fingerprint, Option<Turn>);

/// What one commit takes.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) commit: u64,
    /// Entries whose hot record alone is new.
    pub(super) late: Vec<Late>,
    /// What else becomes of entries, in the order of their place.
    pub(super) changes: Vec<Change>,
    /// The markers of turns that go with them.
    pub(super) markers: Vec<MarkerChange>,
    /// Leases that have ended by themselves.
    pub(super) ended_leases: Vec<(Fingerprint, String)>,
}

/// All shards.
#[derive(Debug)]
pub(crate) struct Pending {
    shards: Box<[Mutex<Shard>]>,
    /// The commit that takes what is changed now.
    open_commit: AtomicU64,
    /// The last commit took a change that had got the number of the next one.
    is_ahead: AtomicBool,
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
            // A commit takes far fewer than 2^24 changes, so the ranges of two openings never meet.
            generation: AtomicU64::new(commit << 24),
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

    /// Closes the open commit and takes its changes, and what goes with them.
    ///
    /// A change that reads the old number holds its shard's lock while it does, so its queue is taken after it; one
    /// that comes later may be taken too, ahead of the number it got.
    pub(super) fn take(&self) -> Taken {
        let _takes = self.takes.lock();
        let commit = self.open_commit.fetch_add(1, Ordering::AcqRel);
        let (mut late, mut changes, mut markers) = (Vec::new(), Vec::new(), self.take_dropped_markers());
        let ended_leases = self.leases.take_ended();
        let mut is_ahead = false;
        for shard in &self.shards {
            let mut shard = shard.lock();
            let mut queue = std::mem::take(&mut shard.queue);
            late.reserve(queue.len());
            for place in queue.drain(..) {
                let Some(slot) = shard.slot_mut(place) else { continue };
                if std::mem::take(&mut slot.turned) {
                    markers.push((slot.entry, self.turns.get(slot.entry)));
                }
                if slot.moved_away.is_some() {
                    // What was to be written goes with the entry, which has another key.
                    (slot.queued, slot.structural, slot.leased, slot.is_another) = (false, false, false, false);
                    slot.before = None;
                    self.weight.fetch_sub(std::mem::take(&mut slot.weight), Ordering::Relaxed);
                    self.changes.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                is_ahead |= slot.commit > commit;
                match slot.hot {
                    Some(hot) if !slot.structural && !slot.leased => {
                        (slot.queued, slot.commit, slot.weight) = (false, commit, 0);
                        late.push(Late { entry: slot.entry, hot, is_touch: slot.is_touch });
                    }
                    _ => changes.push(self.take_slot(slot, commit)),
                }
            }
            // Keep the room for the next round.
            shard.queue = queue;
        }
        for moved in changes.iter().filter_map(|change| change.moved.as_ref()) {
            if let Some(slot) = self.shard(moved.entry).lock().get_mut(moved.entry) {
                slot.moved_away = None;
            }
        }
        self.is_ahead.store(is_ahead, Ordering::Relaxed);
        changes.sort_unstable_by(Change::place);
        Taken { commit, late, changes, markers, ended_leases }
    }

    /// Takes the change out of a queued slot.
    fn take_slot(&self, slot: &mut Slot, commit: u64) -> Change {
        slot.queued = false;
        slot.commit = commit;
        slot.weight = 0;
        let structural = std::mem::take(&mut slot.structural);
        // A removal that nothing came after is no other entry: many of them are one group.
        let is_another = std::mem::take(&mut slot.is_another) && slot.hot.is_some();
        let is_leased = std::mem::take(&mut slot.leased);
        let leases = if is_leased { self.leases.take_unwritten(slot.entry) } else { Vec::new() };
        let content = match (slot.hot, &slot.cold) {
            (None, _) => Content::Gone,
            (Some(hot), Some(new)) if structural => {
                Content::Whole { hot, cold: Arc::clone(&new.cold), parts: new.parts.clone() }
            }
            (Some(hot), _) => Content::Hot(hot),
        };
        let before = slot.before.take();
        let turn = || self.turns.get(slot.entry);
        let moved = slot.moved_from.take().map(|from| Box::new(MovedFrom { key: from.0, entry: from.1, turn: turn() }));
        Change { key: slot.key.clone(), entry: slot.entry, content, moved, is_another, leases, before }
    }

    /// The markers that are to go though nothing else of their entries changes.
    pub(super) fn take_dropped_markers(&self) -> Vec<MarkerChange> {
        self.turns.take_dropped().into_iter().map(|entry| (entry, None)).collect()
    }

    /// Whether somebody may wait for a commit: of a change that none has taken, or that was taken ahead of its number.
    pub(super) fn is_waiting(&self) -> bool {
        self.weight() > 0 || self.is_ahead.load(Ordering::Relaxed)
    }

    /// As many changes of hot records alone are in the journal.
    pub(super) fn settle_late(&self, count: usize) {
        self.weight.fetch_sub(count, Ordering::Relaxed);
        self.changes.fetch_sub(count, Ordering::Relaxed);
    }

    /// Lets go of what `changes`, now in the trees, needed in memory.
    pub(super) fn settle(&self, changes: &[Change]) {
        let mut freed = 0;
        for change in changes {
            freed += weight_of(&change.content);
            let Content::Whole { cold, .. } = &change.content else { continue };
            self.forget_new_id(&cold.session_id, &change.key);
            // A newer cold record may be queued already.
            if let Some(slot) = self.shard(change.entry).lock().get_mut(change.entry).filter(|slot| !slot.structural) {
                slot.cold = None;
            }
        }
        self.weight.fetch_sub(freed, Ordering::Relaxed);
        self.changes.fetch_sub(changes.len(), Ordering::Relaxed);
    }

    /// A cold record that waits is being replaced: its id is no longer this key's.
    pub(super) fn forget_queued_id(&self, slot: &Slot) {
        if let Some(new) = slot.cold.as_ref().filter(|_| slot.structural) {
            self.forget_new_id(&new.cold.session_id, &slot.key);
        }
    }

    fn forget_new_id(&self, id: &SessionId, key: &SessionKey) {
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

/// What a change counts against the bound on pending ones.
fn weight_of(content: &Content) -> usize {
    match content {
        Content::Hot(_) | Content::Gone => 1,
        Content::Whole { cold, parts, .. } => structural_weight(cold, parts),
    }
}

impl Pending {
    /// The hot record of an entry, without keeping it in memory.
    pub(super) fn peek_hot(&self, engine: &Engine, key: &SessionKey) -> Result<Option<Hot>> {
        let entry = engine.fingerprint(key);
        match self.shard(entry).lock().get(entry) {
            Some(slot) => Ok(slot.hot),
            None => engine.hot_of(entry, key),
        }
    }

    /// The key and the hot record of an entry that an index leads to, without keeping them in memory.
    pub(super) fn peek_listed(&self, engine: &Engine, entry: Fingerprint) -> Result<Option<Activity>> {
        match self.shard(entry).lock().get(entry) {
            Some(slot) => Ok(slot.hot.map(|hot| Activity { key: slot.key.clone(), hot })),
            None => engine.listed(entry),
        }
    }

    /// The entry of a row of the index by age, if it has no other row there. While a change is on its way to the trees, the
    /// row is the one that the entry has in them.
    pub(super) fn peek_row(&self, engine: &Engine, row: &ActivityRow) -> Result<Option<Activity>> {
        let is_its = |found: &Activity| found.hot.updated_at == row.time;
        let mut shard = self.shard(row.entry).lock();
        let Some(slot) = shard.get(row.entry) else { return engine.of_row(row) };
        let Some(found) = slot.hot.map(|hot| Activity { key: slot.key.clone(), hot }) else { return Ok(None) };
        let is_late = slot.queued || slot.commit > self.progress.applied();
        // A crash may have left it a row beside its own. Where its record cannot be decoded, any row leads to it.
        let stored = if is_late { if_readable(engine.listed(row.entry))? } else { Some(None) };
        let is_row = match stored {
            Some(Some(stored)) => is_its(&stored),
            Some(None) => is_its(&found),
            None => true,
        };
        Ok(is_row.then_some(found))
    }

    /// Whether memory knows that there is no such entry, though the trees may still have it.
    pub(super) fn is_removed(&self, entry: Fingerprint) -> bool {
        self.shard(entry).lock().get(entry).is_some_and(|slot| slot.hot.is_none())
    }

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

    /// Both records of an entry as of one moment, and its extras if `with_extras`. What was not in memory is not kept there:
    /// this is for scans.
    pub(super) fn peek(&self, engine: &Engine, key: &SessionKey, with_extras: bool) -> Result<Option<Peeked>> {
        let entry = engine.fingerprint(key);
        let mut shard = self.shard(entry).lock();
        let slot = shard.get(entry);
        let Some(hot) = slot.map_or_else(|| engine.hot_of(entry, key), |slot| Ok(slot.hot))? else { return Ok(None) };
        let cold = read_cold(engine, key, slot)?;
        let extras = with_extras.then(|| read_extras(engine, key, &cold, slot)).transpose()?;
        Ok(Some(Peeked { hot, cold, extras: extras.unwrap_or_default() }))
    }
}

/// An entry as of one moment.
#[derive(Debug)]
pub(crate) struct Peeked {
    pub(crate) hot: Hot,
    pub(crate) cold: Arc<Cold>,
    pub(crate) extras: Extras,
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
