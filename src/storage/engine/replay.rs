//! Reading the journal when the store is opened. `journal.rs` says why there is one, and what holds at every moment.

use super::lookup::{LookUp, look_up};
use super::memtable::{Epoch, Newest, PARTS};
use super::trees::{engine_error, meta};
use super::write::Writer;
use super::{Engine, damaged_at};
use crate::codec::{ActivityRow, Fingerprint, Hot, JournalRecord, JournalRow};
use crate::error::Result;
use crate::time::Timestamp;
use crate::unreadable::if_readable;

impl Writer {
    /// Reads the journal of the last opening. What it says is carried from now on.
    pub(in crate::storage) fn replay(&mut self, engine: &Engine) -> Result<()> {
        let mut said = Said::new();
        let (first, outdated) = engine.condensed()?;
        // A compaction leaves them out, and carrying removes them.
        let mut rows = engine.trees.journal.range(..JournalRow::key(first));
        let is_there = rows.next().transpose().map_err(|e| engine_error("read", e))?.is_some();
        self.journal.outdated = if is_there { outdated } else { 0 };
        self.journal.next = first;
        for row in engine.trees.journal.range(JournalRow::key(first)..) {
            let (key, value) = row.map_err(|e| engine_error("read", e))?;
            let Ok(number) = JournalRow::number(&key) else { continue };
            self.journal.next = number.saturating_add(1);
            self.journal.bytes += value.len() as u64;
            let records = JournalRow::decode(&value).unwrap_or_else(|error| {
                let error = damaged_at("journal", &key, error);
                tracing::error!(error = &error as &dyn std::error::Error, "passed over late activity");
                self.journal.unreadable.insert(number);
                Vec::new()
            });
            engine.gone.suspect(records.iter().filter_map(|record| said.push(record)), self.journal.epoch);
            if said.is_full() {
                std::mem::replace(&mut said, Said::new()).replay(engine, self.journal.epoch);
            }
        }
        said.replay(engine, self.journal.epoch);
        if !self.journal.unreadable.is_empty() {
            forget_doubtful(engine)?;
        }
        if self.journal.next > 0 {
            self.journal.swap_halves();
        }
        Ok(())
    }
}

impl Engine {
    /// The number of the first row of the journal that counts.
    pub(in crate::storage) fn journal_start(&self) -> Result<u64> {
        self.condensed().map(|(first, _)| first)
    }

    /// That number, and the bytes of the rows before it. Where they cannot be read all rows count.
    fn condensed(&self) -> Result<(u64, u64)> {
        Ok(if_readable(self.meta_value(meta::JOURNAL))?.flatten().unwrap_or((0, 0)))
    }
}

/// A row that cannot be decoded may have said that the trees know better. So what is not newer than they are goes, and what
/// they do not know.
fn forget_doubtful(engine: &Engine) -> Result<()> {
    for entry in engine.memtable.entries() {
        let is_newer = match (engine.memtable.get(entry), if_readable(engine.stored_hot(entry))?) {
            (Some(newest), Some(Some(stored))) => newest.updated_at() > stored.updated_at,
            (_, Some(_)) => matches!(look_up(engine, entry)?, LookUp::Unreadable),
            (_, None) => true,
        };
        if !is_newer {
            engine.memtable.forget(entry);
        }
    }
    Ok(())
}

/// Records of the journal in their order, by the part that they are of.
#[derive(Debug)]
struct Said {
    parts: Vec<Vec<(Fingerprint, SaidOf)>>,
    len: usize,
}

/// What a record says of its entry, small: there may be millions of them.
#[derive(Debug)]
enum SaidOf {
    Time(Timestamp),
    Hot(Box<Hot>),
    Forget,
}

/// Records to be collected before the memtable takes them: 8 MB.
const MAX_SAID: usize = 1 << 18;

impl Said {
    fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| Vec::new()).collect(), len: 0 }
    }

    /// Takes what a record says of an entry's hot record; the answer is a row by age that the entry has left.
    fn push(&mut self, record: &JournalRecord) -> Option<ActivityRow> {
        let (entry, said) = match *record {
            JournalRecord::Left(entry, time) => return Some(ActivityRow { time, entry }),
            JournalRecord::Set(entry, hot) => (entry, SaidOf::Hot(Box::new(hot))),
            JournalRecord::Touch(entry, time) => (entry, SaidOf::Time(time)),
            JournalRecord::Forget(entry) => (entry, SaidOf::Forget),
        };
        if let Some(part) = self.parts.get_mut(usize::from(entry.part_and_hash().0)) {
            part.push((entry, said));
            self.len += 1;
        }
        None
    }

    fn is_full(&self) -> bool {
        self.len >= MAX_SAID
    }

    /// Lets the memtable take over. There may be many times as many records as entries: a part of the table at a time stays in
    /// the processor's caches.
    fn replay(self, engine: &Engine, epoch: Epoch) {
        for (part, said) in (0..=u8::MAX).zip(self.parts) {
            let said = said.into_iter().map(|(entry, said)| {
                let newest = match said {
                    SaidOf::Time(time) => Some(Newest::Time(time)),
                    SaidOf::Hot(hot) => Some(Newest::Hot(*hot)),
                    SaidOf::Forget => None,
                };
                (entry, newest)
            });
            engine.memtable.replay(part, said, epoch);
        }
    }
}
