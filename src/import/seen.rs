//! Which keys the file has had already.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::key::SessionKey;
use crate::time::Timestamp;

/// Tells a key that comes twice in the file from one that the store has from elsewhere. It remembers a hash and a time,
/// about 40 bytes for each entry of the file.
#[derive(Debug, Default)]
pub(super) struct Seen {
    hasher: RandomState,
    marks: HashMap<u64, Mark>,
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
    pub(super) fn get(&self, key: &SessionKey) -> Option<Mark> {
        self.marks.get(&self.hasher.hash_one(key)).copied()
    }

    pub(super) fn set(&mut self, key: &SessionKey, mark: Mark) {
        self.marks.insert(self.hasher.hash_one(key), mark);
    }
}
