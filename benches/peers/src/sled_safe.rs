//! Bare sled as its engine needs to be used to be safe: what a commit changes is written in the order of its keys, an
//! entry also has a row by its session id, and no more than 512 KiB of writes wait for a sync of our own.
//!
//! `sled_safe` has three rows for an entry: itself by its key, its place in the index of times, its session id.
//! `sled_safe4` has four: what changes with a touch has a row of its own, as in `sled`.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::group::Queue;
use crate::kv::{Engine, Tree, Txn};
use crate::layout::{HOT_BYTES, session_id};

/// Beyond that an interrupted run would write over what was synced before.
const UNSYNCED: usize = 512 << 10;
const ID: usize = 3;

pub struct SledSafe {
    db: sled::Db,
    /// Hot, cold, index, id. Where an entry is one row it is in cold, with the hot record in front.
    trees: [sled::Tree; 4],
    is_joined: bool,
    /// sled's flush does not sync.
    file: File,
    writers: Queue,
}

impl SledSafe {
    pub fn open(dir: &Path, is_joined: bool) -> Self {
        let dir = dir.join("sessions.sled");
        let db = sled::Config::new().path(&dir).cache_capacity(256 << 20).flush_every_ms(None).open().unwrap();
        let trees = ["hot", "cold", "index", "id"].map(|name| db.open_tree(name).unwrap());
        let file = File::options().read(true).write(true).open(dir.join("db")).unwrap();
        Self { db, trees, is_joined, file, writers: Queue::default() }
    }
}

/// Changes that are not written yet: by tree and key, so in the order that sled takes best.
struct Batch<'a> {
    sled: &'a SledSafe,
    changes: BTreeMap<(usize, Vec<u8>), Option<Vec<u8>>>,
    bytes: usize,
}

impl Batch<'_> {
    fn row(&self, tree: usize, key: &[u8]) -> Option<Vec<u8>> {
        if !self.changes.is_empty()
            && let Some(change) = self.changes.get(&(tree, key.to_vec()))
        {
            return change.clone();
        }
        self.sled.trees[tree].get(key).unwrap().map(|value| value.to_vec())
    }

    fn change(&mut self, tree: usize, key: &[u8], value: Option<Vec<u8>>) {
        let length = |value: &Option<Vec<u8>>| key.len() + value.as_ref().map_or(0, Vec::len);
        self.bytes += length(&value);
        if let Some(before) = self.changes.insert((tree, key.to_vec()), value) {
            self.bytes -= length(&before);
        }
    }

    fn write(&mut self) {
        for ((tree, key), value) in std::mem::take(&mut self.changes) {
            let tree = &self.sled.trees[tree];
            match value {
                Some(value) => drop(tree.insert(key, value).unwrap()),
                None => drop(tree.remove(key).unwrap()),
            }
        }
        self.bytes = 0;
        self.sled.db.flush().unwrap();
        self.sled.file.sync_data().unwrap();
    }
}

impl Txn for Batch<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        match tree {
            Tree::Hot if self.sled.is_joined => self.row(Tree::Cold as usize, key).map(|mut row| {
                row.truncate(HOT_BYTES);
                row
            }),
            Tree::Cold if self.sled.is_joined => {
                self.row(Tree::Cold as usize, key).map(|row| row[HOT_BYTES..].to_vec())
            }
            _ => self.row(tree as usize, key),
        }
    }

    fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        let cold = Tree::Cold as usize;
        let mut value = value.to_vec();
        if tree == Tree::Cold {
            self.change(ID, session_id(&value), Some(key.to_vec()));
        }
        match tree {
            Tree::Hot if self.sled.is_joined => {
                if let Some(row) = self.row(cold, key) {
                    value.extend_from_slice(&row[HOT_BYTES..]);
                }
                self.change(cold, key, Some(value));
            }
            Tree::Cold if self.sled.is_joined => {
                let mut row = self.row(cold, key).unwrap();
                row.truncate(HOT_BYTES);
                row.extend_from_slice(&value);
                self.change(cold, key, Some(row));
            }
            _ => self.change(tree as usize, key, Some(value)),
        }
    }

    fn remove(&mut self, tree: Tree, key: &[u8]) {
        if tree == Tree::Cold {
            let cold = self.get(Tree::Cold, key).unwrap();
            self.change(ID, session_id(&cold), None);
        }
        // Goes with the rest of the entry.
        if tree != Tree::Hot || !self.sled.is_joined {
            self.change(tree as usize, key, None);
        }
    }

    fn scan(&self, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>> {
        let rows = self.sled.trees[Tree::Index as usize].range(range).keys();
        let key = |key: sled::Result<sled::IVec>| key.unwrap().to_vec();
        if newest_first { rows.rev().take(limit).map(key).collect() } else { rows.take(limit).map(key).collect() }
    }

    fn step(&mut self) {
        if self.bytes >= UNSYNCED {
            self.write();
        }
    }
}

impl Engine for SledSafe {
    fn name(&self) -> &'static str {
        if self.is_joined { "sled_safe" } else { "sled_safe4" }
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn Txn)) {
        let _writer = self.writers.enter();
        let mut batch = Batch { sled: self, changes: BTreeMap::new(), bytes: 0 };
        work(&mut batch);
        batch.write();
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Txn)) {
        work(&Batch { sled: self, changes: BTreeMap::new(), bytes: 0 });
    }
}
