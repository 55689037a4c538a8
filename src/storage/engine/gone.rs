//! Rows of the index by age that their entries have left, until they are out of their pages.
//!
//! They lie anywhere. They are noted in the journal and here, and leave their pages later, many of a page at a time; for readers
//! they are gone at once. After a crash the notes are suspicions: an entry may not have left its row, or may have come back
//! to it, so each is looked at before its row goes, and until then readers compare the row with the record, as they do with
//! all rows. A row whose entry has no record may be of one that a crash has undone, so lists tell nothing of it while it is
//! noted; if the record is lost, `verify` tells.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Engine;
use super::journal::SLICE;
use super::memtable::Epoch;
use super::write::Writer;
use crate::codec::{ActivityRow, Hot};
use crate::error::Result;
use crate::unreadable::if_readable;

/// How many rows of the index may wait to be removed with others of their pages: an eighth of the entries, or this many.
const GONE_SHARE: u64 = 8;
const MIN_GONE: usize = 1024;

/// Rows that are in their pages, though their entries have left them.
#[derive(Debug, Default)]
pub(in crate::storage) struct Gone {
    rows: Mutex<BTreeMap<ActivityRow, Left>>,
    /// Read without the lock: mostly there are none.
    len: AtomicUsize,
}

/// What is known of such a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) struct Left {
    /// The half of the journal that has it.
    pub(in crate::storage) epoch: Epoch,
    /// It was noted before a crash.
    pub(in crate::storage) is_suspicion: bool,
}

impl Gone {
    pub(in crate::storage) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether a row does not count.
    pub(in crate::storage) fn contains(&self, row: &ActivityRow) -> bool {
        self.noted(row).is_some_and(|left| !left.is_suspicion)
    }

    /// What is known of a row, if its entry may have left it.
    pub(in crate::storage) fn noted(&self, row: &ActivityRow) -> Option<Left> {
        if self.len() == 0 { None } else { self.rows.lock().get(row).copied() }
    }

    /// Adds rows that their entries have left. The journal has noted them, in the half of `epoch`.
    pub(in crate::storage) fn add(&self, new: impl IntoIterator<Item = ActivityRow>, epoch: Epoch) {
        self.note(new, Left { epoch, is_suspicion: false });
    }

    /// Adds rows that the journal noted before an opening.
    pub(in crate::storage) fn suspect(&self, new: impl IntoIterator<Item = ActivityRow>, epoch: Epoch) {
        self.note(new, Left { epoch, is_suspicion: true });
    }

    fn note(&self, new: impl IntoIterator<Item = ActivityRow>, left: Left) {
        let mut rows = self.rows.lock();
        rows.extend(new.into_iter().map(|row| (row, left)));
        self.len.store(rows.len(), Ordering::Release);
    }

    /// They count again, or are in no page any more.
    pub(in crate::storage) fn forget(&self, old: &[ActivityRow]) {
        if self.len() == 0 {
            return;
        }
        let mut rows = self.rows.lock();
        for row in old {
            rows.remove(row);
        }
        self.len.store(rows.len(), Ordering::Release);
    }

    /// Of the next `limit` after `after`, in order, those that are wanted; and the last of them all, if that is not the end.
    pub(in crate::storage) fn next(
        &self,
        after: Option<ActivityRow>,
        limit: usize,
        wanted: impl Fn(&Left) -> bool,
    ) -> (Vec<ActivityRow>, Option<ActivityRow>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.lock();
        let (mut found, mut last, mut seen) = (Vec::new(), None, 0);
        for (row, left) in rows.range((from, Bound::Unbounded)).take(limit) {
            found.extend(wanted(left).then_some(*row));
            (last, seen) = (Some(*row), seen + 1);
        }
        (found, last.filter(|_| seen == limit))
    }

    /// Leaves those that count.
    pub(super) fn retain_others(&self, rows: &mut Vec<ActivityRow>) {
        if self.len() > 0 {
            let gone = self.rows.lock();
            rows.retain(|row| gone.get(row).is_none_or(|left| left.is_suspicion));
        }
    }
}

impl Writer {
    /// Removes rows of the index that their entries have left, until `keep` of them are there, or `most` are removed.
    pub(in crate::storage) fn clear_gone(&mut self, engine: &Engine, keep: usize, most: usize) -> Result<()> {
        let mut left = most;
        while engine.gone.len() > keep && left > 0 {
            let rows;
            (rows, self.cleared) = engine.gone.next(self.cleared, SLICE, |_| true);
            left = left.saturating_sub(rows.len());
            self.clear(engine, &rows)?;
        }
        Ok(())
    }

    /// Removes all rows that their entries have left, but not what a crash has left to be looked at.
    pub(in crate::storage) fn clear_left(&mut self, engine: &Engine) -> Result<()> {
        let mut last = None;
        loop {
            let rows;
            (rows, last) = engine.gone.next(last, SLICE, |left| !left.is_suspicion);
            self.clear(engine, &rows)?;
            if last.is_none() {
                return Ok(());
            }
        }
    }

    /// Removes these rows, and answers how many entries it looked at, and how many pages it wrote.
    pub(super) fn clear(&mut self, engine: &Engine, rows: &[ActivityRow]) -> Result<(usize, usize)> {
        let (mut old, mut looks) = (Vec::with_capacity(rows.len()), 0);
        for row in rows {
            let is_right = |hot: Option<Hot>| hot.is_some_and(|hot| hot.updated_at == row.time);
            let is_suspicion = engine.gone.noted(row).is_some_and(|left| left.is_suspicion);
            looks += usize::from(is_suspicion);
            // Of an entry whose record cannot be decoded it may be the only trace of its time.
            if !is_suspicion || if_readable(engine.stored_hot(row.entry))?.is_some_and(|hot| !is_right(hot)) {
                old.push(*row);
            }
        }
        let written = self.remove_age_rows(engine, old)?;
        engine.gone.forget(rows);
        Ok((looks, written))
    }

    pub(super) fn most_gone(&self) -> usize {
        usize::try_from(self.mark.count / GONE_SHARE).unwrap_or(usize::MAX).max(MIN_GONE)
    }
}
