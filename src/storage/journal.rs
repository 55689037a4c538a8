//! The journal of hot records: what makes a touch cost the same in a store of any size.
//!
//! A touch changes a hot record and, now and then, its row in the index by age: three writes at three random places of
//! two trees. In a large store each of them misses the processor's caches. So the committer writes the new hot records
//! one after the other into rows of the tree `journal`, and keeps them in the [`Memtable`](super::memtable) for all who
//! read. Later, and in the order of the trees, it *carries* them to `activity` and `by_updated_at`, and removes the
//! rows. The journal has two halves: while one is carried, the other grows. (Log-structured merge trees do this with
//! all their data: O'Neil and others, 1996.)
//!
//! What holds at every moment, and so after a crash:
//!
//! - The trees alone are a sound store, some touches older. The journal makes them complete.
//! - Of two records of one entry the later one counts, and rows are removed from the front. So what is left of the
//!   journal never says less than the trees.
//! - A structural change writes the trees, and then, before its intent goes, a `Forget` for each entry of which the
//!   journal speaks. Opening reads the journal first and then settles the intent, so it ends likewise.
//!
//! A row costs about as much as one touch did, and holds about thirty-four of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::memtable::{Epoch, Portion};
use super::verify::{Led, led};
use super::write::{Writer, encode_error};
use super::{Engine, engine_error};
use crate::codec::{ActivityRow, Bucket, Fingerprint, Hot, JournalRecord, JournalRow};
use crate::config::DEFAULT_JOURNAL_BYTES;
use crate::error::{Error, Result};

/// How many entries the memtable may hold before it is time to carry them: with the two halves, twice as many.
const MAX_ENTRIES: usize = 1 << 20;
/// How long a half may grow. Openings read less, and pruning finds its rows in the tree.
const MAX_AGE: Duration = Duration::from_secs(60);

/// While there is room, so many records are carried, and so often, that nobody notices; and the most at once, for who
/// waits for the next commit.
const SLICE: usize = 1024;
const SLICE_INTERVAL: Duration = Duration::from_millis(100);
const MAX_SLICES: usize = 16;

/// Records that are in their trees already cost a look. So many of them count as one that is written.
const LOOKS_PER_WRITE: usize = 8;
/// Likewise of those that are only passed on the walk through the memtable.
const STEPS_PER_WRITE: usize = 64;

/// Where the journal has come to. It belongs to the [`Writer`].
#[derive(Debug)]
pub(super) struct Journal {
    /// The number of the next row.
    next: u64,
    /// Bytes in the half that grows, and when it began to.
    bytes: u64,
    began: Option<Duration>,
    epoch: Epoch,
    /// The half that is carried.
    carry: Option<Carry>,
    last_slice: Duration,
    limit: u64,
    /// Carry nothing that can wait: there is hardly any space.
    is_held: bool,
    /// Rows that do not read. They stay, for `verify` to tell and a repair to keep.
    unreadable: BTreeSet<u64>,
}

/// How far the half that is carried has come.
#[derive(Debug, Clone, Copy)]
struct Carry {
    /// The next part of the memtable.
    part: usize,
    /// The number of the first row that is not of this half.
    end: u64,
    /// How large it is.
    bytes: u64,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self {
            next: 0,
            bytes: 0,
            began: None,
            epoch: 0,
            carry: None,
            last_slice: Duration::ZERO,
            limit: DEFAULT_JOURNAL_BYTES,
            is_held: false,
            unreadable: BTreeSet::new(),
        }
    }

    fn is_due(&self, now: Duration, entries: usize) -> bool {
        let is_old = self.began.is_some_and(|began| now.saturating_sub(began) >= MAX_AGE);
        self.bytes > 0 && (is_old || self.bytes >= self.limit || entries >= MAX_ENTRIES)
    }

    /// Whether it is time to carry more than nobody notices. After an opening both halves of the last one are carried.
    fn is_pressed(&self, entries: usize) -> bool {
        let both = self.bytes + self.carry.map_or(0, |carry| carry.bytes);
        2 * self.bytes >= self.limit || 2 * both >= 3 * self.limit || entries >= MAX_ENTRIES * 3 / 2
    }

    /// Begins to carry the half that has grown.
    fn swap_halves(&mut self) {
        self.carry = Some(Carry { part: 0, end: self.next, bytes: self.bytes });
        self.epoch = self.epoch.wrapping_add(1);
        (self.bytes, self.began) = (0, None);
    }
}

impl Writer {
    /// How large one half of the journal may grow, in bytes.
    pub(crate) fn set_journal_bytes(&mut self, bytes: u64) {
        self.journal.limit = bytes;
    }

    /// Lets the journal wait for as long as it has room: it does not take the last space of a full disk.
    pub(super) fn hold_journal(&mut self) {
        self.journal.is_held = true;
    }

    /// Writes hot records to the journal.
    pub(super) fn journal_hot(
        &mut self,
        engine: &Engine,
        records: impl Iterator<Item = (Fingerprint, Hot)>,
    ) -> Result<()> {
        let (mut row, mut in_row) = (JournalRow::new(), Vec::new());
        for (entry, hot) in records {
            row.push(&JournalRecord::Set(entry, hot)).map_err(encode_error)?;
            in_row.push((entry, hot));
            if row.is_full() {
                self.append_hot(engine, std::mem::replace(&mut row, JournalRow::new()), &in_row)?;
                in_row.clear();
            }
        }
        self.append_hot(engine, row, &in_row)
    }

    fn append_hot(&mut self, engine: &Engine, row: JournalRow, records: &[(Fingerprint, Hot)]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let number = self.take_number(&row);
        self.insert(engine, &engine.trees.journal, number, row.value())?;
        for (entry, hot) in records {
            engine.memtable.set(*entry, hot, self.journal.epoch);
        }
        Ok(())
    }

    /// Makes the journal forget entries that the trees know better, for who holds the gate.
    pub(super) fn forget_held(&mut self, engine: &Engine, entries: impl Iterator<Item = Fingerprint>) -> Result<()> {
        let known: Vec<_> = entries.filter(|entry| engine.memtable.contains(*entry)).collect();
        let mut row = JournalRow::new();
        for entry in &known {
            row.push(&JournalRecord::Forget(*entry)).map_err(encode_error)?;
            if row.is_full() {
                self.append_held(engine, std::mem::replace(&mut row, JournalRow::new()))?;
            }
        }
        self.append_held(engine, row)?;
        for entry in known {
            engine.memtable.forget(entry);
        }
        Ok(())
    }

    /// Likewise for one entry, for who does not hold the gate.
    pub(super) fn forget(&mut self, engine: &Engine, entry: Fingerprint) -> Result<()> {
        let _gate = engine.gate.lock();
        self.forget_held(engine, std::iter::once(entry))
    }

    fn append_held(&mut self, engine: &Engine, row: JournalRow) -> Result<()> {
        if row.is_empty() {
            return Ok(());
        }
        let number = self.take_number(&row);
        self.insert_held(engine, &engine.trees.journal, &number, row.value())
    }

    fn take_number(&mut self, row: &JournalRow) -> [u8; 8] {
        let number = self.journal.next;
        self.journal.next = number.saturating_add(1);
        self.journal.bytes += row.value().len() as u64;
        JournalRow::key(number)
    }

    /// Carries a little, or as much as it takes for the journal to keep its bound. Call it after each commit, of
    /// `changes`, with the monotonic time.
    pub(crate) fn tend_journal(&mut self, engine: &Engine, now: Duration, changes: usize) -> Result<()> {
        let journal = &mut self.journal;
        if journal.bytes > 0 && journal.began.is_none() {
            journal.began = Some(now);
        }
        if journal.carry.is_none() && journal.is_due(now, engine.memtable.len()) {
            journal.swap_halves();
        }
        let mut count = 0;
        if journal.is_pressed(engine.memtable.len()) {
            // Done about when the other half is full: this one holds at most one record for each change that filled it.
            count = if changes > 0 { (2 * changes).clamp(64, MAX_SLICES * SLICE) } else { 0 };
        }
        let since = now.saturating_sub(journal.last_slice);
        if since >= SLICE_INTERVAL && (count > 0 || !journal.is_held) {
            journal.last_slice = now;
            let slices = since.as_millis() / SLICE_INTERVAL.as_millis();
            count = count.max(SLICE * usize::try_from(slices).unwrap_or(MAX_SLICES).min(MAX_SLICES));
        }
        self.carry(engine, count)
    }

    /// Carries everything, and leaves the journal empty but for what does not read.
    pub(super) fn carry_all(&mut self, engine: &Engine) -> Result<()> {
        self.finish_carrying(engine)?;
        self.journal.swap_halves();
        self.finish_carrying(engine)
    }

    fn finish_carrying(&mut self, engine: &Engine) -> Result<()> {
        while self.journal.carry.is_some() {
            self.carry(engine, SLICE)?;
        }
        Ok(())
    }

    /// Carries about `count` records of the half that is carried, or removes as many of its rows.
    fn carry(&mut self, engine: &Engine, count: usize) -> Result<()> {
        let mut left = count;
        while let Some(carry) = self.journal.carry.filter(|_| left > 0) {
            let done = match u8::try_from(carry.part) {
                Ok(part) => {
                    let Portion { records, is_all, walked } = engine.memtable.to_carry(part, self.journal.epoch, left);
                    let written = self.carry_records(engine, &records)?;
                    engine.memtable.set_carried(&records);
                    self.journal.carry = Some(Carry { part: carry.part + usize::from(is_all), ..carry });
                    written + (records.len() - written) / LOOKS_PER_WRITE + walked / STEPS_PER_WRITE
                }
                Err(_) => {
                    let removed = self.remove_rows(engine, carry.end, left)?;
                    if removed < left {
                        engine.memtable.drop_carried();
                        self.journal.carry = None;
                    }
                    removed
                }
            };
            left = left.saturating_sub(done);
        }
        Ok(())
    }

    /// Writes hot records to their trees, and answers how many were not there. For each entry the new row of the index goes
    /// first, then the record, then the old row: so at every moment it has a row that is not later than its record, and
    /// pruning finds it. Among entries the order is the one that sled takes best.
    fn carry_records(&mut self, engine: &Engine, records: &[(Fingerprint, Hot)]) -> Result<usize> {
        let (mut new, mut hot_records, mut old) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, hot) in records {
            let row = |time| ActivityRow { bucket: Bucket::of(time), entry: *entry };
            let stored = match engine.stored_hot(*entry) {
                Ok(Some(stored)) if stored == *hot => continue,
                Ok(Some(stored)) => Some(row(stored.updated_at)),
                Ok(None) => {
                    // Only damage leaves it: see `forget_doubtful`.
                    tracing::warn!(%entry, "activity of an entry that is not there is dropped");
                    continue;
                }
                // It is about to be written over.
                Err(Error::DamagedRecord { .. }) => None,
                Err(error) => return Err(error),
            };
            let now = row(hot.updated_at);
            if stored != Some(now) {
                new.push(now);
                old.extend(stored);
            }
            hot_records.push((entry, hot.encode().map_err(encode_error)?));
        }
        new.sort_unstable();
        old.sort_unstable();
        for row in new {
            self.insert(engine, &engine.trees.by_updated_at, row.encode(), &[])?;
        }
        for (entry, value) in &hot_records {
            self.insert(engine, &engine.trees.activity, entry.as_bytes(), value)?;
        }
        for row in old {
            self.remove(engine, &engine.trees.by_updated_at, row.encode())?;
        }
        Ok(hot_records.len())
    }

    /// Removes up to `count` rows before `end`, from the front. Answers how many.
    fn remove_rows(&mut self, engine: &Engine, end: u64, count: usize) -> Result<usize> {
        let mut removed = 0;
        for row in engine.trees.journal.range(..JournalRow::key(end)).keys() {
            let row = row.map_err(|e| engine_error("read", e))?;
            if JournalRow::number(&row).is_ok_and(|number| !self.journal.unreadable.contains(&number)) {
                self.remove(engine, &engine.trees.journal, row)?;
                removed += 1;
            }
            if removed == count {
                break;
            }
        }
        Ok(removed)
    }

    /// Reads the journal of the last opening. What it says is carried from now on.
    pub(super) fn replay(&mut self, engine: &Engine) -> Result<()> {
        for row in &engine.trees.journal {
            let (key, value) = row.map_err(|e| engine_error("read", e))?;
            let Ok(number) = JournalRow::number(&key) else { continue };
            self.journal.next = number.saturating_add(1);
            self.journal.bytes += value.len() as u64;
            let records = JournalRow::decode(&value).unwrap_or_else(|error| {
                let error = super::damaged_row("journal", error);
                tracing::error!(error = &error as &dyn std::error::Error, "touches that do not read are passed over");
                self.journal.unreadable.insert(number);
                Vec::new()
            });
            for record in records {
                match record {
                    JournalRecord::Set(entry, hot) => engine.memtable.set(entry, &hot, self.journal.epoch),
                    JournalRecord::Forget(entry) => engine.memtable.forget(entry),
                }
            }
        }
        if !self.journal.unreadable.is_empty() {
            forget_doubtful(engine)?;
        }
        if self.journal.next > 0 {
            self.journal.swap_halves();
        }
        Ok(())
    }
}

/// A row that does not read may have said that the trees know better. So what is not newer than they are goes, and what
/// they do not know.
fn forget_doubtful(engine: &Engine) -> Result<()> {
    for entry in (0..=u8::MAX).flat_map(|part| engine.memtable.entries_of_part(part)) {
        let is_newer = match (engine.memtable.get(entry), engine.stored_hot(entry)) {
            (Some(hot), Ok(Some(stored))) => hot.updated_at > stored.updated_at,
            (_, Ok(_)) => matches!(led(engine, entry)?, Led::Astray),
            (_, Err(Error::DamagedRecord { .. })) => true,
            (_, Err(error)) => return Err(error),
        };
        if !is_newer {
            engine.memtable.forget(entry);
        }
    }
    Ok(())
}
