//! Hot records that are newer than those in `activity`, in memory: what the journal says, ready to be read.
//!
//! The writer alone changes it, and the journal holds all of it, so an opening makes it anew. A record stays until its
//! rows of the journal are gone, though it was carried to its tree before: code that changes its entry by other ways
//! has to know that the journal speaks of it.

use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;

use super::runs::{AgeOrder, AgeRange, Runs};
use crate::codec::{ActivityRow, Fingerprint, Hot, JournalRecord};
use crate::entry::{Revision, Usage};
use crate::time::Timestamp;

/// One for each value of a fingerprint's first byte, so that the parts lie in the order of the trees.
pub(super) const PARTS: usize = 256;

/// Which half of the journal a record was written in last. There are never more than two.
pub(in crate::storage) type Epoch = u8;

/// The records, found by entry and by time.
#[derive(Debug)]
pub(in crate::storage) struct Memtable {
    parts: Box<[Mutex<HashTable<Record>>]>,
    appended: Mutex<Appended>,
    /// A reader locks it before `appended`, and the writer never waits for it.
    listed: Mutex<Listed>,
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
    /// All of it is known. After an opening that may be the time alone: the rest is in `activity`.
    whole: bool,
}

/// What the journal says of an entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::storage) enum Newest {
    /// Its hot record.
    Hot(Hot),
    /// Its time of activity. The rest is in `activity`.
    Time(Timestamp),
}

impl Newest {
    /// The newest hot record of an entry, of which `activity` has `stored`.
    pub(in crate::storage) fn over(self, stored: Hot) -> Hot {
        match self {
            Self::Hot(hot) => hot,
            Self::Time(updated_at) => Hot { updated_at, ..stored },
        }
    }

    /// What the journal writes of it.
    pub(in crate::storage) fn record(self, entry: Fingerprint) -> JournalRecord {
        match self {
            Self::Hot(hot) => JournalRecord::Set(entry, hot),
            Self::Time(time) => JournalRecord::Touch(entry, time),
        }
    }

    pub(in crate::storage) fn updated_at(&self) -> Timestamp {
        match self {
            Self::Hot(hot) => hot.updated_at,
            Self::Time(time) => *time,
        }
    }
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
    fn row(&self) -> ActivityRow {
        ActivityRow { time: self.updated_at, entry: self.entry }
    }

    /// It is to be carried while `epoch` grows.
    fn is_due(&self, epoch: Epoch) -> bool {
        self.epoch != epoch && !self.carried
    }

    fn newest(&self) -> Newest {
        if !self.whole {
            return Newest::Time(self.updated_at);
        }
        let Rest { last_interaction, usage } = self.rest.as_deref().copied().unwrap_or(Rest::NONE);
        Newest::Hot(Hot {
            updated_at: self.updated_at,
            flags: self.flags,
            revision: self.revision,
            last_interaction,
            usage,
        })
    }
}

/// The rows of the index by age that the records stand for, as the writer appends them: a touch costs no more than that.
/// Rows of records that have moved on stay until all are listed anew: what the record says counts.
#[derive(Debug, Default)]
struct Appended {
    rows: Vec<ActivityRow>,
    /// Nobody read for so long that rows were dropped, up to this time.
    dropped: Option<Timestamp>,
}

impl Appended {
    /// Drops all but those that were appended last, with which a list of the newest begins.
    fn drop_oldest(&mut self) {
        let dropped = self.rows.drain(..self.rows.len().saturating_sub(KEPT_ROWS));
        self.dropped = self.dropped.max(dropped.map(|row| row.time).max());
    }
}

/// The same once a reader has sorted them.
#[derive(Debug, Default)]
struct Listed {
    runs: Runs,
    /// Rows up to this time may be missing. All that are later are there.
    gap: Option<Timestamp>,
}

impl Listed {
    fn drop_all(&mut self) {
        let newest = self.runs.iter(&(Bound::Unbounded, Bound::Unbounded), AgeOrder::NewestFirst).next();
        *self = Self { runs: Runs::default(), gap: self.gap.max(newest.map(|row| row.time)) };
    }

    /// Whether a row of the range may be missing before the last of these, or behind it where there are fewer than `limit`.
    fn may_lack(&self, range: &AgeRange, order: AgeOrder, rows: &[ActivityRow], limit: usize) -> bool {
        let Some(gap) = self.gap else { return false };
        let is_later = |row: &ActivityRow| row.time > gap;
        let begins_later = match &range.0 {
            Bound::Included(row) | Bound::Excluded(row) => is_later(row),
            Bound::Unbounded => false,
        };
        let are_later = order == AgeOrder::NewestFirst && rows.len() == limit && rows.last().is_none_or(is_later);
        !begins_later && !are_later
    }
}

/// How many rows may wait for a reader, if that is more than a quarter of the records.
const MAX_UNREAD_ROWS: usize = 4096;
/// How many of them stay when they were too many.
const KEPT_ROWS: usize = 1024;
/// Sorted rows that are out of date, beyond twice as many as there are records, before all are looked up.
const MAX_STALE_ROWS: usize = 4096;

impl Memtable {
    pub(in crate::storage) fn new() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            appended: Mutex::default(),
            listed: Mutex::default(),
            len: AtomicUsize::new(0),
        }
    }

    pub(in crate::storage) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub(in crate::storage) fn get(&self, entry: Fingerprint) -> Option<Newest> {
        self.find(entry, Record::newest)
    }

    /// Whether all but the time of an entry is kept without the half of the journal that is not `epoch`: then a touch need
    /// not say it again.
    pub(in crate::storage) fn keeps_rest(&self, entry: Fingerprint, epoch: Epoch) -> bool {
        self.find(entry, |record| record.epoch == epoch || record.carried || !record.whole).unwrap_or(true)
    }

    pub(in crate::storage) fn contains(&self, entry: Fingerprint) -> bool {
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

    /// Sets records. Their rows come first, so that a reader finds an entry by its old row or by its new one.
    pub(in crate::storage) fn set(&self, records: &[(Fingerprint, Newest)], epoch: Epoch) {
        self.append(records.iter().map(|(entry, newest)| ActivityRow { time: newest.updated_at(), entry: *entry }));
        for (entry, newest) in records {
            self.set_in(&mut self.part(entry.part_and_hash().0).lock(), *entry, newest, epoch);
        }
    }

    fn set_in(&self, part: &mut HashTable<Record>, entry: Fingerprint, newest: &Newest, epoch: Epoch) {
        let (_, hash) = entry.part_and_hash();
        let found = part.find_mut(hash, |record| record.entry == entry);
        let new = match (newest, found) {
            (Newest::Time(time), Some(record)) => {
                (record.updated_at, record.epoch, record.carried) = (*time, epoch, false);
                return;
            }
            (Newest::Time(time), None) => {
                let revision = Revision::NONE;
                Record { entry, updated_at: *time, revision, rest: None, flags: 0, epoch, carried: false, whole: false }
            }
            (Newest::Hot(hot), found) => {
                let &Hot { updated_at, flags, revision, last_interaction, usage } = hot;
                let rest = Rest { last_interaction, usage };
                let rest = (rest != Rest::NONE).then(|| Box::new(rest));
                let new = Record { entry, updated_at, revision, rest, flags, epoch, carried: false, whole: true };
                if let Some(record) = found {
                    *record = new;
                    return;
                }
                new
            }
        };
        part.insert_unique(hash, new, |record| record.entry.part_and_hash().1);
        self.len.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes over what the journal says of entries of one part, in its order; `None` where the trees know better.
    pub(super) fn replay(&self, part: u8, said: impl Iterator<Item = (Fingerprint, Option<Newest>)>, epoch: Epoch) {
        let mut part = self.part(part).lock();
        for (entry, newest) in said {
            match newest {
                Some(newest) => self.set_in(&mut part, entry, &newest, epoch),
                None => self.forget_in(&mut part, entry),
            }
        }
        let has_records = !part.is_empty();
        drop(part);
        if has_records {
            // There is no row of these.
            self.appended.lock().dropped = Some(Timestamp::MAX);
        }
    }

    /// Drops a record, if there is one.
    pub(in crate::storage) fn forget(&self, entry: Fingerprint) {
        self.forget_in(&mut self.part(entry.part_and_hash().0).lock(), entry);
    }

    fn forget_in(&self, part: &mut HashTable<Record>, entry: Fingerprint) {
        let (_, hash) = entry.part_and_hash();
        if let Ok(found) = part.find_entry(hash, |record| record.entry == entry) {
            found.remove();
            self.len.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Drops most of what waits for a reader if that is much: whoever reads now and then finds little to sort, and where
    /// nobody reads the rows take no room. The records of all rows that are dropped are set.
    fn append(&self, rows: impl Iterator<Item = ActivityRow>) {
        let mut appended = self.appended.lock();
        if appended.rows.len() >= MAX_UNREAD_ROWS.max(self.len() / 4) {
            appended.drop_oldest();
            if let Some(mut listed) = self.listed.try_lock() {
                listed.drop_all();
            }
        }
        appended.rows.extend(rows);
    }

    /// Whether a row of the tree is of an entry that has another time by now.
    pub(in crate::storage) fn has_moved(&self, row: &ActivityRow) -> bool {
        self.find(row.entry, |record| record.updated_at != row.time).unwrap_or(false)
    }

    /// Up to `limit` rows of the range, from one of its ends. Where rows were dropped that may be among them, all records are
    /// listed: the newest ones are there without that.
    pub(in crate::storage) fn rows(&self, range: &AgeRange, order: AgeOrder, limit: usize) -> Vec<ActivityRow> {
        let mut listed = self.listed.lock();
        if self.len() == 0 {
            listed.drop_all();
            return Vec::new();
        }
        // Sorted, looked up and listed while the writer goes on.
        let Appended { rows: new, dropped } = std::mem::take(&mut *self.appended.lock());
        listed.gap = listed.gap.max(dropped);
        listed.runs.add(new);
        if listed.runs.len() > 2 * self.len() + MAX_STALE_ROWS {
            listed.runs.retain(|row| self.is_current(row));
        }
        let rows = self.current(&listed.runs, range, order, limit);
        if !listed.may_lack(range, order, &rows, limit) {
            return rows;
        }
        listed
            .runs
            .add(self.parts.iter().flat_map(|part| part.lock().iter().map(Record::row).collect::<Vec<_>>()).collect());
        listed.gap = None;
        self.current(&listed.runs, range, order, limit)
    }

    /// The rows that are those of their records.
    fn current(&self, runs: &Runs, range: &AgeRange, order: AgeOrder, limit: usize) -> Vec<ActivityRow> {
        // An entry that was touched twice at one time is in two runs.
        let mut last = None;
        let rows = runs.iter(range, order).filter(|row| last.replace(*row) != Some(*row));
        rows.filter(|row| self.is_current(row)).take(limit).collect()
    }

    fn is_current(&self, row: &ActivityRow) -> bool {
        self.find(row.entry, |record| record.updated_at == row.time).unwrap_or(false)
    }

    /// The entries, listed a part at a time.
    pub(in crate::storage) fn entries(&self) -> impl Iterator<Item = Fingerprint> {
        let of_part =
            |part: &Mutex<HashTable<Record>>| part.lock().iter().map(|record| record.entry).collect::<Vec<_>>();
        self.parts.iter().flat_map(of_part)
    }

    /// Adds the rows of one part's records that were written before `epoch` and not carried yet. Answers how many records
    /// it has.
    pub(in crate::storage) fn list_due(&self, part: u8, epoch: Epoch, rows: &mut Vec<ActivityRow>) -> usize {
        let part = self.part(part).lock();
        rows.extend(part.iter().filter(|record| record.is_due(epoch)).map(Record::row));
        part.len()
    }

    /// The record of an entry, if it is still due.
    pub(in crate::storage) fn due(&self, entry: Fingerprint, epoch: Epoch) -> Option<(Fingerprint, Newest)> {
        self.find(entry, |record| record.is_due(epoch).then(|| (entry, record.newest()))).flatten()
    }

    /// The records that are not carried yet, likewise.
    pub(in crate::storage) fn not_carried(&self) -> impl Iterator<Item = (Fingerprint, Newest)> {
        self.parts.iter().flat_map(|part| {
            let part = part.lock();
            let records = part.iter().filter(|record| !record.carried);
            records.map(|record| (record.entry, record.newest())).collect::<Vec<_>>()
        })
    }

    /// Notes that these records, as they are, are in their trees.
    pub(in crate::storage) fn set_carried(&self, records: &[(Fingerprint, Newest)]) {
        for (entry, _) in records {
            let (part, hash) = entry.part_and_hash();
            if let Some(record) = self.part(part).lock().find_mut(hash, |record| record.entry == *entry) {
                record.carried = true;
            }
        }
    }

    /// Drops what was carried and not written again since.
    pub(in crate::storage) fn drop_carried(&self) {
        for part in &self.parts {
            let mut part = part.lock();
            let before = part.len();
            part.retain(|record| !record.carried);
            self.len.fetch_sub(before - part.len(), Ordering::AcqRel);
            let room = 2 * part.len();
            part.shrink_to(room, |record| record.entry.part_and_hash().1);
        }
        self.appended.lock().drop_oldest();
    }
}

#[cfg(test)]
mod tests;
