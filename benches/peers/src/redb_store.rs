//! redb, with its default durability: every commit is synced.

use std::ops::Range;
use std::path::Path;

use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition};

use crate::kv::{Engine, Tree, Txn};

const HOT: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("hot");
const COLD: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("cold");
const INDEX: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("index");

pub struct Redb(Database);

impl Redb {
    pub fn open(dir: &Path) -> Self {
        let db = Database::builder().set_cache_size(256 << 20).create(dir.join("sessions.redb")).unwrap();
        let this = Self(db);
        this.write(&mut |_| {});
        this
    }
}

struct Writing<'t> {
    trees: [Table<'t, &'static [u8], &'static [u8]>; 3],
}

struct Reading {
    trees: [ReadOnlyTable<&'static [u8], &'static [u8]>; 3],
}

fn get(table: &impl ReadableTable<&'static [u8], &'static [u8]>, key: &[u8]) -> Option<Vec<u8>> {
    table.get(key).unwrap().map(|value| value.value().to_vec())
}

fn scan(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    range: Range<&[u8]>,
    newest_first: bool,
    limit: usize,
) -> Vec<Vec<u8>> {
    let rows = table.range::<&[u8]>(range).unwrap();
    let keys = |row: Result<(redb::AccessGuard<'_, &[u8]>, _), _>| {
        let (key, _): (_, redb::AccessGuard<'_, &[u8]>) = row.unwrap();
        key.value().to_vec()
    };
    if newest_first { rows.rev().take(limit).map(keys).collect() } else { rows.take(limit).map(keys).collect() }
}

impl Txn for Writing<'_> {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        get(&self.trees[tree as usize], key)
    }
    fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        self.trees[tree as usize].insert(key, value).unwrap();
    }
    fn remove(&mut self, tree: Tree, key: &[u8]) {
        assert!(self.trees[tree as usize].remove(key).unwrap().is_some());
    }
    fn scan(&self, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>> {
        scan(&self.trees[Tree::Index as usize], range, newest_first, limit)
    }
    fn step(&mut self) {}
}

impl Txn for Reading {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        get(&self.trees[tree as usize], key)
    }
    fn put(&mut self, _: Tree, _: &[u8], _: &[u8]) {
        unreachable!()
    }
    fn remove(&mut self, _: Tree, _: &[u8]) {
        unreachable!()
    }
    fn scan(&self, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>> {
        scan(&self.trees[Tree::Index as usize], range, newest_first, limit)
    }
    fn step(&mut self) {}
}

impl Engine for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn Txn)) {
        let txn = self.0.begin_write().unwrap();
        {
            let trees = [HOT, COLD, INDEX].map(|tree| txn.open_table(tree).unwrap());
            work(&mut Writing { trees });
        }
        txn.commit().unwrap();
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Txn)) {
        let txn = self.0.begin_read().unwrap();
        work(&Reading { trees: [HOT, COLD, INDEX].map(|tree| txn.open_table(tree).unwrap()) });
    }
}
