//! Which keys the file has had already.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::key::SessionKey;
use crate::time::Timestamp;

/// Tells a key that comes twice in the file from one that the store had before.
///
/// Where the store was empty, every key it has now came from the file, and nothing is to be remembered. Otherwise a
/// hash and a time are, about 40 bytes for each entry of the file.
#[derive(Debug)]
pub(super) enum Seen {
    Nothing,
    Hashes(RandomState, HashMap<u64, Mark>),
}

/// What became of the entry that the file had first for a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// The store has the file's entry.
    pub(super) is_ours: bool,
    /// Its activity, or that of the store's own.
    pub(super) updated_at: Timestamp,
}

impl Seen {
    pub(super) fn new(remember: bool) -> Self {
        if remember { Self::Hashes(RandomState::new(), HashMap::new()) } else { Self::Nothing }
    }

    pub(super) fn get(&self, key: &SessionKey) -> Option<Mark> {
        match self {
            Self::Nothing => None,
            Self::Hashes(hasher, marks) => marks.get(&hasher.hash_one(key)).copied(),
        }
    }

    pub(super) fn set(&mut self, key: &SessionKey, mark: Mark) {
        if let Self::Hashes(hasher, marks) = self {
            marks.insert(hasher.hash_one(key), mark);
        }
    }
}
