//! Hot records that are newer than those in `activity`, in memory: what the journal says, ready to be read.
//!
//! The writer alone changes it, and the journal holds all of it, so an opening makes it anew. A record stays until its
//! rows of the journal are gone, though it was carried to its tree before: code that changes its entry by other ways
//! has to know that the journal speaks of it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::codec::{ActivityRow, Bucket, Fingerprint, Hot};
use crate::entry::{Revision, Usage};
use crate::time::Timestamp;

/// One for each value of a fingerprint's first byte, so that the parts lie in the order of the trees.
const PARTS: usize = 256;

/// Which half of the journal a record was written in last. There are never more than two.
pub(super) type Epoch = u8;

/// The records, found by entry and by bucket.
#[derive(Debug)]
pub(super) struct Memtable {
    parts: Box<[Mutex<HashTable<Record>>]>,
    buckets: Mutex<Buckets>,
    len: AtomicUsize,
}

/// A hot record, small: there may be a million of them.
#[derive(Debug)]
struct Record {
    entry: Fingerprint,
    updated_at: Timestamp,
    revision: Revision,
    /// `None` while there is nothing to say.
    rest: Option<Box<Rest>>,
    flags: u8,
    epoch: Epoch,
    carried: bool,
}

/// What most hot records do without.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rest {
    last_interaction: Option<Timestamp>,
    usage: Usage,
}

impl Rest {
    const NONE: Self = Self { last_interaction: None, usage: Usage::ZERO };
}

impl Record {
    fn hot(&self) -> Hot {
        let Rest { last_interaction, usage } = self.rest.as_deref().copied().unwrap_or(Rest::NONE);
        Hot { updated_at: self.updated_at, flags: self.flags, revision: self.revision, last_interaction, usage }
    }
}

/// A portion of what is to be carried.
#[derive(Debug)]
pub(super) struct Portion {
    /// In the order of the trees.
    pub(super) records: Vec<(Fingerprint, Hot)>,
    /// Whether nothing of its part is left.
    pub(super) is_all: bool,
    /// Records that were looked at.
    pub(super) walked: usize,
}

/// The entries of each bucket. Those that have moved on stay in their list until it is made anew: what the record says
/// counts.
#[derive(Debug, Default)]
struct Buckets {
    lists: BTreeMap<Bucket, List>,
    /// Items in all lists.
    items: usize,
}

#[derive(Debug, Default)]
struct List {
    entries: Vec<Fingerprint>,
    is_sorted: bool,
}

impl List {
    /// Without repetitions, in the order of the trees.
    fn sorted(&mut self) -> &[Fingerprint] {
        if !std::mem::replace(&mut self.is_sorted, true) {
            // Commits append their entries in order, so this is a merge of runs.
            self.entries.sort();
            self.entries.dedup();
        }
        &self.entries
    }
}

/// Items that are out of date, beyond as many as there are records, before the lists are made anew.
const MAX_STALE_ITEMS: usize = 4096;

impl Memtable {
    pub(super) fn new() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            buckets: Mutex::default(),
            len: AtomicUsize::new(0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn get(&self, entry: Fingerprint) -> Option<Hot> {
        self.find(entry, Record::hot)
    }

    pub(super) fn contains(&self, entry: Fingerprint) -> bool {
        self.find(entry, |_| ()).is_some()
    }

    fn find<T>(&self, entry: Fingerprint, answer: impl FnOnce(&Record) -> T) -> Option<T> {
        if self.len() == 0 {
            return None;
        }
        let (part, hash) = entry.part_and_hash();
        self.part(part).lock().find(hash, |record| record.entry == entry).map(answer)
    }

    fn part(&self, part: u8) -> &Mutex<HashTable<Record>> {
        #[expect(clippy::indexing_slicing, reason = "there is a part for each byte")]
        &self.parts[usize::from(part)]
    }

    pub(super) fn set(&self, entry: Fingerprint, hot: &Hot, epoch: Epoch) {
        let bucket = Bucket::of(hot.updated_at);
        let is_listed = self.find(entry, |record| Bucket::of(record.updated_at) == bucket).unwrap_or(false);
        if !is_listed {
            // First, so that a reader of the list of either bucket finds the entry in one of them.
            self.list(bucket, entry);
        }
        let &Hot { updated_at, flags, revision, last_interaction, usage } = hot;
        let rest = Rest { last_interaction, usage };
        let rest = (rest != Rest::NONE).then(|| Box::new(rest));
        let new = Record { entry, updated_at, revision, rest, flags, epoch, carried: false };
        let (part, hash) = entry.part_and_hash();
        let mut part = self.part(part).lock();
        if let Some(record) = part.find_mut(hash, |record| record.entry == entry) {
            *record = new;
        } else {
            part.insert_unique(hash, new, |record| record.entry.part_and_hash().1);
            self.len.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Drops a record, if there is one.
    pub(super) fn forget(&self, entry: Fingerprint) {
        let (part, hash) = entry.part_and_hash();
        let mut part = self.part(part).lock();
        if let Ok(found) = part.find_entry(hash, |record| record.entry == entry) {
            found.remove();
            self.len.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn list(&self, bucket: Bucket, entry: Fingerprint) {
        let mut buckets = self.buckets.lock();
        if buckets.items > 2 * self.len() + MAX_STALE_ITEMS {
            self.make_lists(&mut buckets);
        }
        let list = buckets.lists.entry(bucket).or_default();
        list.entries.push(entry);
        list.is_sorted = false;
        buckets.items += 1;
    }

    fn make_lists(&self, buckets: &mut Buckets) {
        *buckets = Buckets::default();
        for part in &self.parts {
            for record in part.lock().iter() {
                buckets.lists.entry(Bucket::of(record.updated_at)).or_default().entries.push(record.entry);
                buckets.items += 1;
            }
        }
    }

    fn is_in(&self, row: &ActivityRow) -> bool {
        self.find(row.entry, |record| Bucket::of(record.updated_at) == row.bucket).unwrap_or(false)
    }

    /// Whether a row of the tree is of an entry that has another bucket by now.
    pub(super) fn has_moved(&self, row: &ActivityRow) -> bool {
        self.find(row.entry, |record| Bucket::of(record.updated_at) != row.bucket).unwrap_or(false)
    }

    /// Up to `limit` rows after `after`, in the order of the index, not later than `last`.
    pub(super) fn rows(&self, after: Option<&ActivityRow>, last: Bucket, limit: usize) -> Vec<ActivityRow> {
        let mut rows = Vec::new();
        let mut after = after.copied();
        while rows.len() < limit {
            let items = self.items(after.as_ref(), last, limit);
            let Some(end) = items.last().copied() else { break };
            // Looked up with no lock on the lists, for which the writer would wait.
            rows.extend(items.into_iter().filter(|row| self.is_in(row)).take(limit - rows.len()));
            after = Some(end);
        }
        rows
    }

    /// Up to `limit` items of the lists after `after`, whether they are out of date or not.
    fn items(&self, after: Option<&ActivityRow>, last: Bucket, limit: usize) -> Vec<ActivityRow> {
        let mut items = Vec::new();
        if after.is_some_and(|row| row.bucket > last) {
            return items;
        }
        let from = after.map_or(Bound::Unbounded, |row| Bound::Included(row.bucket));
        for (&bucket, list) in self.buckets.lock().lists.range_mut((from, Bound::Included(last))) {
            let entries = list.sorted();
            let start = match after {
                Some(row) if row.bucket == bucket => entries.partition_point(|entry| *entry <= row.entry),
                _ => 0,
            };
            let more = entries.iter().skip(start).take(limit - items.len());
            items.extend(more.map(|&entry| ActivityRow { bucket, entry }));
            if items.len() >= limit {
                break;
            }
        }
        items
    }

    /// The newest bucket, not later than `last`, that may have entries.
    pub(super) fn newest_bucket(&self, last: Option<Bucket>) -> Option<Bucket> {
        let buckets = self.buckets.lock();
        let end = last.map_or(Bound::Unbounded, Bound::Included);
        buckets.lists.range((Bound::Unbounded, end)).next_back().map(|(bucket, _)| *bucket)
    }

    /// The entries of one part.
    pub(super) fn entries_of_part(&self, part: u8) -> Vec<Fingerprint> {
        self.part(part).lock().iter().map(|record| record.entry).collect()
    }

    /// Up to `limit` records of one part that were written before `epoch` and not carried yet.
    pub(super) fn to_carry(&self, part: u8, epoch: Epoch, limit: usize) -> Portion {
        let part = self.part(part).lock();
        let due = part.iter().filter(|record| record.epoch != epoch && !record.carried);
        let mut records: Vec<_> = due.map(|record| (record.entry, record.hot())).collect();
        let walked = part.len();
        drop(part);
        records.sort_unstable_by_key(|(entry, _)| *entry);
        let is_all = records.len() <= limit;
        records.truncate(limit);
        Portion { records, is_all, walked }
    }

    /// Notes that these records, as they are, are in their trees.
    pub(super) fn set_carried(&self, records: &[(Fingerprint, Hot)]) {
        for (entry, _) in records {
            let (part, hash) = entry.part_and_hash();
            if let Some(record) = self.part(part).lock().find_mut(hash, |record| record.entry == *entry) {
                record.carried = true;
            }
        }
    }

    /// Drops what was carried and not written again since.
    pub(super) fn drop_carried(&self) {
        for part in &self.parts {
            let mut part = part.lock();
            let before = part.len();
            part.retain(|record| !record.carried);
            self.len.fetch_sub(before - part.len(), Ordering::AcqRel);
            let room = 2 * part.len();
            part.shrink_to(room, |record| record.entry.part_and_hash().1);
        }
        self.make_lists(&mut self.buckets.lock());
    }
}
