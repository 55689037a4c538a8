//! Where the entries of a file go, and what becomes of them there.

use super::options::OnConflict;
use super::read::ReadEntry;
use super::report::ImportReport;
use super::seen::{Mark, Seen};
use crate::answer::Put;
use crate::entry::SessionEntry;
use crate::error::Result;
use crate::store::SessionStore;

/// Takes what a file holds, in its order.
pub(super) trait Target {
    /// Takes an entry and counts what becomes of it, now or at the end.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) if it is no entry for the store; the rest can go on.
    fn put(&mut self, read: ReadEntry, report: &mut ImportReport) -> Result<()>;

    /// Keeps a note.
    fn put_note(&mut self, name: String, text: String) -> Result<()>;

    /// Remembers the time zone.
    fn put_zone(&mut self, zone: String) -> Result<()>;
}

/// A store that is open, and may have had entries before.
pub(super) struct Open<'a> {
    store: &'a SessionStore,
    on_conflict: OnConflict,
    dry_run: bool,
    seen: Seen,
}

impl<'a> Open<'a> {
    pub(super) fn new(store: &'a SessionStore, on_conflict: OnConflict, dry_run: bool) -> Self {
        Self { store, on_conflict, dry_run, seen: Seen::new(dry_run || !store.is_empty()) }
    }

    /// Whether an entry of the file takes the place of the one in the store. Of two in the file the newer one counts,
    /// and the later one if they are equal.
    fn replaces(&self, new: &SessionEntry, old: &SessionEntry, first: Option<Mark>) -> bool {
        let old_is_ours = matches!(self.seen, Seen::Nothing) || first.is_some_and(|mark| mark.is_ours);
        match self.on_conflict {
            _ if old_is_ours => new.updated_at >= old.updated_at,
            OnConflict::Newer => new.updated_at > old.updated_at,
            OnConflict::Keep => false,
            OnConflict::Replace => true,
        }
    }
}

impl Target for Open<'_> {
    fn put(&mut self, read: ReadEntry, report: &mut ImportReport) -> Result<()> {
        let new = &read.entry;
        let first = self.seen.get(&new.key);
        let mut had = None;
        let mut decide = |old: &SessionEntry| {
            had = Some((old.updated_at, is_same(old, new)));
            self.replaces(new, old, first)
        };
        let (is_new, is_in) = if self.dry_run {
            // In a dry run the store does not have what the file had before.
            let mut old = self.store.peek(&new.key)?;
            if let (Some(mark), None) = (first, &old) {
                old = Some(SessionEntry { updated_at: mark.updated_at, ..new.clone() });
            } else if let (Some(mark), Some(old)) = (first, &mut old) {
                old.updated_at = mark.updated_at;
            }
            match &old {
                None => (true, true),
                Some(old) => (false, decide(old)),
            }
        } else {
            match self.store.put(new, &read.extras, &mut decide)? {
                Put::Created => (true, true),
                Put::Replaced => (false, true),
                Put::Kept => (false, false),
            }
        };
        let counter = match (first, is_new, is_in) {
            (Some(_), ..) => &mut report.duplicates,
            (None, true, _) => &mut report.imported,
            // Into an empty store: what it has came from this file.
            (None, false, _) if matches!(self.seen, Seen::Nothing) => &mut report.duplicates,
            (None, false, true) => &mut report.updated,
            (None, false, false) => &mut report.kept,
        };
        *counter += 1;
        let was_ours = first.is_some_and(|mark| mark.is_ours);
        let mark = match had {
            Some((updated_at, is_same)) if !is_in => Mark { is_ours: was_ours || is_same, updated_at },
            _ => Mark { is_ours: true, updated_at: new.updated_at },
        };
        self.seen.set(&new.key, mark);
        Ok(())
    }

    fn put_note(&mut self, name: String, text: String) -> Result<()> {
        let engine = self.store.commits().engine();
        let stays = self.on_conflict == OnConflict::Keep && engine.note(&name)?.is_some();
        if self.dry_run || stays { Ok(()) } else { self.store.commits().set_note(name, text) }
    }

    fn put_zone(&mut self, zone: String) -> Result<()> {
        if self.dry_run { Ok(()) } else { self.store.commits().set_zone(zone) }
    }
}

/// Whether the store's entry is what the file says: then an earlier run of the import may have put it there.
fn is_same(old: &SessionEntry, new: &SessionEntry) -> bool {
    SessionEntry { extras_bytes: new.extras_bytes, ..old.clone() } == *new
}

/// No store at all: a dry run where there is none.
pub(super) struct Nowhere(Seen);

impl Nowhere {
    pub(super) fn new() -> Self {
        Self(Seen::new(true))
    }
}

impl Target for Nowhere {
    fn put(&mut self, read: ReadEntry, report: &mut ImportReport) -> Result<()> {
        let ReadEntry { entry, .. } = read;
        match self.0.get(&entry.key) {
            Some(_) => report.duplicates += 1,
            None => report.imported += 1,
        }
        self.0.set(&entry.key, Mark { is_ours: true, updated_at: entry.updated_at });
        Ok(())
    }

    fn put_note(&mut self, _: String, _: String) -> Result<()> {
        Ok(())
    }

    fn put_zone(&mut self, _: String) -> Result<()> {
        Ok(())
    }
}
