//! Lists: newest first from the index of activity.

mod filter;
mod iter;

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::codec::{Activity, ActivityRow, Hot, PINNED, RESUME_PENDING, SUSPENDED};
use crate::entry::Usage;
use crate::error::Result;
use crate::key::SessionKey;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

pub use filter::Filter;
use iter::MAX_PIECE;
pub use iter::{Entries, Iter};

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

/// A place in the list by recency. It is that of an entry's row: while a change is on its way to the index, the entry itself
/// has a later time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub(crate) updated_at: Timestamp,
    pub(crate) key: SessionKey,
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
        page.next = page.entries.last().and_then(|last| rows.cursor(&last.key));
        Ok(Page { unreadable: rows.unreadable, ..page })
    }

    /// The entries not active since `time`, the most recent of them first.
    pub fn idle_since(&self, time: Timestamp) -> Result<Iter> {
        self.iter(Filter::idle_since(time))
    }

    /// The entries that `filter` accepts, newest first.
    ///
    /// It is no snapshot: an entry that is touched while the iterator runs may be passed over, and one that is created
    /// meanwhile is not shown. Nothing is shown twice, but an entry whose time goes back meanwhile.
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
        let row =
            |cursor: Cursor| ActivityRow { time: cursor.updated_at, entry: self.commits().fingerprint(&cursor.key) };
        self.commits().apply_pending()?;
        self.iter_behind(filter, cursor.map(row), piece)
    }

    /// Those that come behind a row, as the index has them: what waits for its commit stands where it was before, as it is
    /// now, and a new entry is not there yet.
    pub(crate) fn iter_behind(&self, filter: Filter, row: Option<ActivityRow>, piece: usize) -> Result<Iter> {
        let mut unreadable = Unreadable::default();
        if let Some(mut found) = self.few_found(&filter, &mut unreadable)? {
            if let Some(row) = row {
                found.retain(|found| ActivityRow::of(&found.hot, self.commits().fingerprint(&found.key)) < row);
            }
            let found = found.into_iter().map(|found| (found.hot.updated_at, found)).collect();
            return Ok(Iter::of_found(self.clone(), filter, found, unreadable));
        }
        let before = row.or_else(|| filter.idle_since.map(ActivityRow::first_at));
        Ok(Iter::new(self.clone(), filter, before, piece.clamp(1, MAX_PIECE), unreadable))
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

/// Rows that are read at a time to find one that is not out of date.
const PIECE_AT_END: usize = 16;

pub(crate) fn summary(key: SessionKey, hot: &Hot) -> Summary {
    Summary {
        key,
        updated_at: hot.updated_at,
        suspended: hot.is(SUSPENDED),
        pinned: hot.is(PINNED),
        resume_pending: hot.is(RESUME_PENDING),
        usage: hot.usage,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time::{Clock, ManualClock};
    use crate::{Options, SessionSource};

    /// A page goes on behind the row of its last entry, though that was touched meanwhile.
    #[test]
    fn a_page_goes_on_where_the_one_before_ended() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_micros(1_781_222_813_123_456));
        let options = Options::new(dir.path().join("db")).create(true).clock(clock.clone());
        let store = SessionStore::open(options.commit_interval(Duration::from_secs(3600))).unwrap();
        let keys: Vec<_> = ["a", "b", "c", "d"]
            .map(|user| {
                clock.advance(Duration::from_secs(1));
                let user_id = Some(user.to_owned());
                let source = SessionSource { platform: "discord".into(), user_id, ..Default::default() };
                store.resolve(&source).unwrap().entry.key
            })
            .into();
        let mut rows = store.iter_after(Filter::default(), None, 2).unwrap();
        clock.advance(Duration::from_secs(1));
        store.touch(&keys[2]).unwrap().unwrap();
        let page: Vec<_> = rows.by_ref().take(2).map(|row| row.unwrap().key).collect();
        assert_eq!(page, [keys[3].clone(), keys[2].clone()]);
        let cursor = rows.cursor(&keys[2]).unwrap();
        let next = store.recent(10, Some(&cursor)).unwrap().entries;
        assert_eq!(next.into_iter().map(|row| row.key).collect::<Vec<_>>(), [keys[1].clone(), keys[0].clone()]);
    }
    /// A crash may have left an entry a row beside its own. While a change of it is on its way, neither of them shows it twice.
    #[test]
    fn nothing_is_shown_twice() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_micros(1_781_222_813_123_456));
        let options = Options::new(dir.path().join("db")).create(true).clock(clock.clone());
        let store = SessionStore::open(options.commit_interval(Duration::from_secs(3600))).unwrap();
        let source = SessionSource { platform: "discord".into(), ..Default::default() };
        let key = store.resolve(&source).unwrap().entry.key;
        store.flush().unwrap();
        let engine = store.commits().engine().unwrap();
        for old in [60, 120] {
            let time = clock.now().saturating_sub(Duration::from_secs(old));
            crate::storage::plant_age_row(engine, &key, time);
        }
        let listed = || {
            let rows = store.iter_behind(Filter::default(), None, 10).unwrap();
            rows.map(|row| row.unwrap().updated_at).collect::<Vec<_>>()
        };
        assert_eq!(listed(), [clock.now()]);
        clock.advance(Duration::from_secs(1));
        store.touch(&key).unwrap().unwrap();
        assert_eq!(listed(), [clock.now()]);
        store.flush().unwrap();
        assert_eq!(listed(), [clock.now()]);
    }
}
