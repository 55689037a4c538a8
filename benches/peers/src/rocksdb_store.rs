//! RocksDB, tuned as its guide says for a store of this size: a column family for each tree, bloom filters, one cache of
//! 256 MiB, and for each group one batch, in key order, that is synced with the log. A batch for each touch and one sync
//! of the log for the group cost half as much processor time again.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DataBlockIndexType, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use crate::group::Queue;
use crate::kv::{Engine, Tree, Txn};

const TREES: [&str; 3] = ["hot", "cold", "index"];

pub struct Rocksdb {
    db: DB,
    writers: Queue,
}

impl Rocksdb {
    pub fn open(dir: &Path) -> Self {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.increase_parallelism(2);
        options.set_bytes_per_sync(1 << 20);
        // The cold tree hardly changes, and would hold the log back: by default up to 2 GiB of it.
        options.set_max_total_wal_size(128 << 20);
        let cache = Cache::new_lru_cache(256 << 20);
        let families = TREES.map(|name| ColumnFamilyDescriptor::new(name, family(&cache)));
        let db = DB::open_cf_descriptors(&options, dir.join("sessions.rocksdb"), families).unwrap();
        Self { db, writers: Queue::default() }
    }

    fn family(&self, tree: Tree) -> &ColumnFamily {
        self.db.cf_handle(TREES[tree as usize]).unwrap()
    }

    fn get(&self, options: &ReadOptions, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        self.db.get_pinned_cf_opt(self.family(tree), key, options).unwrap().map(|value| value.to_vec())
    }
}

fn family(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(64 << 20);
    options.set_max_write_buffer_number(3);
    options
}

impl Drop for Rocksdb {
    /// A clean close leaves nothing in the log for the next opening to read.
    fn drop(&mut self) {
        for tree in [Tree::Hot, Tree::Cold, Tree::Index] {
            self.db.flush_cf(self.family(tree)).unwrap();
        }
    }
}

struct Writing<'a> {
    rocksdb: &'a Rocksdb,
    reads: ReadOptions,
    /// What the group has changed so far, by tree: a key touched twice is written once, as in a transaction of LMDB.
    changes: [HashMap<Vec<u8>, Option<Vec<u8>>>; 3],
}

struct Reading<'a> {
    rocksdb: &'a Rocksdb,
    reads: ReadOptions,
}

impl Txn for Writing<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        match self.changes[tree as usize].get(key) {
            Some(changed) => changed.clone(),
            None => self.rocksdb.get(&self.reads, tree, key),
        }
    }
    fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        self.changes[tree as usize].insert(key.to_vec(), Some(value.to_vec()));
    }
    fn remove(&mut self, tree: Tree, key: &[u8]) {
        self.changes[tree as usize].insert(key.to_vec(), None);
    }
    fn scan(&self, _: Range<&[u8]>, _: bool, _: usize) -> Vec<Vec<u8>> {
        unreachable!("no writer scans")
    }
    fn step(&mut self) {}
}

impl Txn for Reading<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        self.rocksdb.get(&self.reads, tree, key)
    }
    fn put(&mut self, _: Tree, _: &[u8], _: &[u8]) {
        unreachable!()
    }
    fn remove(&mut self, _: Tree, _: &[u8]) {
        unreachable!()
    }
    fn scan(&self, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>> {
        let mut bounded = ReadOptions::default();
        bounded.set_iterate_lower_bound(range.start);
        bounded.set_iterate_upper_bound(range.end);
        let mut rows = self.rocksdb.db.raw_iterator_cf_opt(self.rocksdb.family(Tree::Index), bounded);
        let mut keys = Vec::new();
        if newest_first {
            rows.seek_to_last();
        } else {
            rows.seek_to_first();
        }
        while keys.len() < limit
            && let Some(key) = rows.key()
        {
            keys.push(key.to_vec());
            if newest_first {
                rows.prev();
            } else {
                rows.next();
            }
        }
        rows.status().unwrap();
        keys
    }
    fn step(&mut self) {}
}

impl Engine for Rocksdb {
    fn name(&self) -> &'static str {
        "rocksdb"
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn Txn)) {
        // A writer reads before it writes, so another must not write in between.
        let _turn = self.writers.enter();
        let mut writing = Writing { rocksdb: self, reads: ReadOptions::default(), changes: Default::default() };
        work(&mut writing);
        let mut batch = WriteBatch::default();
        for (tree, changes) in [Tree::Hot, Tree::Cold, Tree::Index].into_iter().zip(&writing.changes) {
            let family = self.family(tree);
            // In key order each insertion into the memory table begins where the one before ended.
            let mut changes: Vec<_> = changes.iter().collect();
            changes.sort_unstable();
            for (key, value) in changes {
                match value {
                    Some(value) => batch.put_cf(family, key, value),
                    None => batch.delete_cf(family, key),
                }
            }
        }
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        synced.set_memtable_insert_hint_per_batch(true);
        self.db.write_opt(batch, &synced).unwrap();
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Txn)) {
        work(&Reading { rocksdb: self, reads: ReadOptions::default() });
    }
}
