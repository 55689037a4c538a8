//! Writing to the journal. `journal.rs` says why, and what holds at every moment.

use super::Engine;
use super::change::{Late, encode_error};
use super::journal::Journal;
use super::memtable::Newest;
use super::trees::meta;
use super::write::Writer;
use crate::codec::{ActivityRow, Fingerprint, JournalRecord, JournalRow};
use crate::error::Result;

/// The least that a journal must have grown by to be written anew, in bytes, and how much longer than what it says it must be.
const MIN_CONDENSED: u64 = 64 * 1024;
const CONDENSED_RATIO: u64 = 4;
/// Notes that are written anew at a time.
const NOTES_AT_A_TIME: usize = 1024;
/// What a record takes in a row, about.
const RECORD_BYTES: usize = 40;

impl Writer {
    /// How large one half of the journal may grow, in bytes.
    pub(crate) fn set_journal_bytes(&mut self, bytes: u64) {
        self.journal.limit = bytes;
    }

    /// Lets the journal wait for as long as it has room: it does not take the last space of a full disk.
    pub(in crate::storage) fn hold_journal(&mut self) {
        self.journal.is_held = true;
    }

    /// Writes hot records to the journal: of a touch the time alone, where the rest is in the trees or in the same half.
    pub(crate) fn apply_late(&mut self, engine: &Engine, late: impl Iterator<Item = Late>) -> Result<()> {
        let epoch = self.journal.epoch;
        self.append_all(
            engine,
            late.map(|Late { entry, hot, is_touch }| {
                let is_touch = is_touch && engine.memtable.keeps_rest(entry, epoch);
                let touch = JournalRecord::Touch(entry, hot.updated_at);
                (if is_touch { touch } else { JournalRecord::Set(entry, hot) }, Some((entry, Newest::Hot(hot))))
            }),
        )
    }

    /// Writes again what the journal says of entries.
    pub(in crate::storage) fn append_again(
        &mut self,
        engine: &Engine,
        late: impl Iterator<Item = (Fingerprint, Newest)>,
    ) -> Result<()> {
        self.append_all(engine, late.map(|(entry, newest)| (newest.record(entry), Some((entry, newest)))))
    }

    /// Notes rows of the index that their entries leave, before they do.
    pub(in crate::storage) fn append_left(&mut self, engine: &Engine, rows: &[ActivityRow]) -> Result<()> {
        self.append_all(engine, rows.iter().map(|row| (JournalRecord::Left(row.entry, row.time), None)))
    }

    /// Writes records, and sets what they say of entries in the memtable.
    fn append_all(
        &mut self,
        engine: &Engine,
        records: impl Iterator<Item = (JournalRecord, Option<(Fingerprint, Newest)>)>,
    ) -> Result<()> {
        let (mut row, mut in_row) = (JournalRow::new(), Vec::new());
        for (record, said) in records {
            row.push(&record).map_err(encode_error)?;
            in_row.extend(said);
            if row.is_full() {
                self.append(engine, &row, &in_row)?;
                row.clear();
                in_row.clear();
            }
        }
        self.append(engine, &row, &in_row)
    }

    fn append(&mut self, engine: &Engine, row: &JournalRow, records: &[(Fingerprint, Newest)]) -> Result<()> {
        if row.is_empty() {
            return Ok(());
        }
        let number = self.take_number(row);
        self.insert(engine, &engine.trees.journal, number, row.value())?;
        engine.memtable.set(records, self.journal.epoch);
        Ok(())
    }

    /// Makes the journal forget entries that the trees know better. The caller holds the gate.
    pub(in crate::storage) fn forget_held(
        &mut self,
        engine: &Engine,
        entries: impl Iterator<Item = Fingerprint>,
    ) -> Result<()> {
        let known: Vec<_> = entries.filter(|entry| engine.memtable.contains(*entry)).collect();
        let mut row = JournalRow::new();
        for entry in &known {
            row.push(&JournalRecord::Forget(*entry)).map_err(encode_error)?;
            if row.is_full() {
                self.append_held(engine, &row)?;
                row.clear();
            }
        }
        self.append_held(engine, &row)?;
        for entry in known {
            engine.memtable.forget(entry);
        }
        Ok(())
    }

    /// Like `forget_held`, for one entry; takes the gate itself.
    pub(in crate::storage) fn forget(&mut self, engine: &Engine, entry: Fingerprint) -> Result<()> {
        let _gate = engine.gate.lock();
        self.forget_held(engine, std::iter::once(entry))
    }

    fn append_held(&mut self, engine: &Engine, row: &JournalRow) -> Result<()> {
        if row.is_empty() {
            return Ok(());
        }
        let number = self.take_number(row);
        self.insert_held(engine, &engine.trees.journal, &number, row.value())
    }

    fn take_number(&mut self, row: &JournalRow) -> [u8; 8] {
        let number = self.journal.next;
        self.journal.next = number.saturating_add(1);
        self.journal.grow(row.value().len() as u64);
        JournalRow::key(number)
    }

    /// Writes the journal anew where it has become much longer than what it says, so that the next opening reads little. Its
    /// old rows stay, and do not count: they go when the journal is carried.
    ///
    /// A kill in between leaves rows that say again what others say.
    pub(in crate::storage) fn condense(&mut self, engine: &Engine) -> Result<()> {
        let Journal { bytes, is_held, unreadable, next, .. } = &self.journal;
        let (bytes, first) = (bytes + self.journal.carried_bytes(), *next);
        let needed = ((engine.memtable.len() + engine.gone.len()) * RECORD_BYTES) as u64;
        // Rows that cannot be decoded are kept for a repair, which must find them among those that count.
        if bytes < MIN_CONDENSED + CONDENSED_RATIO * needed || *is_held || !unreadable.is_empty() {
            return Ok(());
        }
        let outdated = bytes + self.journal.outdated;
        let late = engine.memtable.not_carried();
        self.append_again(engine, late)?;
        let mut after = None;
        loop {
            let noted;
            (noted, after) = engine.gone.next(after, NOTES_AT_A_TIME, |_| true);
            self.append_left(engine, &noted)?;
            if after.is_none() {
                break;
            }
        }
        self.put_meta(engine, meta::JOURNAL, &(first, outdated))
    }
}
