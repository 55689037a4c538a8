//! Carrying: how what the journal says gets into `activity` and `by_updated_at`, a little after each commit.
//!
//! `journal.rs` says why, and what holds at every moment.

use std::time::Duration;

use tracing::field::Empty;

use super::Engine;
use super::change::encode_error;
use super::journal::{Journal, MAX_AGE, SLICE};
use super::memtable::{Newest, PARTS};
use super::trees::engine_error;
use super::write::Writer;
use crate::codec::{Activity, ActivityRow, Fingerprint, JournalRow};
use crate::error::Result;

/// Background rate: a twentieth of the time or so, in slices that delay a commit by a millisecond or two, and after a pause by
/// a few of them.
const SLICE_INTERVAL: Duration = Duration::from_millis(25);
const MAX_SLICES: usize = 4;
/// The most that is carried at once, where the journal is about to exceed its bound.
const MAX_CARRIED: usize = 16 * 1024;

/// Records that are in their trees already cost a look. This many of them count as one that is written.
const LOOKS_PER_WRITE: usize = 8;
/// The same for looks at entries of which nothing has been read lately.
const COLD_LOOKS_PER_WRITE: usize = 2;
/// The same for those that are only passed on the walk through the memtable.
const STEPS_PER_WRITE: usize = 64;

impl Writer {
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
        let entries = engine.memtable.len();
        let left = journal.left(entries) + engine.gone.len() / LOOKS_PER_WRITE;
        let mut count = journal.take_share(changes, entries, left).min(MAX_CARRIED);
        let since = now.saturating_sub(journal.last_slice);
        if since >= SLICE_INTERVAL && (count > 0 || !journal.is_held) {
            journal.last_slice = now;
            let slices = since.as_millis() / SLICE_INTERVAL.as_millis();
            count = count.max(SLICE * usize::try_from(slices).unwrap_or(MAX_SLICES).min(MAX_SLICES));
        }
        self.carry(engine, count)
    }

    /// How long the journal can wait, from the monotonic time `now` on; for ever if it is empty.
    pub(crate) fn journal_due(&self, engine: &Engine, now: Duration) -> Option<Duration> {
        let Journal { carry, began, last_slice, is_held, .. } = &self.journal;
        if self.journal.carry.is_none() && self.journal.is_due(now, engine.memtable.len()) {
            return Some(Duration::ZERO);
        }
        match (carry, began) {
            (Some(_), _) => (!is_held).then(|| SLICE_INTERVAL.saturating_sub(now.saturating_sub(*last_slice))),
            (None, Some(began)) => Some(MAX_AGE.saturating_sub(now.saturating_sub(*began))),
            (None, None) => None,
        }
    }

    /// Carries everything, and leaves the journal empty but for what cannot be decoded.
    pub(in crate::storage) fn carry_all(&mut self, engine: &Engine) -> Result<()> {
        self.finish_carrying(engine)?;
        // The second time for what the other half has; then there are notes of what they left.
        for _ in 0..2 {
            self.journal.swap_halves();
            self.finish_carrying(engine)?;
        }
        Ok(())
    }

    fn finish_carrying(&mut self, engine: &Engine) -> Result<()> {
        while self.journal.carry.is_some() {
            self.carry(engine, MAX_CARRIED)?;
        }
        Ok(())
    }

    /// Carries about `count` records of the half that is carried, or removes as many of its rows.
    fn carry(&mut self, engine: &Engine, count: usize) -> Result<()> {
        if count == 0 || self.journal.carry.is_none() {
            return Ok(());
        }
        let span = tracing::debug_span!("carry", records = Empty, rows = Empty).entered();
        let (mut left, mut records_written, mut rows_removed) = (count, 0, 0);
        let epoch = self.journal.epoch;
        while let Some(carry) = self.journal.carry.as_mut().filter(|_| left > 0) {
            let done = if let Ok(part) = u8::try_from(carry.part) {
                let walked = engine.memtable.list_due(part, epoch, &mut carry.rows);
                carry.part += 1;
                if carry.part == PARTS {
                    carry.rows.sort_unstable_by(|a, b| b.cmp(a));
                }
                walked / STEPS_PER_WRITE
            } else if !carry.rows.is_empty() {
                let portion = carry.rows.split_off(carry.rows.len().saturating_sub(left));
                // Those that were touched since are in the other half.
                let mut records: Vec<_> =
                    portion.iter().filter_map(|row| engine.memtable.due(row.entry, epoch)).collect();
                records.sort_unstable_by_key(|(entry, _)| *entry);
                let (written, left_over) = self.carry_records(engine, &records)?;
                records_written += written;
                engine.memtable.set_carried(&records);
                self.append_again(engine, left_over.into_iter())?;
                self.clear_gone(engine, self.most_gone(), 2 * portion.len())?;
                written + (portion.len() - written) / LOOKS_PER_WRITE
            } else if !carry.are_notes_done {
                // Their notes go with the rows of this half. Meanwhile none of this half is added.
                let (noted, last) = engine.gone.next(carry.noted, left, |noted| noted.epoch != epoch);
                (carry.noted, carry.are_notes_done) = (last, last.is_none());
                let (looks, written) = self.clear(engine, &noted)?;
                1 + written + looks / COLD_LOOKS_PER_WRITE
            } else {
                let end = carry.end;
                let removed = self.remove_rows(engine, end, left)?;
                rows_removed += removed;
                if removed < left {
                    engine.memtable.drop_carried();
                    (self.journal.carry, self.journal.outdated) = (None, 0);
                }
                removed
            };
            left = left.saturating_sub(done);
        }
        span.record("records", records_written).record("rows", rows_removed);
        Ok(())
    }

    /// Writes hot records to their trees, and answers how many were not there, and those that the journal has to keep, since
    /// the row that names their entry cannot be decoded: a repair needs them. For each entry the new row of the index goes
    /// first, then the record, and the old row much later: so at every moment it has a row that is not later than its
    /// record, and pruning finds it. Both rows are noted before: a crash leaves one of them too many, and until the record is
    /// there nothing else leads to the new one.
    fn carry_records(
        &mut self,
        engine: &Engine,
        records: &[(Fingerprint, Newest)],
    ) -> Result<(usize, Vec<(Fingerprint, Newest)>)> {
        let (mut new, mut values, mut old, mut left_over) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (entry, newest) in records {
            let Some(value) = engine.activity(*entry)? else {
                // Only damage leaves it: see `forget_doubtful`.
                tracing::warn!(%entry, "activity of an entry that is not there is dropped");
                continue;
            };
            let Ok(Activity { key, hot: stored }) = Activity::decode(&value) else {
                left_over.push((*entry, *newest));
                continue;
            };
            let hot = newest.over(stored);
            if stored == hot {
                continue;
            }
            if stored.updated_at != hot.updated_at {
                new.push(ActivityRow::of(&hot, *entry));
                old.push(ActivityRow::of(&stored, *entry));
            }
            values.push((entry, Activity::encode(&key, &hot).map_err(encode_error)?));
        }
        let noted: Vec<_> = new.iter().chain(&old).copied().collect();
        self.append_left(engine, &noted)?;
        self.put_age_rows(engine, new)?;
        for (entry, value) in &values {
            self.insert(engine, &engine.trees.activity, entry.as_bytes(), value)?;
        }
        engine.gone.add(old, self.journal.epoch);
        Ok((values.len(), left_over))
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
}
