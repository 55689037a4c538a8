//! Where the entries of a file go, and what becomes of them there.

use super::options::OnConflict;
use super::place::{Holder, Present};
use super::read::ReadEntry;
use super::report::ImportReport;
use super::seen::{Mark, Seen};
use crate::error::Result;

/// Takes what a file holds, in its order.
pub(super) trait Target {
    /// Takes an entry and counts what becomes of it, now or at the end.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) if it is no entry for the store; the rest can go on.
    fn put(&mut self, read: ReadEntry, report: &mut ImportReport) -> Result<Fate>;

    /// Keeps a note. Answers whether it is in the store as it was given.
    fn put_note(&mut self, name: String, text: String) -> Result<bool>;

    /// Remembers the time zone.
    fn put_zone(&mut self, zone: String) -> Result<()>;
}

/// Whether the store has what the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has, from this run or an earlier one.
    In,
    /// Another of the file's has its place.
    Duplicate,
    /// The store's own stays.
    Kept,
}

/// A store that is open, and may have had entries before.
pub(super) struct Open<'a> {
    store: &'a dyn Holder,
    on_conflict: OnConflict,
    dry_run: bool,
    seen: Seen,
}

/// What becomes of an entry of the file where the store has one for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Replaces,
    /// Both are the same.
    Unchanged,
    /// They are of one time, and the store's was changed there.
    ChangedHere,
    /// The store's stays for another reason.
    Stays,
}

impl<'a> Open<'a> {
    pub(super) fn new(store: &'a dyn Holder, on_conflict: OnConflict, dry_run: bool) -> Self {
        Self { store, on_conflict, dry_run, seen: Seen::default() }
    }

    /// Of two entries in the file the newer one counts, and the later one if they are equal. Whether the store's is one
    /// of the file's is known for each, since others may change the store meanwhile.
    fn verdict(&self, read: &ReadEntry, old: &Present<'_>, first: Option<Mark>) -> Result<Verdict> {
        let (new, old_time) = (&read.entry, old.entry.updated_at);
        if first.is_some_and(|mark| mark.is_ours) && old.is_as_imported {
            return Ok(if new.updated_at >= old_time { Verdict::Replaces } else { Verdict::Stays });
        }
        Ok(match self.on_conflict {
            OnConflict::Replace => Verdict::Replaces,
            OnConflict::Newer if new.updated_at > old_time => Verdict::Replaces,
            OnConflict::Newer if new.updated_at < old_time => Verdict::Stays,
            _ if old.is(new, &read.extras)? => Verdict::Unchanged,
            OnConflict::Newer if old.is_as_imported => Verdict::Replaces,
            OnConflict::Newer => Verdict::ChangedHere,
            OnConflict::Keep => Verdict::Stays,
        })
    }
}

impl Target for Open<'_> {
    fn put(&mut self, read: ReadEntry, report: &mut ImportReport) -> Result<Fate> {
        let new = &read.entry;
        let first = self.seen.get(&new.key);
        let (mut verdict, mut old_mark) = (None, None);
        let mut decide = |old: &Present<'_>| {
            let decided = self.verdict(&read, old, first)?;
            let is_ours = first.is_some_and(|mark| mark.is_ours) || decided == Verdict::Unchanged;
            old_mark = Some(Mark { is_ours: is_ours && old.is_as_imported, updated_at: old.entry.updated_at });
            verdict = Some(decided);
            Ok(decided == Verdict::Replaces)
        };
        match first {
            // In a dry run the store does not have what the file had before.
            Some(mark) if self.dry_run && mark.is_ours => {
                let is_newer = new.updated_at >= mark.updated_at;
                verdict = Some(if is_newer { Verdict::Replaces } else { Verdict::Stays });
                old_mark = Some(mark);
            }
            _ if self.dry_run => self.store.look(&new.key, &mut decide)?,
            _ => self.store.place(new, &read.extras, &mut decide)?,
        }
        let is_in = matches!(verdict, None | Some(Verdict::Replaces));
        let mark = old_mark.filter(|_| !is_in).unwrap_or(Mark { is_ours: true, updated_at: new.updated_at });
        self.seen.set(&new.key, mark);
        if first.is_some() {
            report.duplicates += 1;
        } else {
            match verdict {
                None => report.imported += 1,
                Some(Verdict::Replaces) => report.updated += 1,
                Some(_) => report.kept += 1,
            }
            report.unchanged += u64::from(verdict == Some(Verdict::Unchanged));
            report.changed_here += u64::from(verdict == Some(Verdict::ChangedHere));
        }
        Ok(match verdict {
            None | Some(Verdict::Replaces | Verdict::Unchanged) => Fate::In,
            _ if first.is_some() => Fate::Duplicate,
            _ => Fate::Kept,
        })
    }

    fn put_note(&mut self, name: String, text: String) -> Result<bool> {
        self.store.put_note(name, text, self.on_conflict == OnConflict::Keep, self.dry_run)
    }

    fn put_zone(&mut self, zone: String) -> Result<()> {
        if self.dry_run { Ok(()) } else { self.store.put_zone(zone) }
    }
}

/// No store at all: a dry run where there is none, or the look at a file before anything of it is taken.
#[derive(Default)]
pub(super) struct Nowhere(Seen);

impl Target for Nowhere {
    fn put(&mut self, read: ReadEntry, report: &mut ImportReport) -> Result<Fate> {
        let ReadEntry { entry, .. } = read;
        match self.0.get(&entry.key) {
            Some(_) => report.duplicates += 1,
            None => report.imported += 1,
        }
        self.0.set(&entry.key, Mark { is_ours: true, updated_at: entry.updated_at });
        Ok(Fate::In)
    }

    fn put_note(&mut self, _: String, _: String) -> Result<bool> {
        Ok(true)
    }

    fn put_zone(&mut self, _: String) -> Result<()> {
        Ok(())
    }
}
