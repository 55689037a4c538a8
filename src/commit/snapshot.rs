//! All entries as they were at one moment, read while others go on changing them.
//!
//! The moment is one at which every shard is locked. After it the first change of an entry keeps what was there, until
//! the reader has come by: copy on first write, as volume snapshots do it (LVM, VSS). The reader walks the keys in order:
//! those of the tree, those that were pending at the moment, and those that were kept, for they may have left the tree.
//! Whoever changes an entry holds its shard's lock, and so does the reader while it reads one: an entry is read as it is,
//! or as it was kept.
//!
//! Of a touched entry its hot record is kept, of one that is replaced or removed all, and of a new one that it was not
//! there. What is kept is in memory, until the reader has passed it, and bounded by [`MAX_KEPT_BYTES`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::pending::{Pending, Rest, parts_bytes, read_rest};
use super::shard::Slot;
use crate::codec::{CodecError, Cold, Fingerprint, Hot, Parts, Term, Turn, assemble};
use crate::entry::Extras;
use crate::error::{Error, Result};
use crate::fork;
use crate::key::SessionKey;
use crate::storage::{Engine, KEYS_AT_A_TIME};
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};

/// What one snapshot may keep. Beyond that it fails, rather than take the memory of a gateway that goes on working.
const MAX_KEPT_BYTES: usize = if cfg!(test) { 64 << 10 } else { 256 << 20 };
/// What is kept of an entry takes so much beside its key and its extras, in bytes: measured in a map of half a million.
const KEPT_BYTES: usize = 350;
/// A cold record in memory, likewise.
const COLD_BYTES: usize = 1024;

/// All there is of an entry, as of one moment.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) hot: Hot,
    pub(crate) cold: Arc<Cold>,
    /// What its extras are put together from, beside the cold record.
    pub(crate) parts: Parts,
    pub(crate) turn: Option<Turn>,
    /// Those that are on disk, by their names.
    pub(crate) leases: BTreeMap<String, Term>,
}

impl Whole {
    pub(crate) fn extras(&self) -> Result<Extras, CodecError> {
        let Some(index) = &self.cold.extras else { return Ok(Extras::default()) };
        assemble(index, |generation| self.parts.get(&generation).map(|part| &**part)).map(|(_, extras)| extras)
    }
}

/// Reads the entries of one moment, in key order.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pending: &'a Pending,
    engine: &'a Engine,
    kept: Arc<Kept>,
    keys: std::vec::IntoIter<SessionKey>,
    /// Rows of the tree whose key is none, to be told next.
    unreadable: Vec<Error>,
    last: Option<SessionKey>,
    /// The tree has ended: what comes behind by now was not there at the moment.
    is_end: bool,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(pending: &'a Pending, engine: &'a Engine, kept: Arc<Kept>) -> Self {
        Self { pending, engine, kept, keys: Vec::new().into_iter(), unreadable: Vec::new(), last: None, is_end: false }
    }

    /// The keys that come next. Some may be of entries that were not there at the moment.
    fn read_keys(&mut self) -> Result<()> {
        // The tree first: a key that has left it by then was kept before it did.
        let mut keys = Vec::with_capacity(KEYS_AT_A_TIME);
        for key in self.engine.keys(self.last.as_ref(), "", KEYS_AT_A_TIME)? {
            match key {
                Ok(key) => keys.push(key),
                Err(error) => self.unreadable.push(error),
            }
        }
        self.is_end = keys.len() < KEYS_AT_A_TIME;
        let others = self.kept.keys_after(self.last.as_ref(), keys.last().filter(|_| !self.is_end))?;
        keys.extend(others);
        keys.sort_unstable();
        keys.dedup();
        self.last = keys.last().cloned();
        self.keys = keys.into_iter();
        Ok(())
    }

    fn read(&self, key: &SessionKey) -> Result<Option<Whole>> {
        let entry = self.engine.fingerprint(key);
        let mut shard = self.pending.shard(entry).lock();
        let slot = shard.find(entry).and_then(|place| shard.slot(place));
        let (hot, rest) = match self.kept.pass(key)? {
            Some(Before { hot, rest }) => (hot, rest),
            None => (slot.map_or_else(|| self.engine.hot(key), |slot| Ok(slot.hot))?, None),
        };
        let Some(hot) = hot else { return Ok(None) };
        let (cold, parts) = rest.map_or_else(|| read_rest(self.engine, key, slot), |rest| *rest)?;
        let turn = self.kept.turns.get(&entry).filter(|turn| turn.session_id == cold.session_id).cloned();
        let leases = self.kept.leases.get(&entry).cloned().unwrap_or_default();
        Ok(Some(Whole { hot, cold, parts, turn, leases }))
    }
}

/// A record that cannot be decoded is an error of its own, and the other entries follow.
impl Iterator for Snapshot<'_> {
    type Item = Result<(SessionKey, Whole)>;

    fn next(&mut self) -> Option<Self::Item> {
        if fork::is_child() {
            return Some(Err(Error::Forked { path: self.engine.path().to_path_buf() }));
        }
        loop {
            if let Some(error) = self.unreadable.pop() {
                return Some(Err(error));
            }
            let Some(key) = self.keys.next() else {
                if self.is_end {
                    return None;
                }
                if let Err(error) = self.read_keys() {
                    self.is_end = true;
                    return Some(Err(error));
                }
                continue;
            };
            if let Some(read) = self.read(&key).transpose() {
                return Some(read.map(|whole| (key, whole)));
            }
        }
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        if !fork::is_child() {
            self.pending.snapshots.end(&self.kept);
        }
    }
}

/// The snapshots that are being read.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    open: Mutex<Vec<Arc<Kept>>>,
    /// How many there are. Changed with all shards locked, or when it no longer matters, so a locked one is enough to
    /// read it.
    count: AtomicUsize,
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

    fn end(&self, kept: &Arc<Kept>) {
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
    turns: HashMap<Fingerprint, Turn>,
    leases: HashMap<Fingerprint, BTreeMap<String, Term>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last key that was read.
    passed: Option<SessionKey>,
    before: BTreeMap<SessionKey, Before>,
    /// About what `before` takes.
    bytes: usize,
    /// That was too much: nothing is kept any more.
    is_full: bool,
}

/// An entry as it was.
#[derive(Debug)]
struct Before {
    /// `None` if there was no such entry.
    hot: Option<Hot>,
    /// What else there was, where that has changed too.
    rest: Option<Box<Result<Rest>>>,
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
    fn keys_after(&self, after: Option<&SessionKey>, end: Option<&SessionKey>) -> Result<Vec<SessionKey>> {
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
    fn pass(&self, key: &SessionKey) -> Result<Option<Before>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, SessionSource, SessionStore};

    #[test]
    fn what_is_kept_goes_with_its_reader_or_when_that_has_passed() {
        let (_dir, store) = store();
        let (a, b) = (create(&store, "a"), create(&store, "b"));
        let mut first = store.commits().snapshot().unwrap();
        let second = store.commits().snapshot().unwrap();
        let kept = |of: &Snapshot<'_>, key: &SessionKey| {
            of.kept.state.lock().before.get(key).map(|before| (before.hot.is_some(), before.rest.is_some()))
        };

        // Of a touched entry nothing is read, and of one that was not there nothing is to be read.
        store.touch(&a).unwrap().unwrap();
        store.touch(&b).unwrap().unwrap();
        let c = create(&store, "c");
        assert_eq!(
            [&a, &b, &c].map(|key| kept(&first, key)),
            [Some((true, false)), Some((true, false)), Some((false, false))]
        );
        store.remove(&b).unwrap();
        assert_eq!(kept(&first, &b), Some((true, true)));

        assert_eq!(first.next().unwrap().unwrap().0, a);
        store.touch(&a).unwrap().unwrap();
        assert_eq!((kept(&first, &a), kept(&second, &a)), (None, Some((true, false))));

        let snapshots = &second.pending.snapshots;
        let ended = Arc::downgrade(&first.kept);
        drop(first);
        assert!(ended.upgrade().is_none());
        assert_eq!((snapshots.count.load(Ordering::Relaxed), snapshots.open.lock().len()), (1, 1));
        assert!(Arc::ptr_eq(&snapshots.open.lock()[0], &second.kept));
    }

    fn store() -> (tempfile::TempDir, SessionStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
        (dir, store)
    }

    fn create(store: &SessionStore, user: &str) -> SessionKey {
        let source = SessionSource { user_id: Some(user.into()), platform: "discord".into(), ..Default::default() };
        store.resolve(&source).unwrap().entry.key
    }

    #[test]
    fn too_much_is_an_error_and_not_a_part() {
        let (_dir, store) = store();
        let users: Vec<String> = (0..400).map(|n| format!("{n:03}")).collect();
        let keys: Vec<_> = users.iter().map(|user| create(&store, user)).collect();
        store.flush().unwrap();
        let mut snapshot = store.commits().snapshot().unwrap();
        assert!(snapshot.next().unwrap().is_ok());
        for key in &keys {
            store.remove(key).unwrap();
        }
        // The tree has no more of them, so only what was kept would tell.
        store.flush().unwrap();
        let read: Vec<_> = snapshot.collect();
        assert!(read.iter().any(|read| matches!(read, Err(Error::SnapshotTooLarge { .. }))), "{}", read.len());
        // It is over, and the next begins anew.
        assert_eq!(store.commits().snapshot().unwrap().count(), 0);
    }
}
