//! Lists: newest first from the index of activity.

use std::cmp::Reverse;
use std::vec;

use serde::{Deserialize, Serialize};

use crate::codec::{Activity, ActivityRow, Hot, PINNED, RESUME_PENDING, SUSPENDED};
use crate::entry::{SessionEntry, Usage};
use crate::error::Result;
use crate::key::SessionKey;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

/// What the activity record knows of an entry; reading it costs no look at the larger record.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Names the conversation.
    #[serde(rename = "session_key")]
    pub key: SessionKey,
    /// When the user was last active.
    pub updated_at: Timestamp,
    /// Whether the session is suspended.
    pub suspended: bool,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Whether a resume is pending.
    pub resume_pending: bool,
    /// Token counters and cost.
    #[serde(flatten)]
    pub usage: Usage,
}

/// One page of [`SessionStore::recent`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Page {
    /// The entries, newest first.
    pub entries: Vec<Summary>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<Cursor>,
    /// Records that were passed over for this page.
    pub unreadable: Unreadable,
}

/// A place in the list by recency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    updated_at: Timestamp,
    key: SessionKey,
}

/// Which entries a list shows. The default shows all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this platform. Reads the larger record.
    pub platform: Option<String>,
    /// Only this chat type. Reads the larger record.
    pub chat_type: Option<String>,
    /// Only this user id, `user_id` or `user_id_alt` of the origin. Reads the larger record.
    pub user_id: Option<String>,
    /// Only keys that begin with this. Where they are not very many, a list costs what they are, and not the store.
    pub key_prefix: Option<String>,
    /// Only entries active at this time or later.
    pub active_since: Option<Timestamp>,
    /// Only entries not active since this time: `updated_at` lies before it.
    pub idle_since: Option<Timestamp>,
    /// Only suspended ones, or only others.
    pub suspended: Option<bool>,
    /// Only pinned ones, or only others.
    pub pinned: Option<bool>,
}

impl Filter {
    /// Entries not active since `time`.
    #[must_use]
    pub fn idle_since(time: Timestamp) -> Self {
        Self { idle_since: Some(time), ..Self::default() }
    }

    pub(crate) fn accepts_hot(&self, hot: &Hot) -> bool {
        self.active_since.is_none_or(|since| hot.updated_at >= since)
            && self.idle_since.is_none_or(|since| hot.updated_at < since)
            && self.suspended.is_none_or(|suspended| hot.is(SUSPENDED) == suspended)
            && self.pinned.is_none_or(|pinned| hot.is(PINNED) == pinned)
    }

    fn accepts_key(&self, key: &SessionKey) -> bool {
        self.key_prefix.as_ref().is_none_or(|prefix| key.as_str().starts_with(prefix))
    }

    pub(crate) fn needs_entry(&self) -> bool {
        self.platform.is_some() || self.chat_type.is_some() || self.user_id.is_some()
    }

    pub(crate) fn accepts_entry(&self, entry: &SessionEntry) -> bool {
        let origin = entry.details.origin.as_ref();
        let is = |wanted: &Option<String>, found: Option<&String>| wanted.as_ref().is_none_or(|w| found == Some(w));
        is(&self.platform, entry.details.platform.as_ref())
            && is(&self.chat_type, entry.details.chat_type.as_ref())
            && self.user_id.as_ref().is_none_or(|user| {
                origin.is_some_and(|o| o.user_id.as_ref() == Some(user) || o.user_id_alt.as_ref() == Some(user))
            })
    }
}

impl SessionStore {
    /// The `limit` entries that were active last, or those after `cursor`, newest first.
    ///
    /// Costs a look at each entry of the page, however many there are.
    ///
    /// A record that cannot be decoded is passed over, and counted in the page.
    pub fn recent(&self, limit: usize, cursor: Option<&Cursor>) -> Result<Page> {
        let mut rows = self.iter_after(Filter::default(), cursor.cloned(), limit)?;
        let mut page = Page { entries: Vec::new(), next: None, unreadable: Unreadable::default() };
        while page.entries.len() < limit {
            match rows.next() {
                Some(summary) => page.entries.push(summary?),
                None => return Ok(Page { unreadable: rows.unreadable, ..page }),
            }
        }
        page.next = page.entries.last().map(|last| Cursor { updated_at: last.updated_at, key: last.key.clone() });
        Ok(Page { unreadable: rows.unreadable, ..page })
    }

    /// The entries not active since `time`, the most recent of them first.
    pub fn idle_since(&self, time: Timestamp) -> Result<Iter> {
        self.iter(Filter::idle_since(time))
    }

    /// The entries that `filter` accepts, newest first.
    ///
    /// It is no snapshot: an entry that is touched while the iterator runs may be passed over, and one that is created
    /// meanwhile is not shown. Nothing is shown twice.
    ///
    /// With a [`key_prefix`](Filter::key_prefix) that at most 65,536 keys begin with, those keys are looked up, and all of
    /// them are in memory together. With more it walks over the whole list, as without one;
    /// [`keys`](SessionStore::keys) never does.
    ///
    /// A record that cannot be decoded is passed over, and [`Iter::unreadable`] counts it. Errors are failures of the
    /// database; after one the iterator ends.
    pub fn iter(&self, filter: Filter) -> Result<Iter> {
        self.iter_after(filter, None, usize::MAX)
    }

    /// Reads up to `piece` rows of the index at a time.
    fn iter_after(&self, filter: Filter, cursor: Option<Cursor>, piece: usize) -> Result<Iter> {
        self.commits().apply_pending()?;
        let mut unreadable = Unreadable::default();
        if let Some(found) = self.few_found(&filter, &mut unreadable)? {
            let found = found.into_iter();
            return Ok(Iter { store: self.clone(), filter, before: None, found, piece: 0, is_over: false, unreadable });
        }
        let before = match cursor {
            Some(cursor) => {
                Some(ActivityRow { time: cursor.updated_at, entry: self.commits().fingerprint(&cursor.key) })
            }
            None => filter.idle_since.map(ActivityRow::first_at),
        };
        let piece = piece.clamp(1, MAX_PIECE);
        Ok(Iter {
            store: self.clone(),
            filter,
            before,
            found: Vec::new().into_iter(),
            piece,
            is_over: false,
            unreadable,
        })
    }

    /// The oldest and the newest `updated_at`.
    pub(crate) fn ends(&self, unreadable: &mut Unreadable) -> Result<Option<(Timestamp, Timestamp)>> {
        self.commits().apply_pending()?;
        let engine = self.commits().engine()?;
        let mut end = |newest: bool| -> Result<Option<Timestamp>> {
            let mut last = None;
            loop {
                let rows = match newest {
                    true => engine.newest_rows(last, PIECE_AT_END, unreadable)?,
                    false => engine.oldest_rows(last, None, PIECE_AT_END, unreadable)?,
                };
                for row in &rows {
                    if let Some(found) = unreadable.pass(self.commits().peek_row(row))?.flatten() {
                        return Ok(Some(found.hot.updated_at));
                    }
                }
                match rows.last() {
                    Some(row) => last = Some(*row),
                    None => return Ok(None),
                }
            }
        };
        let (oldest, newest) = (end(false)?, end(true)?);
        Ok(oldest.zip(newest))
    }

    /// The entries that a filter with a prefix accepts by their hot records, newest first. `None` without a prefix, or where
    /// too many keys begin with it to keep all in memory.
    fn few_found(&self, filter: &Filter, unreadable: &mut Unreadable) -> Result<Option<Vec<Activity>>> {
        let Some(prefix) = &filter.key_prefix else { return Ok(None) };
        let (mut found, mut looks) = (Vec::new(), 0);
        for key in self.keys(prefix)? {
            let key = key?;
            let hot = unreadable.pass(self.commits().peek_hot(&key))?.flatten();
            found.extend(hot.filter(|hot| filter.accepts_hot(hot)).map(|hot| Activity { key, hot }));
            looks += 1;
            if looks > MAX_LOOKED_UP {
                return Ok(None);
            }
        }
        let row = |found: &Activity| ActivityRow::of(&found.hot, self.commits().fingerprint(&found.key));
        found.sort_by_cached_key(|found| Reverse(row(found)));
        Ok(Some(found))
    }
}

/// Entries that a list by prefix looks up and keeps in memory.
const MAX_LOOKED_UP: usize = if cfg!(test) { 100 } else { 1 << 16 };

/// Rows of the index that are read at a time, at most.
const MAX_PIECE: usize = 512;
/// Rows that are read at a time to find one that is not out of date.
const PIECE_AT_END: usize = 16;

/// Entries, newest first. See [`SessionStore::iter`].
#[derive(Debug)]
pub struct Iter {
    store: SessionStore,
    filter: Filter,
    /// The row read last; those before it follow.
    before: Option<ActivityRow>,
    /// What is left of what was read last.
    found: vec::IntoIter<Activity>,
    /// How many rows to read at a time; 0 at the end.
    piece: usize,
    /// It has told that it is at its end, or an error.
    is_over: bool,
    unreadable: Unreadable,
}

impl Iter {
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
            found.extend(listed.filter(|listed| self.filter.accepts_hot(&listed.hot)));
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
            while let Some(Activity { key, hot }) = self.found.next() {
                if !self.filter.accepts_key(&key) {
                    continue;
                }
                if self.filter.needs_entry() {
                    let entry = self.unreadable.pass(self.store.peek(&key))?.flatten();
                    if !entry.is_some_and(|entry| self.filter.accepts_entry(&entry)) {
                        continue;
                    }
                }
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

fn summary(key: SessionKey, hot: &Hot) -> Summary {
    Summary {
        key,
        updated_at: hot.updated_at,
        suspended: hot.is(SUSPENDED),
        pinned: hot.is(PINNED),
        resume_pending: hot.is(RESUME_PENDING),
        usage: hot.usage,
    }
}
