//! sled used plainly: three trees, plain writes, one flush and one fdatasync for each group. Not crash-safe across an
//! entry's three writes; here to show what Cloakroom adds to its engine, and what that costs.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::kv::{Engine, Tree, Txn};

pub struct Sled {
    db: sled::Db,
    trees: [sled::Tree; 3],
    /// sled's flush does not sync.
    file: File,
}

impl Sled {
    pub fn open(dir: &Path) -> Self {
        let dir = dir.join("sessions.sled");
        let db = sled::Config::new().path(&dir).cache_capacity(256 << 20).flush_every_ms(None).open().unwrap();
        let trees = ["hot", "cold", "index"].map(|name| db.open_tree(name).unwrap());
        Self { db, trees, file: File::options().read(true).write(true).open(dir.join("db")).unwrap() }
    }
}

struct Plain<'a>(&'a [sled::Tree; 3]);

impl Txn for Plain<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        self.0[tree as usize].get(key).unwrap().map(|value| value.to_vec())
    }
    fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        self.0[tree as usize].insert(key, value).unwrap();
    }
    fn remove(&mut self, tree: Tree, key: &[u8]) {
        assert!(self.0[tree as usize].remove(key).unwrap().is_some());
    }
    fn scan(&self, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>> {
        let rows = self.0[Tree::Index as usize].range(range).keys();
        let key = |key: sled::Result<sled::IVec>| key.unwrap().to_vec();
        if newest_first { rows.rev().take(limit).map(key).collect() } else { rows.take(limit).map(key).collect() }
    }
    fn step(&mut self) {}
}

impl Engine for Sled {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn Txn)) {
        work(&mut Plain(&self.trees));
        self.db.flush().unwrap();
        self.file.sync_data().unwrap();
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Txn)) {
        work(&Plain(&self.trees));
    }
}
