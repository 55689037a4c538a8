//! All entries as they were at one moment, read while others go on changing them.
//!
//! The moment is one at which every shard is locked. After it the first change of an entry keeps what was there, until
//! the reader has come by: copy on first write, as volume snapshots do it (LVM, VSS). The reader walks the keys of the
//! tree in order, and those that were kept, for they may have left the tree. Whoever changes an entry holds its shard's
//! lock, and so does the reader while it reads one: an entry is read as it is, or as it was kept.
//!
//! What is kept of a touched entry is its hot record, about 200 bytes with its key; of one that is replaced or removed
//! all of it. It is kept in memory, and only of entries that the reader has not passed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::pending::{Pending, Rest, read_rest};
use super::shard::Slot;
use crate::codec::{CodecError, Cold, Fingerprint, Hot, Turn, decode_blob};
use crate::entry::Extras;
use crate::error::Result;
use crate::key::SessionKey;
use crate::storage::Engine;
use crate::sync::{AtomicUsize, Mutex, Ordering};

/// Keys read at a time.
const BATCH: usize = 256;

/// All there is of an entry, as of one moment.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) hot: Hot,
    pub(crate) cold: Arc<Cold>,
    /// What its extras are put together from.
    pub(crate) blob: Option<Arc<[u8]>>,
    pub(crate) turn: Option<Turn>,
}

impl Whole {
    pub(crate) fn extras(&self) -> Result<Extras, CodecError> {
        self.blob.as_deref().map_or_else(|| Ok(Extras::default()), |blob| Ok(decode_blob(blob)?.1))
    }
}

/// Reads the entries of one moment, in key order.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pending: &'a Pending,
    engine: &'a Engine,
    kept: Arc<Kept>,
    keys: std::vec::IntoIter<SessionKey>,
    last: Option<SessionKey>,
    /// The tree has ended: what comes behind by now was not there at the moment.
    is_end: bool,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(pending: &'a Pending, engine: &'a Engine, kept: Arc<Kept>) -> Self {
        Self { pending, engine, kept, keys: Vec::new().into_iter(), last: None, is_end: false }
    }

    /// The keys that come next, in the tree or kept. Some may be of entries that were not there at the moment.
    fn read_keys(&mut self) -> Result<()> {
        // The tree first: a key that has left it by then was kept before it did.
        let mut keys = self.engine.keys(self.last.as_ref(), "", BATCH)?;
        self.is_end = keys.len() < BATCH;
        let kept = self.kept.keys_after(self.last.as_ref(), keys.last().filter(|_| !self.is_end));
        keys.extend(kept);
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
        let (hot, rest) = match self.kept.pass(key) {
            Some(Before { hot, rest }) => (hot, rest),
            None => (slot.map_or_else(|| self.engine.hot(entry), |slot| Ok(slot.hot))?, None),
        };
        let Some(hot) = hot else { return Ok(None) };
        let rest = rest.unwrap_or_else(|| read_rest(self.engine, key, slot))?;
        let Some((cold, blob)) = rest else { return Ok(None) };
        let turn = self.kept.turns.get(&entry).filter(|turn| turn.session_id == cold.session_id).cloned();
        Ok(Some(Whole { hot, cold, blob, turn }))
    }
}

impl Iterator for Snapshot<'_> {
    type Item = Result<(SessionKey, Whole)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(key) = self.keys.next() else {
                if self.is_end {
                    return None;
                }
                match self.read_keys() {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(error)),
                }
            };
            if let Some(read) = self.read(&key).transpose() {
                return Some(read.map(|whole| (key, whole)));
            }
        }
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        self.pending.snapshots.end(&self.kept);
    }
}

/// The snapshots that are being read.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    open: Mutex<Vec<Arc<Kept>>>,
    /// How many there are. Changed with all shards locked, or when it no longer matters, so a locked one is enough to
    /// read it.
    count: AtomicUsize,
}

impl Snapshots {
    /// Begins one. All shards are to be locked.
    pub(super) fn begin(&self, turns: HashMap<Fingerprint, Turn>) -> Arc<Kept> {
        let kept = Arc::new(Kept { turns, state: Mutex::default() });
        self.open.lock().push(Arc::clone(&kept));
        self.count.fetch_add(1, Ordering::Relaxed);
        kept
    }

    fn end(&self, kept: &Arc<Kept>) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.open.lock().retain(|open| !Arc::ptr_eq(open, kept));
    }

    /// Keeps what a change is about to replace: the hot record alone, or all of the entry. Its shard is locked.
    pub(super) fn keep(&self, engine: &Engine, slot: &Slot, is_all: bool) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let open = self.open.lock().clone();
        for kept in open.iter().filter(|kept| kept.lacks(&slot.key, is_all)) {
            // An entry that does not read is the reader's error, not that of who changes it.
            let rest = (is_all && slot.hot.is_some()).then(|| read_rest(engine, &slot.key, Some(slot)));
            kept.keep(slot, rest);
        }
    }
}

/// What one snapshot has kept.
#[derive(Debug)]
pub(super) struct Kept {
    turns: HashMap<Fingerprint, Turn>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last key that was read.
    passed: Option<SessionKey>,
    before: BTreeMap<SessionKey, Before>,
}

/// An entry as it was.
#[derive(Debug)]
struct Before {
    /// `None` if there was no such entry.
    hot: Option<Hot>,
    /// What else there was, where that has changed too.
    rest: Option<Result<Rest>>,
}

impl Kept {
    fn lacks(&self, key: &SessionKey, is_all: bool) -> bool {
        let state = self.state.lock();
        if state.passed.as_ref().is_some_and(|passed| key <= passed) {
            return false;
        }
        state.before.get(key).is_none_or(|before| is_all && before.hot.is_some() && before.rest.is_none())
    }

    fn keep(&self, slot: &Slot, rest: Option<Result<Rest>>) {
        let mut state = self.state.lock();
        let before = state.before.entry(slot.key.clone()).or_insert(Before { hot: slot.hot, rest: None });
        if before.hot.is_some() {
            before.rest = rest;
        }
    }

    fn keys_after(&self, after: Option<&SessionKey>, end: Option<&SessionKey>) -> Vec<SessionKey> {
        let mut state = self.state.lock();
        if let Some(after) = after {
            // Entries that were made behind the reader's back, between two keys that it had read already.
            state.before = state.before.split_off(after);
        }
        let keys = state.before.keys().filter(|key| after.is_none_or(|after| *key > after));
        keys.take_while(|key| end.is_none_or(|end| *key <= end)).cloned().collect()
    }

    /// What was kept of the entry that is read now. It is kept no more.
    fn pass(&self, key: &SessionKey) -> Option<Before> {
        let mut state = self.state.lock();
        state.passed = Some(key.clone());
        state.before.remove(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, SessionSource, SessionStore};

    #[test]
    fn what_is_kept_goes_with_its_reader_or_when_that_has_passed() {
        let dir = tempfile::tempdir().unwrap();
        let store = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
        let create = |user: &str| {
            let source = SessionSource { user_id: Some(user.into()), platform: "discord".into(), ..Default::default() };
            store.resolve(&source).unwrap().entry.key
        };
        let (a, b) = (create("a"), create("b"));
        let mut first = store.commits().snapshot().unwrap();
        let second = store.commits().snapshot().unwrap();
        let kept = |of: &Snapshot<'_>, key: &SessionKey| {
            of.kept.state.lock().before.get(key).map(|before| (before.hot.is_some(), before.rest.is_some()))
        };

        // Of a touched entry nothing is read, and of one that was not there nothing is to be read.
        store.touch(&a).unwrap().unwrap();
        store.touch(&b).unwrap().unwrap();
        let c = create("c");
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
}
