//! Ordered reads: the index of activity, in both directions, and all keys.

use std::ops::Bound;

use super::{Engine, damaged_at, engine_error};
use crate::codec::{ActivityRow, Bucket, CodecError, Fingerprint, Hot};
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
    /// Rows that are none, with their keys.
    unreadable: Vec<(sled::IVec, Error)>,
}

impl Engine {
    /// Up to `limit` rows of the activity index after `after`, oldest bucket first, not later than `last`. After the
    /// last one the answer is empty.
    ///
    /// Rows come in batches rather than as an iterator, so that nothing in sled stays pinned while a caller thinks.
    pub(crate) fn oldest_rows(
        &self,
        after: Option<&ActivityRow>,
        last: Bucket,
        limit: usize,
        unreadable: &mut Unreadable,
    ) -> Result<Vec<ActivityRow>> {
        let from = after.map_or(Bound::Unbounded, |row| Bound::Excluded(row.encode().to_vec()));
        self.rows(after, from, last, limit, unreadable)
    }

    /// Up to `limit` of the entries that have a row in `bucket`, in the order of the index after `after`.
    pub(crate) fn bucket_rows(
        &self,
        bucket: Bucket,
        after: Option<Fingerprint>,
        limit: usize,
        unreadable: &mut Unreadable,
    ) -> Result<Vec<Fingerprint>> {
        let after = after.map(|entry| ActivityRow { bucket, entry });
        let from = match after {
            Some(row) => Bound::Excluded(row.encode().to_vec()),
            None => Bound::Included(bucket.prefix().to_vec()),
        };
        let before = bucket.previous().map(|bucket| ActivityRow { bucket, entry: Fingerprint::LAST });
        let rows = self.rows(after.or(before).as_ref(), from, bucket, limit, unreadable)?;
        Ok(rows.into_iter().map(|row| row.entry).collect())
    }

    /// The oldest bucket after `after` that has rows.
    pub(crate) fn oldest_bucket(&self, after: Option<Bucket>) -> Result<Option<Bucket>> {
        let after = after.map(|bucket| ActivityRow { bucket, entry: Fingerprint::LAST });
        let from = after.map_or(Bound::Unbounded, |row| Bound::Excluded(row.encode().to_vec()));
        let journaled = self.memtable.rows(after.as_ref(), Bucket::LAST, 1);
        let stored = self.walk(from, Bucket::LAST, 1)?.rows;
        Ok(journaled.into_iter().chain(stored).map(|row| row.bucket).min())
    }

    fn rows(
        &self,
        after: Option<&ActivityRow>,
        from: Bound<Vec<u8>>,
        last: Bucket,
        limit: usize,
        unreadable: &mut Unreadable,
    ) -> Result<Vec<ActivityRow>> {
        // The journal first: what leaves it meanwhile is in the tree by then.
        let mut rows = self.memtable.rows(after, last, limit);
        let stored = self.walk(from, last, limit)?;
        rows.extend(stored.rows);
        rows.sort_unstable();
        rows.dedup();
        rows.truncate(limit);
        // Those behind the last row are met again by the next call.
        let end = rows.last().map(ActivityRow::encode);
        for (row, error) in stored.unreadable {
            if end.is_none_or(|end| row.as_ref() < end.as_slice()) {
                unreadable.pass::<()>(Err(error))?;
            }
        }
        Ok(rows)
    }

    /// Walks the tree alone, up to `limit` rows of entries that have not moved on in the journal.
    fn walk(&self, from: Bound<Vec<u8>>, last: Bucket, limit: usize) -> Result<Walked> {
        let end = last.next().map_or(Bound::Unbounded, |next| Bound::Excluded(next.prefix().to_vec()));
        let mut walked = Walked { rows: Vec::new(), unreadable: Vec::new() };
        for row in self.trees.by_updated_at.range((from, end)).keys() {
            if walked.rows.len() == limit {
                break;
            }
            let row = row.map_err(|e| engine_error("read", e))?;
            #[cfg(test)]
            self.count_row();
            match ActivityRow::decode(&row) {
                Ok(row) if self.memtable.has_moved(&row) => {}
                Ok(row) => walked.rows.push(row),
                Err(error) => {
                    let error = damaged_at("by_updated_at", &row, error);
                    walked.unreadable.push((row, error));
                }
            }
        }
        Ok(walked)
    }

    /// How many entries the index has in buckets not later than `last`, counted up to `limit`.
    pub(crate) fn count_rows(&self, last: Bucket, limit: u64) -> Result<u64> {
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut rows = self.memtable.rows(None, last, most).len() as u64;
        let end = match last.next() {
            Some(next) => Bound::Excluded(next.prefix()),
            None => Bound::Unbounded,
        };
        for row in self.trees.by_updated_at.range::<[u8; 4], _>((Bound::Unbounded, end)).keys() {
            if rows >= limit {
                break;
            }
            let row = row.map_err(|e| engine_error("read", e))?;
            rows += u64::from(ActivityRow::decode(&row).is_ok_and(|row| !self.memtable.contains(row.entry)));
        }
        Ok(rows.min(limit))
    }

    /// Up to `limit` entries whose time is later than `latest`. Costs what there is of them. One that cannot be decoded
    /// has no time.
    pub(crate) fn entries_after(&self, latest: Timestamp, limit: usize) -> Result<Vec<Fingerprint>> {
        let first = Bucket::of(latest);
        let mut after = first.previous().map(|bucket| ActivityRow { bucket, entry: Fingerprint::LAST });
        let mut entries = Vec::new();
        while entries.len() < limit {
            let (last, mut unreadable) = (Bucket::of(Timestamp::MAX), Unreadable::default());
            let rows = self.oldest_rows(after.as_ref(), last, ROWS_AT_A_TIME, &mut unreadable)?;
            let Some(last) = rows.last().copied() else { break };
            for row in rows {
                let hot = if_readable(self.hot(row.entry))?.flatten();
                // The row may be out of date.
                let is_its = |hot: &Hot| Bucket::of(hot.updated_at) == row.bucket && hot.updated_at > latest;
                if hot.as_ref().is_some_and(is_its) {
                    entries.push(row.entry);
                }
            }
            after = Some(last);
        }
        entries.truncate(limit);
        Ok(entries)
    }

    /// The newest bucket that has rows and is not later than `last`. Rows that are in no bucket are counted on the way;
    /// those that are, when their bucket is read.
    pub(crate) fn newest_bucket(&self, last: Option<Bucket>, unreadable: &mut Unreadable) -> Result<Option<Bucket>> {
        let journaled = self.memtable.newest_bucket(last);
        let tree = &self.trees.by_updated_at;
        let mut row = match last.and_then(Bucket::next) {
            Some(end) => tree.get_lt(end.prefix()),
            None => tree.last(),
        };
        loop {
            let Some((key, _)) = row.map_err(|e| engine_error("read", e))? else { return Ok(journaled) };
            if let Some(stored) = Bucket::of_row(&key) {
                return Ok(journaled.max(Some(stored)));
            }
            unreadable.pass::<()>(Err(damaged_at("by_updated_at", &key, CodecError::Short)))?;
            row = tree.get_lt(key);
        }
    }

    /// Up to `limit` keys after `after` that begin with `prefix`, in key order, and on the way the rows that have none.
    pub(crate) fn keys(
        &self,
        after: Option<&SessionKey>,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<Result<SessionKey>>> {
        let mut range = KeyRange::of(prefix);
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
            #[cfg(test)]
            self.count_row();
            let key = super::verify::key(&row).map_err(|e| damaged_at("sessions", &row, e));
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
