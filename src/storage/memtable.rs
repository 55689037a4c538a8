//! Hot records that are newer than those in `activity`, in memory: what the journal says, ready to be read.
//!
//! The writer alone changes it, and the journal holds all of it, so an opening makes it anew. A record stays until its
//! rows of the journal are gone, though it was carried to its tree before: code that changes its entry by other ways
//! has to know that the journal speaks of it.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::codec::{ActivityRow, Fingerprint, Hot};
use crate::entry::{Revision, Usage};
use crate::time::Timestamp;

/// One for each value of a fingerprint's first byte, so that the parts lie in the order of the trees.
const PARTS: usize = 256;

/// Which half of the journal a record was written in last. There are never more than two.
pub(super) type Epoch = u8;

/// The records, found by entry and by time.
#[derive(Debug)]
pub(super) struct Memtable {
    parts: Box<[Mutex<HashTable<Record>>]>,
    lists: Mutex<Lists>,
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

/// Which end of the index by age comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgeOrder {
    OldestFirst,
    NewestFirst,
}

/// Rows of the index by age, from one to another.
pub(super) type AgeRange = (Bound<ActivityRow>, Bound<ActivityRow>);

/// The time of a list: about the sixtieth part of a second. What one commit touches goes to a list or two, and a list is
/// sorted each time that it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Grain(i64);

impl Grain {
    const MICROS_SHIFT: u32 = 14;

    fn of(time: Timestamp) -> Self {
        Self(time.as_micros() >> Self::MICROS_SHIFT)
    }
}

/// The entries of each grain. Those that have moved on stay in their list until it is made anew: what the record says
/// counts.
#[derive(Debug, Default)]
struct Lists {
    by_grain: BTreeMap<Grain, Vec<Fingerprint>>,
    /// Items in all lists.
    items: usize,
}

/// Items that are out of date, beyond as many as there are records, before the lists are made anew.
const MAX_STALE_ITEMS: usize = 4096;

impl Memtable {
    pub(super) fn new() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            lists: Mutex::default(),
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
        let grain = Grain::of(hot.updated_at);
        let is_listed = self.find(entry, |record| Grain::of(record.updated_at) == grain).unwrap_or(false);
        if !is_listed {
            // First, so that whoever reads the list of either grain finds the entry in one of them.
            self.list(grain, entry);
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

    fn list(&self, grain: Grain, entry: Fingerprint) {
        let mut lists = self.lists.lock();
        if lists.items > 2 * self.len() + MAX_STALE_ITEMS {
            self.make_lists(&mut lists);
        }
        lists.by_grain.entry(grain).or_default().push(entry);
        lists.items += 1;
    }

    fn make_lists(&self, lists: &mut Lists) {
        *lists = Lists::default();
        for part in &self.parts {
            for record in part.lock().iter() {
                lists.by_grain.entry(Grain::of(record.updated_at)).or_default().push(record.entry);
                lists.items += 1;
            }
        }
    }

    /// Whether a row of the tree is of an entry that has another time by now.
    pub(super) fn has_moved(&self, row: &ActivityRow) -> bool {
        self.find(row.entry, |record| record.updated_at != row.time).unwrap_or(false)
    }

    /// Up to `limit` rows of the range, from its first end.
    pub(super) fn rows(&self, range: &AgeRange, order: AgeOrder, limit: usize) -> Vec<ActivityRow> {
        let mut rows: Vec<ActivityRow> = Vec::new();
        let (mut from, mut to) = (grain(&range.0), grain(&range.1));
        while rows.len() < limit {
            let Some((grain, entries)) = self.next_list((from, to), order) else { break };
            // Looked up with no lock on the lists, for which the writer would wait.
            let start = rows.len();
            rows.extend(entries.into_iter().filter_map(|entry| {
                let time = self.find(entry, |record| record.updated_at).filter(|time| Grain::of(*time) == grain)?;
                Some(ActivityRow { time, entry }).filter(|row| range.contains(row))
            }));
            let new = rows.get_mut(start..).unwrap_or_default();
            match order {
                AgeOrder::OldestFirst => {
                    new.sort_unstable();
                    from = Bound::Excluded(grain);
                }
                AgeOrder::NewestFirst => {
                    new.sort_unstable_by(|a, b| b.cmp(a));
                    to = Bound::Excluded(grain);
                }
            }
            // An entry that went to and fro is in a list twice.
            rows.dedup();
        }
        rows.truncate(limit);
        rows
    }

    /// The first list of a range that is not empty.
    fn next_list(
        &self,
        (from, to): (Bound<Grain>, Bound<Grain>),
        order: AgeOrder,
    ) -> Option<(Grain, Vec<Fingerprint>)> {
        if is_empty(&from, &to) {
            return None;
        }
        let lists = self.lists.lock();
        let mut range = lists.by_grain.range((from, to));
        let list = match order {
            AgeOrder::OldestFirst => range.next(),
            AgeOrder::NewestFirst => range.next_back(),
        };
        list.map(|(grain, entries)| (*grain, entries.clone()))
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
        self.make_lists(&mut self.lists.lock());
    }
}

/// The grains of a bound of rows. That of the row itself is always among them.
fn grain(bound: &Bound<ActivityRow>) -> Bound<Grain> {
    match bound {
        Bound::Included(row) | Bound::Excluded(row) => Bound::Included(Grain::of(row.time)),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// Whether no grain can lie between. A map panics at such a range.
fn is_empty(from: &Bound<Grain>, to: &Bound<Grain>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
    }
}
