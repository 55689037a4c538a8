//! What a commit takes of what is pending, and how its memory is freed when that is in the trees.

use std::sync::Arc;

use super::pending::Pending;
use super::read::structural_weight;
use super::shard::Slot;
use crate::codec::{Fingerprint, Turn};
use crate::storage::{Change, Content, Late, MovedFrom};
use crate::sync::Ordering;

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

impl Pending {
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
}

/// What a change counts against the bound on pending ones.
fn weight_of(content: &Content) -> usize {
    match content {
        Content::Hot(_) | Content::Gone => 1,
        Content::Whole { cold, parts, .. } => structural_weight(cold, parts),
    }
}
