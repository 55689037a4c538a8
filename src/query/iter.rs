//! Lists as iterators: entries, newest first, read a piece of the index at a time.

use std::vec;

use super::{Cursor, Filter, Summary, summary};
use crate::codec::{Activity, ActivityRow};
use crate::entry::SessionEntry;
use crate::error::Result;
use crate::key::SessionKey;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

/// Rows of the index that are read at a time, at most.
pub(super) const MAX_PIECE: usize = 512;

/// An entry, and the time of its row.
pub(super) type Found = (Timestamp, Activity);

/// Entries, newest first. See [`SessionStore::iter`].
#[derive(Debug)]
pub struct Iter {
    store: SessionStore,
    filter: Filter,
    /// The row read last; those before it follow.
    before: Option<ActivityRow>,
    /// What is left of what was read last.
    found: vec::IntoIter<Found>,
    /// The time of the row of the entry that came last.
    place: Option<Timestamp>,
    /// How many rows to read at a time; 0 at the end.
    piece: usize,
    /// It has told that it is at its end, or an error.
    is_over: bool,
    pub(super) unreadable: Unreadable,
}

impl Iter {
    pub(super) fn new(
        store: SessionStore,
        filter: Filter,
        before: Option<ActivityRow>,
        piece: usize,
        unreadable: Unreadable,
    ) -> Self {
        let found = Vec::new().into_iter();
        Self { store, filter, before, found, place: None, piece, is_over: false, unreadable }
    }

    /// Those that were found already, and no more.
    pub(super) fn of_found(store: SessionStore, filter: Filter, found: Vec<Found>, unreadable: Unreadable) -> Self {
        Self { found: found.into_iter(), ..Self::new(store, filter, None, 0, unreadable) }
    }

    /// Where the entry of this key stood, which came last.
    pub(super) fn cursor(&self, key: &SessionKey) -> Option<Cursor> {
        Some(Cursor { updated_at: self.place?, key: key.clone() })
    }

    /// The time of the row of the entry that came last.
    #[cfg(feature = "live")]
    pub(crate) fn place(&self) -> Option<Timestamp> {
        self.place
    }

    /// The records that were passed over so far because they cannot be decoded.
    ///
    /// ```no_run
    /// # fn f(store: &cloakroom::SessionStore) -> cloakroom::Result<()> {
    /// let mut entries = store.iter(cloakroom::query::Filter::default())?;
    /// for summary in &mut entries {
    ///     println!("{}", summary?.key);
    /// }
    /// println!("passed over: {}", entries.unreadable().count);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn unreadable(&self) -> &Unreadable {
        &self.unreadable
    }

    /// The whole entries in place of their summaries.
    #[must_use]
    pub fn entries(self) -> Entries {
        Entries { rows: self }
    }

    /// Reads more of the index.
    fn read(&mut self) -> Result<()> {
        let commits = self.store.commits();
        let rows = commits.engine()?.newest_rows(self.before, self.piece, &mut self.unreadable)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            // A row is out of date if its entry is gone or has moved on.
            let listed = self.unreadable.pass(commits.peek_row(row))?.flatten();
            let accepted = listed.filter(|listed| self.filter.accepts_hot(&listed.hot));
            found.extend(accepted.map(|accepted| (row.time, accepted)));
        }
        self.before = rows.last().copied().or(self.before);
        let is_too_old = |row: &ActivityRow| self.filter.active_since.is_some_and(|since| row.time < since);
        if rows.len() < self.piece || rows.last().is_some_and(is_too_old) {
            self.piece = 0;
        }
        self.found = found.into_iter();
        Ok(())
    }

    /// The next one. After the last one and after an error there is none.
    fn advance(&mut self) -> Result<Option<Summary>> {
        if self.is_over {
            return Ok(None);
        }
        // In a forked child that is an error, though what is left may have been read.
        let found = self.store.commits().engine().map(drop).and_then(|()| self.find());
        self.is_over = !matches!(found, Ok(Some(_)));
        found
    }

    fn find(&mut self) -> Result<Option<Summary>> {
        loop {
            while let Some((place, Activity { key, hot })) = self.found.next() {
                if !self.filter.accepts_key(&key) {
                    continue;
                }
                if self.filter.needs_entry() {
                    let entry = self.unreadable.pass(self.store.peek(&key))?.flatten();
                    if !entry.is_some_and(|entry| self.filter.accepts_entry(&entry)) {
                        continue;
                    }
                }
                self.place = Some(place);
                return Ok(Some(summary(key, &hot)));
            }
            if self.piece == 0 {
                return Ok(None);
            }
            self.read()?;
        }
    }
}

impl Iterator for Iter {
    type Item = Result<Summary>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Whole entries, newest first. See [`Iter::entries`].
#[derive(Debug)]
pub struct Entries {
    rows: Iter,
}

impl Entries {
    /// The records that were passed over so far because they cannot be decoded.
    #[must_use]
    pub fn unreadable(&self) -> &Unreadable {
        &self.rows.unreadable
    }

    fn advance(&mut self) -> Result<Option<SessionEntry>> {
        while let Some(summary) = self.rows.advance()? {
            let entry = self.rows.store.peek(&summary.key);
            if let Some(entry) = self.rows.unreadable.pass(entry)?.flatten() {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

impl Iterator for Entries {
    type Item = Result<SessionEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().inspect_err(|_| self.rows.is_over = true).transpose()
    }
}
