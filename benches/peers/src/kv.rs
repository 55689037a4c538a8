//! One contender for every ordered key-value engine.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::group::Group;
use crate::layout;
use crate::support::contender::{COMMIT_INTERVAL, Contender, Fields};
use crate::support::people::record;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    Hot,
    Cold,
    Index,
}

/// A transaction. Reads see its own writes.
pub trait Txn {
    fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>>;
    fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]);
    fn remove(&mut self, tree: Tree, key: &[u8]);
    /// Keys of the index, at most `limit`, from one end of `range`.
    fn scan(&self, range: Range<&[u8]>, newest_first: bool, limit: usize) -> Vec<Vec<u8>>;
    /// The changes of one entry are complete.
    fn step(&mut self);
}

pub trait Engine: Sync {
    fn name(&self) -> &'static str;
    /// Durable on return.
    fn write(&self, work: &mut dyn FnMut(&mut dyn Txn));
    fn read(&self, work: &mut dyn FnMut(&dyn Txn));
}

pub struct Kv<E> {
    pub engine: E,
    pub keys: Arc<Vec<String>>,
    pub group: Group,
}

impl<E: Engine> Kv<E> {
    pub fn new(engine: E, keys: Arc<Vec<String>>) -> Self {
        Self { engine, keys, group: Group::default() }
    }

    fn touch(&self, txn: &mut dyn Txn, touch: (usize, i64)) {
        self.change(txn, touch, None);
    }

    fn change(&self, txn: &mut dyn Txn, (entry, now): (usize, i64), fields: Option<Fields>) {
        let key = self.keys[entry].as_bytes();
        let hot = txn.get(Tree::Hot, key).unwrap();
        let before = layout::updated_at(&hot);
        let now = now.max(before);
        let mut hot = layout::touched(&hot, now);
        if let Some(fields) = fields {
            layout::counted(&mut hot, 7, (fields == Fields::Counters).then_some(now));
        }
        txn.put(Tree::Hot, key, &hot);
        if fields == Some(Fields::Details) {
            let cold = layout::renamed(&txn.get(Tree::Cold, key).unwrap(), format!("shown {now}"));
            txn.put(Tree::Cold, key, &cold);
        }
        if layout::bucket(before) != layout::bucket(now) {
            txn.remove(Tree::Index, &layout::index_row(before, key));
            txn.put(Tree::Index, &layout::index_row(now, key), &[]);
        }
        txn.step();
    }

    /// Transactions as long as Cloakroom's commits.
    fn in_groups(&self, stream: &mut dyn Iterator<Item = (usize, i64)>, fields: Option<Fields>) {
        let mut ended = false;
        while !ended {
            self.engine.write(&mut |txn| {
                let started = Instant::now();
                while started.elapsed() < COMMIT_INTERVAL {
                    for _ in 0..16 {
                        match stream.next() {
                            Some(touch) => self.change(txn, touch, fields),
                            None => {
                                ended = true;
                                return;
                            }
                        }
                    }
                }
            });
            // Lets another writer in.
            thread::yield_now();
        }
    }
}

impl<E: Engine> Contender for Kv<E> {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn create(&self, entries: Range<usize>, at: &dyn Fn(usize) -> i64) {
        let all: Vec<usize> = entries.collect();
        for some in all.chunks(10_000) {
            self.engine.write(&mut |txn| {
                for entry in some {
                    let (key, now) = (self.keys[*entry].as_bytes(), at(*entry));
                    txn.put(Tree::Hot, key, &layout::hot(now));
                    txn.put(Tree::Cold, key, &layout::cold(&record(*entry, self.keys.len(), now)));
                    txn.put(Tree::Index, &layout::index_row(now, key), &[]);
                    txn.step();
                }
            });
        }
    }

    fn touches(&self, stream: &mut dyn Iterator<Item = (usize, i64)>) {
        self.in_groups(stream, None);
    }

    fn modifies(&self, fields: Fields, stream: &mut dyn Iterator<Item = (usize, i64)>) -> bool {
        self.in_groups(stream, Some(fields));
        true
    }

    fn touch_durable(&self, entry: usize, now: i64) {
        self.group.run((entry, now), |group| {
            self.engine.write(&mut |txn| group.iter().for_each(|touch| self.touch(txn, *touch)));
        });
    }

    fn get(&self, entry: usize) -> Option<i64> {
        let key = self.keys[entry].as_bytes();
        let mut found = None;
        self.engine.read(&mut |txn| {
            if let Some(hot) = txn.get(Tree::Hot, key) {
                black_box(layout::texts(&txn.get(Tree::Cold, key).unwrap()));
                found = Some(layout::updated_at(&hot));
            }
        });
        found
    }

    fn prune(&self, cutoff: i64) -> u64 {
        let mut removed = 0;
        let end = layout::bucket(cutoff + crate::support::stream::MINUTE);
        let mut from = vec![0; 4];
        loop {
            let mut rows = Vec::new();
            self.engine.read(&mut |txn| rows = txn.scan(&from..&end, false, 4096));
            let Some(last) = rows.last() else { return removed };
            from = [last.as_slice(), &[0]].concat();
            let mut expired = Vec::new();
            self.engine.read(&mut |txn| {
                expired = rows
                    .iter()
                    .filter(|row| layout::updated_at(&txn.get(Tree::Hot, &row[4..]).unwrap()) < cutoff)
                    .cloned()
                    .collect();
            });
            if expired.is_empty() {
                continue;
            }
            self.engine.write(&mut |txn| {
                for row in &expired {
                    let key = &row[4..];
                    // A touch since the look wins.
                    let Some(hot) = txn.get(Tree::Hot, key) else { continue };
                    if layout::updated_at(&hot) >= cutoff {
                        continue;
                    }
                    txn.remove(Tree::Hot, key);
                    txn.remove(Tree::Cold, key);
                    txn.remove(Tree::Index, row);
                    txn.step();
                    removed += 1;
                }
            });
        }
    }

    fn recent(&self, limit: usize) -> Vec<i64> {
        let mut times = BTreeSet::new();
        self.engine.read(&mut |txn| {
            let mut end = vec![0xff; 4];
            loop {
                let rows = txn.scan(&[0]..&end, true, limit);
                let Some(last) = rows.last() else { return };
                // Once there are enough, only the rest of the last minute counts.
                let (whole, minute) = (times.len() >= limit, end[..4].to_vec());
                for row in &rows {
                    if whole && row[..4] != minute[..] {
                        return;
                    }
                    times.insert((layout::updated_at(&txn.get(Tree::Hot, &row[4..]).unwrap()), row[4..].to_vec()));
                }
                end = last.clone();
            }
        });
        times.iter().rev().take(limit).map(|(time, _)| *time).collect()
    }

    fn count(&self) -> u64 {
        let mut count = 0;
        self.engine.read(&mut |txn| {
            // LMDB knows no empty key.
            let mut from = vec![0];
            loop {
                let rows = txn.scan(&from..&[0xff; 5], false, 4096);
                let Some(last) = rows.last() else { return };
                count += rows.len() as u64;
                from = [last.as_slice(), &[0]].concat();
            }
        });
        count
    }
}
