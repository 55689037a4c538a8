//! Lists: newest first from the index of activity.

use std::vec;

use serde::{Deserialize, Serialize};

use crate::by_time::{Order, Piece, Place};
use crate::codec::{Bucket, Fingerprint, Hot, PINNED, RESUME_PENDING, SUSPENDED};
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
    /// Records that were passed over in the minutes that were read for this page.
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
    /// The index by age knows minutes, so this looks at each entry of every minute that the page reaches into, and keeps
    /// `limit` of them: 50 of 100,000 entries of one minute cost as many looks as all of them. To walk over very many
    /// entries use [`iter`](SessionStore::iter), which looks at each once.
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
    /// meanwhile is not shown. Nothing is shown twice. A minute's entries are in memory together, about 100 bytes each.
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

    /// Reads `piece` entries of a minute at a time.
    fn iter_after(&self, filter: Filter, cursor: Option<Cursor>, piece: usize) -> Result<Iter> {
        self.commits().apply_pending()?;
        let mut unreadable = Unreadable::default();
        if let Some(rows) = self.few_rows(&filter, &mut unreadable)? {
            let rows = rows.into_iter();
            return Ok(Iter { store: self.clone(), filter, last: None, bucket: None, rows, piece: 1, unreadable });
        }
        let engine = self.commits().engine()?;
        let first = cursor.as_ref().map(|cursor| cursor.updated_at).or(filter.idle_since).map(Bucket::of);
        let bucket = engine.newest_bucket(first, &mut unreadable)?;
        let last = cursor.map(|cursor| ORDER.place(cursor.updated_at, engine.fingerprint(&cursor.key)));
        let rows = Vec::new().into_iter();
        Ok(Iter { store: self.clone(), filter, last, bucket, rows, piece: piece.max(1), unreadable })
    }

    /// The entries that a filter with a prefix accepts by their hot records, newest first. `None` without a prefix, or where
    /// too many keys begin with it to keep all in memory.
    fn few_rows(&self, filter: &Filter, unreadable: &mut Unreadable) -> Result<Option<Vec<(Fingerprint, Hot)>>> {
        let Some(prefix) = &filter.key_prefix else { return Ok(None) };
        let (mut rows, mut looks) = (Vec::new(), 0);
        for key in self.keys(prefix)? {
            let entry = self.commits().fingerprint(&key?);
            let hot = unreadable.pass(self.commits().peek_hot(entry))?.flatten();
            rows.extend(hot.filter(|hot| filter.accepts_hot(hot)).map(|hot| (entry, hot)));
            looks += 1;
            if looks > MAX_LOOKED_UP {
                return Ok(None);
            }
        }
        rows.sort_unstable_by_key(|(entry, hot)| ORDER.place(hot.updated_at, *entry));
        Ok(Some(rows))
    }
}

/// Entries that a list by prefix looks up and keeps in memory.
const MAX_LOOKED_UP: usize = if cfg!(test) { 100 } else { 1 << 16 };

/// Entries of one microsecond have to stand in some order, too.
const ORDER: Order = Order::NewestFirst;

/// Entries, newest first. See [`SessionStore::iter`].
#[derive(Debug)]
pub struct Iter {
    store: SessionStore,
    filter: Filter,
    /// The place of the entry read last; those behind it follow.
    last: Option<Place>,
    /// The bucket to read next; `None` at the end.
    bucket: Option<Bucket>,
    /// What is left of the piece read last.
    rows: vec::IntoIter<(Fingerprint, Hot)>,
    piece: usize,
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

    /// Reads more of the bucket, and finds the one to read after it.
    fn read(&mut self, bucket: Bucket) -> Result<()> {
        let Self { store, filter, unreadable, .. } = self;
        let order = (bucket, ORDER);
        let wanted = |hot: &Hot| filter.accepts_hot(hot);
        let piece = store.first_of_bucket(order, self.last, self.piece, unreadable, || true, wanted)?;
        let Piece { rows, is_cut } = piece.unwrap_or(Piece { rows: Vec::new(), is_cut: false });
        self.last = rows.last().map(|(entry, hot)| ORDER.place(hot.updated_at, *entry)).or(self.last);
        self.rows = rows.into_iter();
        if is_cut {
            return Ok(());
        }
        let too_old = self.filter.active_since.is_some_and(|since| bucket <= Bucket::of(since));
        let previous = bucket.previous().filter(|_| !too_old);
        self.bucket = match previous {
            Some(previous) => self.store.commits().engine()?.newest_bucket(Some(previous), &mut self.unreadable)?,
            None => None,
        };
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Summary>> {
        loop {
            while let Some((entry, hot)) = self.rows.next() {
                let key = self.unreadable.pass(self.store.commits().engine()?.key_of_listed(entry))?.flatten();
                let Some(key) = key.filter(|key| self.filter.accepts_key(key)) else { continue };
                if self.filter.needs_entry() {
                    let entry = self.unreadable.pass(self.store.peek(&key))?.flatten();
                    if !entry.is_some_and(|entry| self.filter.accepts_entry(&entry)) {
                        continue;
                    }
                }
                return Ok(Some(summary(key, &hot)));
            }
            match self.bucket {
                Some(bucket) => self.read(bucket)?,
                None => return Ok(None),
            }
        }
    }

    /// After an error it ends rather than repeats it.
    fn end(&mut self) {
        self.bucket = None;
        self.rows = Vec::new().into_iter();
    }
}

impl Iterator for Iter {
    type Item = Result<Summary>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().inspect_err(|_| self.end()).transpose()
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
        self.advance().inspect_err(|_| self.rows.end()).transpose()
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
