//! fjall: plain inserts, a batch where an entry changes in several trees, and a sync for each group.

use std::ops::Range;
use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::kv::{Engine, Tree, Txn};

pub struct Fjall {
    db: Database,
    trees: [Keyspace; 3],
}

impl Fjall {
    pub fn open(dir: &Path) -> Self {
        let db = Database::builder(dir.join("sessions.fjall")).cache_size(256 << 20).open().unwrap();
        let trees = ["hot", "cold", "index"].map(|name| db.keyspace(name, KeyspaceCreateOptions::default).unwrap());
        Self { db, trees }
    }
}

struct Writing<'a> {
    fjall: &'a Fjall,
    /// Changes of the entry so far. No touch reads what it has written.
    changes: Vec<(Tree, Vec<u8>, Option<Vec<u8>>)>,
}

impl Txn for Writing<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        self.fjall.trees[tree as usize].get(key).unwrap().map(|value| value.to_vec())
    }
    fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        self.changes.push((tree, key.to_vec(), Some(value.to_vec())));
    }
    fn remove(&mut self, tree: Tree, key: &[u8]) {
        self.changes.push((tree, key.to_vec(), None));
    }
    fn scan(&self, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>> {
        let rows = self.fjall.trees[Tree::Index as usize].range(range);
        let key = |guard: fjall::Guard| guard.key().unwrap().to_vec();
        if newest_first { rows.rev().take(limit).map(key).collect() } else { rows.take(limit).map(key).collect() }
    }
    fn step(&mut self) {
        if let [(tree, key, Some(value))] = &self.changes[..] {
            self.fjall.trees[*tree as usize].insert(key.as_slice(), value.as_slice()).unwrap();
            self.changes.clear();
            return;
        }
        let mut batch = self.fjall.db.batch();
        for (tree, key, value) in self.changes.drain(..) {
            let tree = &self.fjall.trees[tree as usize];
            match value {
                Some(value) => batch.insert(tree, key, value),
                None => batch.remove(tree, key),
            }
        }
        batch.commit().unwrap();
    }
}

impl Engine for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn Txn)) {
        work(&mut Writing { fjall: self, changes: Vec::new() });
        self.db.persist(PersistMode::SyncData).unwrap();
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Txn)) {
        work(&Writing { fjall: self, changes: Vec::new() });
    }
}
