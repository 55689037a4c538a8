//! Records that cannot be decoded. One of them ends no work over many: it is passed over, counted and named.

use std::collections::HashSet;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result, with_causes};

/// How many records are named.
const NAMED: usize = 10;

/// The records that a verb passed over because they cannot be decoded. They stay in the store as they are:
/// [`verify`](crate::SessionStore::verify) lists all there are, and [`repair`](crate::SessionStore::repair) makes the
/// store sound.
///
/// A failure to read the database at all is an [`Error`], not counted here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unreadable {
    /// How many.
    pub count: u64,
    /// The first of them, at most ten.
    pub first: Vec<UnreadableRecord>,
    /// Several rows may lead to one record, and it may be met again.
    #[serde(skip)]
    seen: HashSet<(&'static str, String)>,
}

/// A record that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnreadableRecord {
    /// The tree it is in: `sessions`, `activity`, `turns`, …
    #[serde(deserialize_with = "tree")]
    pub tree: TreeName,
    /// The entry, redacted, or the row's place.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

/// The name of a tree. Under a name of its own, for serde would have the text that is read live as long.
pub(crate) type TreeName = &'static str;

/// The trees that records lie in.
const TREES: [&str; 10] = [
    "sessions",
    "activity",
    "by_updated_at",
    "by_session_id",
    "extras",
    "journal",
    "turns",
    "leases",
    "intent",
    "meta",
];

/// The name of a tree in a report that was written as JSON.
pub(crate) fn tree<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    Ok(TREES.into_iter().find(|tree| *tree == name).unwrap_or("unknown"))
}

/// What was read; `None` if one record cannot be decoded, and an error if the engine failed: then every other record may
/// be concerned.
///
/// All code that goes on without a record tells the two apart here.
pub(crate) fn if_readable<T>(read: Result<T>) -> Result<Option<T>> {
    Unreadable::split(read).map(Result::ok)
}

impl Unreadable {
    /// Whether everything could be decoded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Like [`if_readable`], and counts the record.
    pub(crate) fn pass<T>(&mut self, read: Result<T>) -> Result<Option<T>> {
        Ok(Self::split(read)?.map_err(|record| self.add(record)).ok())
    }

    /// What was read, or the record that cannot be decoded. The outer error is a failure of the engine.
    pub(crate) fn split<T>(read: Result<T>) -> Result<Result<T, UnreadableRecord>> {
        match read {
            Ok(read) => Ok(Ok(read)),
            Err(Error::DamagedRecord { record, key, source }) => {
                Ok(Err(UnreadableRecord { tree: record, key, reason: with_causes(&*source) }))
            }
            Err(error) => Err(error),
        }
    }

    /// Counts what another count has.
    pub(crate) fn add_all(&mut self, other: &Self) {
        other.first.iter().for_each(|record| self.add(record.clone()));
        for record in &other.seen {
            self.count += u64::from(self.seen.insert(record.clone()));
        }
    }

    fn add(&mut self, record: UnreadableRecord) {
        let UnreadableRecord { tree, key, reason } = &record;
        if !self.seen.insert((tree, key.clone())) {
            return;
        }
        tracing::debug!(tree, key, reason, "passed over a record that cannot be decoded");
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(record);
        }
    }
}

/// What a verb found, and what it had to pass over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Listing<T> {
    /// What was found.
    pub items: Vec<T>,
    /// Records that were passed over; what they hold may belong to the list.
    pub unreadable: Unreadable,
}

impl<T> IntoIterator for Listing<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(n: usize) -> Error {
        Error::DamagedRecord { record: "activity", key: format!("entry {n}"), source: "bad".into() }
    }

    #[test]
    fn a_record_is_passed_over_and_a_failure_is_not() {
        let mut unreadable = Unreadable::default();
        assert_eq!(unreadable.pass(Ok(7)).unwrap(), Some(7));
        assert!(unreadable.is_empty());
        for n in 0..12 {
            assert_eq!(unreadable.pass::<()>(Err(damaged(n))).unwrap(), None);
        }
        assert_eq!((unreadable.count, unreadable.first.len()), (12, NAMED));
        let first = UnreadableRecord { tree: "activity", key: "entry 0".into(), reason: "bad".into() };
        assert_eq!(unreadable.first[0], first);
        let failed = Error::Engine { action: "read", source: "gone".into() };
        assert!(matches!(unreadable.pass::<()>(Err(failed)), Err(Error::Engine { .. })));
        assert_eq!(unreadable.count, 12);
    }
}
