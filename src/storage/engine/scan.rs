//! Ordered reads: the index of activity, in both directions, and all keys.

use super::lookup::key;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use super::ages::Pages;
use super::runs::{AgeOrder, AgeRange};
use super::trees::engine_error;
use super::{Engine, damaged_at};
use crate::codec::{ActivityRow, Fingerprint};
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::time::Timestamp;
use crate::unreadable::{Unreadable, if_readable};

/// Keys that a scan of all reads in one go.
pub(crate) const KEYS_AT_A_TIME: usize = 256;
const ROWS_AT_A_TIME: usize = 256;

/// What a walk over the tree of the index met.
struct Walked {
    rows: Vec<ActivityRow>,
    /// Pages that cannot be decoded, with their keys.
    unreadable: Vec<(sled::IVec, Error)>,
}

impl Engine {
    /// Up to `limit` rows of the index by age that come after `after` and before `end`, the oldest first. After the last
    /// one the answer is empty.
    ///
    /// Rows come in batches rather than as an iterator, so that nothing in sled stays pinned while a caller thinks.
    pub(crate) fn oldest_rows(
        &self,
        after: Option<ActivityRow>,
        end: Option<ActivityRow>,
        limit: usize,
        unreadable: &mut Unreadable,
    ) -> Result<Vec<ActivityRow>> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), end.map_or(Bound::Unbounded, Bound::Excluded));
        self.rows(&range, AgeOrder::OldestFirst, limit, unreadable)
    }

    /// Up to `limit` rows before `before`, the newest first.
    pub(crate) fn newest_rows(
        &self,
        before: Option<ActivityRow>,
        limit: usize,
        unreadable: &mut Unreadable,
    ) -> Result<Vec<ActivityRow>> {
        let range = (Bound::Unbounded, before.map_or(Bound::Unbounded, Bound::Excluded));
        self.rows(&range, AgeOrder::NewestFirst, limit, unreadable)
    }

    fn rows(
        &self,
        range: &AgeRange,
        order: AgeOrder,
        limit: usize,
        unreadable: &mut Unreadable,
    ) -> Result<Vec<ActivityRow>> {
        // The journal first: what leaves it meanwhile is in the tree by then.
        let mut rows = self.memtable.rows(range, order, limit);
        let mut range = *range;
        if rows.len() == limit
            && let Some(last) = rows.last()
        {
            // No row of the tree behind it is among the first ones. Where much has moved on in the journal, the tree has nothing
            // but old rows there.
            match order {
                AgeOrder::OldestFirst => range.1 = Bound::Included(*last),
                AgeOrder::NewestFirst => range.0 = Bound::Included(*last),
            }
        }
        let stored = self.walk(&range, order, limit)?;
        rows.extend(stored.rows);
        match order {
            AgeOrder::OldestFirst => rows.sort_unstable(),
            AgeOrder::NewestFirst => rows.sort_unstable_by(|a, b| b.cmp(a)),
        }
        rows.dedup();
        // Those behind the last row are met again by the next call, if there is one.
        let last = rows.get(limit.saturating_sub(1)).map(ActivityRow::encode);
        rows.truncate(limit);
        for (row, error) in stored.unreadable {
            let is_passed = |last: &[u8; 24]| match order {
                AgeOrder::OldestFirst => row.as_ref() < last.as_slice(),
                AgeOrder::NewestFirst => row.as_ref() > last.as_slice(),
            };
            if last.as_ref().is_none_or(is_passed) {
                unreadable.pass::<()>(Err(error))?;
            }
        }
        Ok(rows)
    }

    /// Walks the tree alone, up to `limit` rows of entries that have not moved on in the journal.
    fn walk(&self, range: &AgeRange, order: AgeOrder, limit: usize) -> Result<Walked> {
        let mut walked = Walked { rows: Vec::new(), unreadable: Vec::new() };
        for page in Pages::of(&self.trees.by_updated_at, range, order)? {
            let page = page?;
            let key = page.key.clone();
            let mut rows = match self.rows_of(page) {
                Ok(rows) => rows,
                Err(error) => {
                    walked.unreadable.push((key, error));
                    continue;
                }
            };
            if order == AgeOrder::NewestFirst {
                rows.reverse();
            }
            for row in rows.into_iter().filter(|row| range.contains(row)) {
                if walked.rows.len() == limit {
                    return Ok(walked);
                }
                self.count_row();
                if !self.memtable.has_moved(&row) {
                    walked.rows.push(row);
                }
            }
        }
        Ok(walked)
    }

    /// How many entries were last active before `end`, counted up to `limit`.
    pub(crate) fn count_rows(&self, end: Timestamp, limit: u64) -> Result<u64> {
        let end = ActivityRow::first_at(end);
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let range = (Bound::Unbounded, Bound::Excluded(end));
        let mut rows = self.memtable.rows(&range, AgeOrder::OldestFirst, most).len() as u64;
        for page in Pages::of(&self.trees.by_updated_at, &range, AgeOrder::OldestFirst)? {
            let page = self.rows_of(page?);
            for row in page.unwrap_or_default().iter().filter(|row| range.contains(row)) {
                if rows >= limit {
                    return Ok(limit);
                }
                self.count_row();
                rows += u64::from(!self.memtable.contains(row.entry));
            }
        }
        Ok(rows.min(limit))
    }

    /// Whether at most `limit` entries were last active at `latest` or before. Reads no more of the index than that, and
    /// no entry. Rows that a crash has left count too.
    pub(crate) fn are_few_until(&self, latest: Timestamp, limit: usize) -> Result<bool> {
        let limit = limit as u64;
        let end = latest.saturating_add(Duration::from_micros(1));
        Ok(self.count_rows(end, limit.saturating_add(1))? <= limit)
    }

    /// Up to `limit` entries whose time is later than `latest`. Costs what there is of them. One that cannot be decoded
    /// has no time.
    pub(crate) fn entries_after(&self, latest: Timestamp, limit: usize) -> Result<Vec<Fingerprint>> {
        let mut after = ActivityRow { time: latest, entry: Fingerprint::LAST };
        let mut entries = Vec::new();
        while entries.len() < limit {
            let rows = self.oldest_rows(Some(after), None, ROWS_AT_A_TIME, &mut Unreadable::default())?;
            let Some(last) = rows.last().copied() else { break };
            for row in rows {
                // The row may be out of date.
                let time = if_readable(self.listed(row.entry))?.flatten().map(|found| found.hot.updated_at);
                if time == Some(row.time) {
                    entries.push(row.entry);
                }
            }
            after = last;
        }
        entries.truncate(limit);
        Ok(entries)
    }

    /// Up to `limit` keys after `after`, in key order, and on the way the rows that have none.
    pub(crate) fn keys(&self, after: Option<&SessionKey>, limit: usize) -> Result<Vec<Result<SessionKey>>> {
        let mut range = KeyRange::of("");
        if let Some(after) = after {
            range.cut(after.as_str().as_bytes(), Direction::Forth);
        }
        self.keys_of(&mut range, Direction::Forth, limit)
    }

    /// Up to `limit` keys from one end of `range`, and on the way the rows that have none. What was read is cut off the
    /// range.
    pub(crate) fn keys_of(
        &self,
        range: &mut KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Result<SessionKey>>> {
        let (mut keys, mut found, mut last) = (Vec::new(), 0, None);
        let mut rows = self.trees.sessions.range::<&[u8], _>(range.bounds()).keys();
        while found < limit {
            let row = match direction {
                Direction::Forth => rows.next(),
                Direction::Back => rows.next_back(),
            };
            let Some(row) = row else { break };
            let row = row.map_err(|e| engine_error("read", e))?;
            self.count_row();
            let key = key(&row).map_err(|e| damaged_at("sessions", &row, e));
            found += usize::from(key.is_ok());
            keys.push(key);
            last = Some(row);
        }
        if let Some(last) = last {
            range.cut(&last, direction);
        }
        Ok(keys)
    }
}

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forth,
    Back,
}

/// The rows of `sessions` that begin with a prefix, or what is left of them.
#[derive(Debug, Clone)]
pub(crate) struct KeyRange {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

impl KeyRange {
    pub(crate) fn of(prefix: &str) -> Self {
        let mut end = prefix.as_bytes().to_vec();
        // No byte of UTF-8 is the greatest there is.
        let to = match end.last_mut() {
            Some(last) => {
                *last = last.saturating_add(1);
                Bound::Excluded(end)
            }
            None => Bound::Unbounded,
        };
        Self { from: Bound::Included(prefix.as_bytes().to_vec()), to }
    }

    /// Cuts off all up to `row`, from one end.
    fn cut(&mut self, row: &[u8], direction: Direction) {
        match direction {
            // A row before the range cuts nothing.
            Direction::Forth if matches!(&self.from, Bound::Included(from) | Bound::Excluded(from) if row < &**from) => {
            }
            Direction::Forth => self.from = Bound::Excluded(row.to_vec()),
            Direction::Back => self.to = Bound::Excluded(row.to_vec()),
        }
    }

    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
            match bound {
                Bound::Included(row) => Bound::Included(row),
                Bound::Excluded(row) => Bound::Excluded(row),
                Bound::Unbounded => Bound::Unbounded,
            }
        }
        (borrowed(&self.from), borrowed(&self.to))
    }
}
