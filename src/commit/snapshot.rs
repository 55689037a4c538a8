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

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kept::{Before, Kept};
use super::pending::Pending;
use super::read::read_rest;
use crate::codec::{CodecError, Cold, Hot, Parts, Term, Turn, assemble};
use crate::entry::Extras;
use crate::error::{Error, Result};
use crate::fork;
use crate::key::SessionKey;
use crate::storage::{Engine, KEYS_AT_A_TIME};

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
        for key in self.engine.keys(self.last.as_ref(), KEYS_AT_A_TIME)? {
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
        let slot = shard.get(entry);
        let (hot, rest) = match self.kept.pass(key)? {
            Some(Before { hot, rest }) => (hot, rest),
            None => (slot.map_or_else(|| self.engine.hot_of(entry, key), |slot| Ok(slot.hot))?, None),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering;
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
