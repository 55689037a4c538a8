//! The journal of hot records: what makes a touch cost the same in a store of any size.
//!
//! A touch changes a hot record and, now and then, its row in the index by age: three writes at three random places of
//! two trees. In a large store each of them misses the processor's caches. So the committer writes the new hot records
//! one after the other into rows of the tree `journal`, and keeps them in the [`Memtable`](super::memtable) for all
//! readers. Later, and in the order of the trees, it *carries* them to `activity` and `by_updated_at`, and removes the
//! rows (`carry.rs`). The journal has two halves: while one is carried, the other grows. (Log-structured merge trees do this with
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

use super::memtable::Epoch;
use super::verify::{Led, led};
use super::write::{Writer, encode_error};
use super::{Engine, engine_error};
use crate::codec::{Fingerprint, Hot, JournalRecord, JournalRow};
use crate::config::DEFAULT_JOURNAL_BYTES;
use crate::error::Result;
use crate::unreadable::if_readable;

/// Where the journal has come to. It belongs to the [`Writer`].
#[derive(Debug)]
pub(super) struct Journal {
    /// The number of the next row.
    pub(super) next: u64,
    /// Bytes in the half that grows, and when it began to.
    pub(super) bytes: u64,
    pub(super) began: Option<Duration>,
    pub(super) epoch: Epoch,
    /// The half that is carried.
    pub(super) carry: Option<Carry>,
    pub(super) last_slice: Duration,
    pub(super) limit: u64,
    /// Carry nothing that can wait: there is hardly any space.
    pub(super) is_held: bool,
    /// Rows that cannot be decoded. They stay, for `verify` to report and a repair to keep.
    pub(super) unreadable: BTreeSet<u64>,
}

/// How far the half that is carried has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carry {
    /// The next part of the memtable.
    pub(super) part: usize,
    /// The number of the first row that is not of this half.
    pub(super) end: u64,
    /// How large it is.
    pub(super) bytes: u64,
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

    /// Begins to carry the half that has grown.
    pub(super) fn swap_halves(&mut self) {
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
        engine.memtable.set(records, self.journal.epoch);
        Ok(())
    }

    /// Makes the journal forget entries that the trees know better. The caller holds the gate.
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

    /// Like `forget_held`, for one entry; takes the gate itself.
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

    /// Reads the journal of the last opening. What it says is carried from now on.
    pub(super) fn replay(&mut self, engine: &Engine) -> Result<()> {
        for row in &engine.trees.journal {
            let (key, value) = row.map_err(|e| engine_error("read", e))?;
            let Ok(number) = JournalRow::number(&key) else { continue };
            self.journal.next = number.saturating_add(1);
            self.journal.bytes += value.len() as u64;
            let records = JournalRow::decode(&value).unwrap_or_else(|error| {
                let error = super::damaged_at("journal", &key, error);
                tracing::error!(error = &error as &dyn std::error::Error, "passed over late activity");
                self.journal.unreadable.insert(number);
                Vec::new()
            });
            for record in records {
                match record {
                    JournalRecord::Set(entry, hot) => engine.memtable.set(&[(entry, hot)], self.journal.epoch),
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

/// A row that cannot be decoded may have said that the trees know better. So what is not newer than they are goes, and what
/// they do not know.
fn forget_doubtful(engine: &Engine) -> Result<()> {
    for entry in (0..=u8::MAX).flat_map(|part| engine.memtable.entries_of_part(part)) {
        let is_newer = match (engine.memtable.get(entry), if_readable(engine.stored_hot(entry))?) {
            (Some(hot), Some(Some(stored))) => hot.updated_at > stored.updated_at,
            (_, Some(_)) => matches!(led(engine, entry)?, Led::Astray),
            (_, None) => true,
        };
        if !is_newer {
            engine.memtable.forget(entry);
        }
    }
    Ok(())
}
