//! The keys that begin with a prefix, in key order.

use std::collections::VecDeque;
use std::iter::FusedIterator;

use crate::error::Result;
use crate::key::SessionKey;
use crate::storage::{Direction, KEYS_AT_A_TIME, KeyRange};
use crate::store::SessionStore;
use crate::unreadable::Unreadable;

impl SessionStore {
    /// The keys that begin with `prefix`, in key order (that of their bytes). It goes both ways: `.rev()` begins with the
    /// last.
    ///
    /// An empty prefix means all keys. Costs what matches, however many entries there are, and reads 256 keys at a time.
    ///
    /// It is no snapshot: of keys that are made or removed while it runs, each may be shown or not, and of an entry that
    /// is renamed meanwhile both keys or none. Nothing is shown twice.
    ///
    /// A row that holds no key is passed over, and [`Keys::unreadable`] counts it. Errors are failures of the database;
    /// after one the iterator ends.
    ///
    /// ```no_run
    /// # fn f(store: &cloakroom::SessionStore) -> cloakroom::Result<()> {
    /// for key in store.keys("agent:main:telegram:")? {
    ///     println!("{}", key?);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn keys(&self, prefix: &str) -> Result<Keys> {
        self.commits().apply_pending()?;
        Ok(Keys {
            store: self.clone(),
            rest: KeyRange::of(prefix),
            front: VecDeque::new(),
            back: VecDeque::new(),
            is_read: false,
            unreadable: Unreadable::default(),
        })
    }

    /// How many keys begin with `prefix`: as many as [`keys`](SessionStore::keys) shows. Costs what matches.
    pub fn count_prefix(&self, prefix: &str) -> Result<u64> {
        self.keys(prefix)?.try_fold(0, |count, key| key.map(|_| count + 1))
    }
}

/// Keys in key order. See [`SessionStore::keys`].
#[derive(Debug)]
pub struct Keys {
    store: SessionStore,
    /// What was not read yet.
    rest: KeyRange,
    /// Keys that were read from the front and from the back. Both in key order.
    front: VecDeque<SessionKey>,
    back: VecDeque<SessionKey>,
    /// Nothing is left to be read.
    is_read: bool,
    unreadable: Unreadable,
}

impl Keys {
    /// The rows that were passed over so far because they hold no key.
    #[must_use]
    pub fn unreadable(&self) -> &Unreadable {
        &self.unreadable
    }

    /// Reads from one end until there is a key, or all was read.
    fn read(&mut self, direction: Direction) -> Result<()> {
        let Self { store, rest, front, back, is_read, unreadable } = self;
        // In a forked child that is an error, though there may be keys.
        let engine = store.commits().engine()?;
        let keys = match direction {
            Direction::Forth => front,
            Direction::Back => back,
        };
        while keys.is_empty() && !*is_read {
            let rows = engine.keys_of(rest, direction, KEYS_AT_A_TIME)?;
            *is_read = rows.is_empty();
            for row in rows {
                let Some(key) = unreadable.pass(row)? else { continue };
                if store.commits().is_removed(&key)? {
                    continue;
                }
                match direction {
                    Direction::Forth => keys.push_back(key),
                    Direction::Back => keys.push_front(key),
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, direction: Direction) -> Option<Result<SessionKey>> {
        if let Err(error) = self.read(direction) {
            // After an error it ends rather than repeats it.
            self.is_read = true;
            self.front.clear();
            self.back.clear();
            return Some(Err(error));
        }
        let key = match direction {
            Direction::Forth => self.front.pop_front().or_else(|| self.back.pop_front()),
            Direction::Back => self.back.pop_back().or_else(|| self.front.pop_back()),
        };
        key.map(Ok)
    }
}

impl Iterator for Keys {
    type Item = Result<SessionKey>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take(Direction::Forth)
    }
}

impl DoubleEndedIterator for Keys {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.take(Direction::Back)
    }
}

impl FusedIterator for Keys {}
