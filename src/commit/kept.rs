//! What snapshots keep of entries that change before their reader has come by. `snapshot.rs` says why.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::read::{Rest, parts_bytes, read_rest};
use super::shard::Slot;
use crate::codec::{Fingerprint, Hot, Term, Turn};
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::storage::Engine;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};

/// What one snapshot may keep. Beyond that it fails, rather than take the memory of a gateway that goes on working.
const MAX_KEPT_BYTES: usize = if cfg!(test) { 64 << 10 } else { 256 << 20 };
/// What is kept of an entry takes so much beside its key and its extras, in bytes: measured in a map of half a million.
const KEPT_BYTES: usize = 350;
/// A cold record in memory, likewise.
const COLD_BYTES: usize = 1024;

/// The snapshots that are being read.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) open: Mutex<Vec<Arc<Kept>>>,
    /// How many there are. Changed with all shards locked, or when it no longer matters, so a locked one is enough to
    /// read it.
    pub(super) count: AtomicUsize,
    /// The number of the newest one, counted from 1. Changed with all shards locked.
    newest: AtomicU64,
}

impl Snapshots {
    /// Begins one, of the entries in the tree and those of the `pending` keys. All shards are to be locked.
    pub(super) fn begin(
        &self,
        pending: BTreeSet<SessionKey>,
        turns: HashMap<Fingerprint, Turn>,
        leases: HashMap<Fingerprint, BTreeMap<String, Term>>,
    ) -> Arc<Kept> {
        let kept = Arc::new(Kept { pending, turns, leases, state: Mutex::default() });
        self.open.lock().push(Arc::clone(&kept));
        self.count.fetch_add(1, Ordering::Relaxed);
        self.newest.fetch_add(1, Ordering::Relaxed);
        kept
    }

    pub(super) fn end(&self, kept: &Arc<Kept>) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.open.lock().retain(|open| !Arc::ptr_eq(open, kept));
    }

    /// Keeps what a change is about to replace: the hot record alone, or all of the entry. Its shard is locked.
    pub(super) fn keep(&self, engine: &Engine, slot: &mut Slot, is_all: bool) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let newest = self.newest.load(Ordering::Relaxed);
        let (kept_for, kept_all) = slot.kept;
        if kept_for == newest && (kept_all || !is_all) {
            return;
        }
        slot.kept = (newest, is_all);
        let open = self.open.lock().clone();
        for kept in open.iter().filter(|kept| kept.lacks(&slot.key, is_all)) {
            // A record that cannot be decoded is the error of the reader, not of the change.
            let rest = (is_all && slot.hot.is_some()).then(|| read_rest(engine, &slot.key, Some(slot)));
            kept.keep(slot, rest);
        }
    }
}

/// What one snapshot has of its moment.
#[derive(Debug)]
pub(super) struct Kept {
    /// Keys that may not have been in the tree yet.
    pending: BTreeSet<SessionKey>,
    pub(super) turns: HashMap<Fingerprint, Turn>,
    pub(super) leases: HashMap<Fingerprint, BTreeMap<String, Term>>,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The last key that was read.
    passed: Option<SessionKey>,
    pub(super) before: BTreeMap<SessionKey, Before>,
    /// About what `before` takes.
    bytes: usize,
    /// That was too much: nothing is kept any more.
    is_full: bool,
}

/// An entry as it was.
#[derive(Debug)]
pub(super) struct Before {
    /// `None` if there was no such entry.
    pub(super) hot: Option<Hot>,
    /// What else there was, where that has changed too.
    pub(super) rest: Option<Box<Result<Rest>>>,
}

impl Before {
    fn bytes(&self, key: &SessionKey) -> usize {
        let rest = match self.rest.as_deref() {
            Some(Ok((cold, parts))) => {
                COLD_BYTES + cold.extras.as_ref().map_or(0, |extras| extras.inline_len()) + parts_bytes(parts)
            }
            _ => 0,
        };
        KEPT_BYTES + key.as_str().len() + rest
    }
}

impl Kept {
    fn lacks(&self, key: &SessionKey, is_all: bool) -> bool {
        let state = self.state.lock();
        if state.is_full || state.passed.as_ref().is_some_and(|passed| key <= passed) {
            return false;
        }
        state.before.get(key).is_none_or(|before| is_all && before.hot.is_some() && before.rest.is_none())
    }

    fn keep(&self, slot: &Slot, rest: Option<Result<Rest>>) {
        let mut state = self.state.lock();
        let hot = match state.take(&slot.key) {
            Some(before) => before.hot,
            None => slot.hot,
        };
        let before = Before { hot, rest: rest.filter(|_| hot.is_some()).map(Box::new) };
        state.bytes += before.bytes(&slot.key);
        state.before.insert(slot.key.clone(), before);
        if state.bytes > MAX_KEPT_BYTES {
            *state = State { is_full: true, ..State::default() };
        }
    }

    /// Keys that may be missing in the tree, after `after` and up to `end`.
    pub(super) fn keys_after(&self, after: Option<&SessionKey>, end: Option<&SessionKey>) -> Result<Vec<SessionKey>> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), end.map_or(Bound::Unbounded, Bound::Included));
        let mut keys: Vec<_> = self.pending.range::<SessionKey, _>(range).cloned().collect();
        let mut state = self.state.lock();
        state.check()?;
        // Of entries that were made behind the reader's back, between two keys that it had read already.
        while let Some((key, _)) = state.before.first_key_value()
            && after.is_some_and(|after| key <= after)
        {
            let key = key.clone();
            state.take(&key);
        }
        let there = state.before.range::<SessionKey, _>(range).filter(|(_, before)| before.hot.is_some());
        keys.extend(there.map(|(key, _)| key.clone()));
        Ok(keys)
    }

    /// What was kept of the entry that is read now. It is kept no more.
    pub(super) fn pass(&self, key: &SessionKey) -> Result<Option<Before>> {
        let mut state = self.state.lock();
        state.check()?;
        state.passed = Some(key.clone());
        Ok(state.take(key))
    }
}

impl State {
    fn check(&self) -> Result<()> {
        if self.is_full { Err(Error::SnapshotTooLarge { limit: MAX_KEPT_BYTES }) } else { Ok(()) }
    }

    fn take(&mut self, key: &SessionKey) -> Option<Before> {
        let before = self.before.remove(key)?;
        self.bytes -= before.bytes(key);
        Some(before)
    }
}
