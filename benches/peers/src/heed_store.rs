//! LMDB through heed, with its defaults: every commit is synced.

use std::ops::{Bound, Range};
use std::path::Path;

use heed::types::Bytes;
use heed::{Database, Env, EnvOpenOptions, RoTxn, RwTxn};

use crate::kv::{Engine, Tree, Txn};

type Table = Database<Bytes, Bytes>;

pub struct Heed {
    env: Env,
    trees: [Table; 3],
}

impl Heed {
    pub fn open(dir: &Path) -> Self {
        let dir = dir.join("sessions.mdb");
        std::fs::create_dir_all(&dir).unwrap();
        // SAFETY: the directory is this process's own, and nobody else changes its files.
        let env = unsafe { EnvOpenOptions::new().map_size(16 << 30).max_dbs(3).open(&dir) }.unwrap();
        let mut txn = env.write_txn().unwrap();
        let trees = ["hot", "cold", "index"].map(|name| env.create_database(&mut txn, Some(name)).unwrap());
        txn.commit().unwrap();
        Self { env, trees }
    }
}

fn scan(table: &Table, txn: &RoTxn<'_>, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>> {
    let range = (Bound::Included(range.start), Bound::Excluded(range.end));
    let key = |row: heed::Result<(&[u8], &[u8])>| row.unwrap().0.to_vec();
    if newest_first {
        table.rev_range(txn, &range).unwrap().take(limit).map(key).collect()
    } else {
        table.range(txn, &range).unwrap().take(limit).map(key).collect()
    }
}

struct Writing<'a> {
    heed: &'a Heed,
    txn: RwTxn<'a>,
}

struct Reading<'a> {
    heed: &'a Heed,
    txn: RoTxn<'a, heed::WithTls>,
}

impl Txn for Writing<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        self.heed.trees[tree as usize].get(&self.txn, key).unwrap().map(<[u8]>::to_vec)
    }
    fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        self.heed.trees[tree as usize].put(&mut self.txn, key, value).unwrap();
    }
    fn remove(&mut self, tree: Tree, key: &[u8]) {
        assert!(self.heed.trees[tree as usize].delete(&mut self.txn, key).unwrap());
    }
    fn scan(&self, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>> {
        scan(&self.heed.trees[Tree::Index as usize], &self.txn, range, newest_first, limit)
    }
    fn step(&mut self) {}
}

impl Txn for Reading<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        self.heed.trees[tree as usize].get(&self.txn, key).unwrap().map(<[u8]>::to_vec)
    }
    fn put(&mut self, _: Tree, _: &[u8], _: &[u8]) {
        unreachable!()
    }
    fn remove(&mut self, _: Tree, _: &[u8]) {
        unreachable!()
    }
    fn scan(&self, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>> {
        scan(&self.heed.trees[Tree::Index as usize], &self.txn, range, newest_first, limit)
    }
    fn step(&mut self) {}
}

impl Engine for Heed {
    fn name(&self) -> &'static str {
        "heed"
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn Txn)) {
        let mut writing = Writing { heed: self, txn: self.env.write_txn().unwrap() };
        work(&mut writing);
        writing.txn.commit().unwrap();
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Txn)) {
        work(&Reading { heed: self, txn: self.env.read_txn().unwrap() });
    }
}
