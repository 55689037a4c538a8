//! Lists: newest first from the index of activity.

use std::cmp::Reverse;
use std::vec;

use serde::{Deserialize, Serialize};

use crate::codec::{ActivityRow, Bucket, Fingerprint, Hot, RESUME_PENDING, SUSPENDED};
use crate::entry::{SessionEntry, Usage};
use crate::error::Result;
use crate::key::SessionKey;
use crate::store::SessionStore;
use crate::time::Timestamp;

/// What the activity record knows of an entry; reading it costs no look at the larger record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Names the conversation.
    #[serde(rename = "session_key")]
    pub key: SessionKey,
    /// When the user was last active.
    pub updated_at: Timestamp,
    /// Whether the session is suspended.
    pub suspended: bool,
    /// Whether a resume is pending.
    pub resume_pending: bool,
    /// Token counters and cost.
    #[serde(flatten)]
    pub usage: Usage,
}

/// One page of [`SessionStore::recent`].
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The entries, newest first.
    pub entries: Vec<Summary>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<Cursor>,
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
    /// Only keys that begin with this.
    pub key_prefix: Option<String>,
    /// Only entries active at this time or later.
    pub active_since: Option<Timestamp>,
    /// Only entries not active since this time: `updated_at` lies before it.
    pub idle_since: Option<Timestamp>,
    /// Only suspended ones, or only others.
    pub suspended: Option<bool>,
}

impl Filter {
    /// Entries not active since `time`.
    #[must_use]
    pub fn idle_since(time: Timestamp) -> Self {
        Self { idle_since: Some(time), ..Self::default() }
    }

    fn accepts_hot(&self, hot: &Hot) -> bool {
        self.active_since.is_none_or(|since| hot.updated_at >= since)
            && self.idle_since.is_none_or(|since| hot.updated_at < since)
            && self.suspended.is_none_or(|suspended| hot.is(SUSPENDED) == suspended)
    }

    fn accepts_key(&self, key: &SessionKey) -> bool {
        self.key_prefix.as_ref().is_none_or(|prefix| key.as_str().starts_with(prefix))
    }

    fn needs_entry(&self) -> bool {
        self.platform.is_some() || self.chat_type.is_some() || self.user_id.is_some()
    }

    fn accepts_entry(&self, entry: &SessionEntry) -> bool {
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
    pub fn recent(&self, limit: usize, cursor: Option<&Cursor>) -> Result<Page> {
        let mut rows = self.iter_after(Filter::default(), cursor.cloned())?;
        let mut entries = Vec::new();
        while entries.len() < limit {
            match rows.next() {
                Some(summary) => entries.push(summary?),
                None => return Ok(Page { entries, next: None }),
            }
        }
        let next = entries.last().map(|last| Cursor { updated_at: last.updated_at, key: last.key.clone() });
        Ok(Page { entries, next })
    }

    /// The entries not active since `time`, the most recent of them first.
    pub fn idle_since(&self, time: Timestamp) -> Result<Iter> {
        self.iter(Filter::idle_since(time))
    }

    /// The entries that `filter` accepts, newest first.
    ///
    /// It is no snapshot: an entry that is touched while the iterator runs may be passed over, and one that is created
    /// meanwhile is not shown. Nothing is shown twice.
    pub fn iter(&self, filter: Filter) -> Result<Iter> {
        self.iter_after(filter, None)
    }

    fn iter_after(&self, filter: Filter, cursor: Option<Cursor>) -> Result<Iter> {
        self.commits().apply_pending()?;
        let first = cursor.as_ref().map(|cursor| cursor.updated_at).or(filter.idle_since).map(Bucket::of);
        let next_bucket = self.commits().engine()?.newest_bucket(first)?;
        Ok(Iter { store: self.clone(), filter, cursor, next_bucket, rows: Vec::new().into_iter() })
    }

    /// `updated_at` of the entry idle for longest.
    pub(crate) fn oldest(&self) -> Result<Option<Timestamp>> {
        self.commits().apply_pending()?;
        let mut after = None;
        loop {
            let rows = self.commits().engine()?.oldest_rows(after.as_ref(), Bucket::of(Timestamp::MAX), 256)?;
            let Some(last) = rows.last().copied() else { return Ok(None) };
            for row in rows {
                if self.live_time(row)?.is_some() {
                    return self.oldest_in(row.bucket);
                }
            }
            after = Some(last);
        }
    }

    fn oldest_in(&self, bucket: Bucket) -> Result<Option<Timestamp>> {
        let mut oldest = None;
        for entry in self.commits().engine()?.bucket_entries(bucket)? {
            let time = self.live_time(ActivityRow { bucket, entry })?;
            oldest = oldest.into_iter().chain(time).min();
        }
        Ok(oldest)
    }

    /// `updated_at` of a row's entry, if the row is not out of date.
    fn live_time(&self, row: ActivityRow) -> Result<Option<Timestamp>> {
        let time = self.commits().peek_hot(row.entry)?.map(|hot| hot.updated_at);
        Ok(time.filter(|time| Bucket::of(*time) == row.bucket))
    }
}

/// Entries, newest first. See [`SessionStore::iter`].
#[derive(Debug)]
pub struct Iter {
    store: SessionStore,
    filter: Filter,
    cursor: Option<Cursor>,
    /// The next bucket to read; `None` at the end.
    next_bucket: Option<Bucket>,
    /// What is left of the bucket read last.
    rows: vec::IntoIter<(Fingerprint, Hot)>,
}

impl Iter {
    /// The whole entries in place of their summaries.
    pub fn entries(self) -> impl Iterator<Item = Result<SessionEntry>> {
        let store = self.store.clone();
        self.filter_map(move |summary| match summary {
            Ok(summary) => store.peek(&summary.key).transpose(),
            Err(error) => Some(Err(error)),
        })
    }

    /// Reads the next bucket, and sorts its few entries by their exact time.
    fn read_bucket(&mut self, bucket: Bucket) -> Result<()> {
        let engine = self.store.commits().engine()?;
        let cursor = self.cursor.as_ref().map(|cursor| (Reverse(cursor.updated_at), engine.fingerprint(&cursor.key)));
        let mut rows = Vec::new();
        for entry in engine.bucket_entries(bucket)? {
            let Some(hot) = self.store.commits().peek_hot(entry)? else { continue };
            // A row of another bucket is out of date, or its entry was touched just now.
            let shown = Bucket::of(hot.updated_at) == bucket
                && self.filter.accepts_hot(&hot)
                && cursor.is_none_or(|cursor| (Reverse(hot.updated_at), entry) > cursor);
            if shown {
                rows.push((entry, hot));
            }
        }
        // Entries of one microsecond have to stand in some order.
        rows.sort_unstable_by_key(|(entry, hot)| (Reverse(hot.updated_at), *entry));
        self.rows = rows.into_iter();
        let too_old = self.filter.active_since.is_some_and(|since| bucket <= Bucket::of(since));
        self.next_bucket = match bucket.previous() {
            Some(previous) if !too_old => engine.newest_bucket(Some(previous))?,
            _ => None,
        };
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Summary>> {
        loop {
            for (entry, hot) in self.rows.by_ref() {
                let key = self.store.commits().engine()?.key_of(entry)?;
                let Some(key) = key.filter(|key| self.filter.accepts_key(key)) else { continue };
                if self.filter.needs_entry() {
                    let entry = self.store.peek(&key)?;
                    if !entry.is_some_and(|entry| self.filter.accepts_entry(&entry)) {
                        continue;
                    }
                }
                return Ok(Some(summary(key, &hot)));
            }
            match self.next_bucket {
                Some(bucket) => self.read_bucket(bucket)?,
                None => return Ok(None),
            }
        }
    }
}

impl Iterator for Iter {
    type Item = Result<Summary>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if let Some(Err(_)) = next {
            // After an error the iterator ends rather than repeats it.
            self.next_bucket = None;
            self.rows = Vec::new().into_iter();
        }
        next
    }
}

fn summary(key: SessionKey, hot: &Hot) -> Summary {
    Summary {
        key,
        updated_at: hot.updated_at,
        suspended: hot.is(SUSPENDED),
        resume_pending: hot.is(RESUME_PENDING),
        usage: hot.usage,
    }
}
