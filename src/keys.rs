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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Options;
    use crate::query::Filter;
    use crate::remove_where::BulkRemoval;
    use crate::source::SessionSource;

    const USER: &str = "agent:main:telegram:dm:";
    /// More than are read at a time.
    const MATCHING: u64 = 300;

    type Verb = fn(&SessionStore) -> u64;

    fn create(store: &SessionStore, platform: &str, chat: u64) {
        let source = SessionSource {
            platform: platform.into(),
            chat_type: "dm".into(),
            chat_id: Some(chat.to_string()),
            ..SessionSource::default()
        };
        store.resolve(&source).unwrap();
    }

    /// The rows that a verb walks over in a store where so many entries do not match, and as many keys lie on either side.
    fn rows_read(others: u64, verb: Verb) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(dir.path().join("db")).create(true).commit_interval(Duration::from_secs(3600));
        let store = SessionStore::open(options.cache_bytes(16 << 20)).unwrap();
        for n in 0..others {
            create(&store, if n % 2 == 0 { "discord" } else { "whatsapp" }, n);
        }
        (0..MATCHING).for_each(|n| create(&store, "telegram", n));
        store.flush().unwrap();
        let rows = || store.commits().engine().unwrap().rows_read();
        let before = rows();
        assert_eq!(verb(&store), MATCHING);
        rows() - before
    }

    fn filter() -> Filter {
        Filter { key_prefix: Some(USER.into()), ..Filter::default() }
    }

    fn removed(answer: BulkRemoval) -> u64 {
        let BulkRemoval::Removed(report) = answer else { panic!("{answer:?}") };
        report.removed
    }

    #[test]
    fn verbs_over_a_prefix_cost_what_matches_and_never_the_store() {
        // With how often each row may be looked at: a rename looks for collisions first.
        let verbs: [(&str, u64, Verb); 7] = [
            ("keys", 1, |store| store.keys(USER).unwrap().map(Result::unwrap).count() as u64),
            ("keys, backwards", 1, |store| store.keys(USER).unwrap().rev().map(Result::unwrap).count() as u64),
            ("count_prefix", 1, |store| store.count_prefix(USER).unwrap()),
            ("remove_where, any number", 1, |store| removed(store.remove_where(&filter(), None).unwrap())),
            ("remove_where", 1, |store| removed(store.remove_where(&filter(), MATCHING).unwrap())),
            ("forget", 1, |store| store.forget(USER).unwrap().removed),
            ("rename", 2, |store| store.rename(USER, "agent:main:signal:dm:").unwrap().moved),
        ];
        for (name, times, verb) in verbs {
            let [few, many] = [10, 2000].map(|others| rows_read(others, verb));
            assert_eq!((few, many), (times * MATCHING, times * MATCHING), "{name}");
        }
    }
}
