//! Ordered reads: the index of activity, in both directions, and all keys.

use std::ops::Bound;

use super::{Engine, damaged_row, engine_error};
use crate::codec::{ActivityRow, Bucket, Fingerprint, Hot};
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::time::Timestamp;

/// Keys that are read in one go by those who read all.
pub(crate) const KEYS_AT_A_TIME: usize = 256;
const ROWS_AT_A_TIME: usize = 256;

impl Engine {
    /// Up to `limit` rows of the activity index after `after`, oldest bucket first, not later than `last`.
    ///
    /// Rows come in batches rather than as an iterator, so that nothing in sled stays pinned while a caller thinks.
    pub(crate) fn oldest_rows(
        &self,
        after: Option<&ActivityRow>,
        last: Bucket,
        limit: usize,
    ) -> Result<Vec<ActivityRow>> {
        // The journal first: what leaves it meanwhile is in the tree by then.
        let mut rows = self.memtable.rows(after, last, limit);
        rows.extend(self.stored_rows(after, last, limit, |row| !self.memtable.has_moved(row))?);
        rows.sort_unstable();
        rows.dedup();
        rows.truncate(limit);
        Ok(rows)
    }

    /// The same of the tree alone, of those rows that are `wanted`.
    pub(super) fn stored_rows(
        &self,
        after: Option<&ActivityRow>,
        last: Bucket,
        limit: usize,
        wanted: impl Fn(&ActivityRow) -> bool,
    ) -> Result<Vec<ActivityRow>> {
        let from = match after {
            Some(row) => Bound::Excluded(row.encode()),
            None => Bound::Unbounded,
        };
        let mut rows = Vec::new();
        for row in self.trees.by_updated_at.range::<[u8; 20], _>((from, Bound::Unbounded)).keys() {
            let row = age_row(row)?;
            #[cfg(test)]
            self.count_row();
            if row.bucket > last || rows.len() == limit {
                break;
            }
            if wanted(&row) {
                rows.push(row);
            }
        }
        Ok(rows)
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
            rows += u64::from(!self.memtable.contains(age_row(row)?.entry));
        }
        Ok(rows.min(limit))
    }

    /// Up to `limit` entries whose time is later than `latest`. Costs what there is of them.
    pub(crate) fn entries_after(&self, latest: Timestamp, limit: usize) -> Result<Vec<Fingerprint>> {
        let first = Bucket::of(latest);
        let mut after = first.previous().map(|bucket| ActivityRow { bucket, entry: Fingerprint::LAST });
        let mut entries = Vec::new();
        while entries.len() < limit {
            let rows = self.oldest_rows(after.as_ref(), Bucket::of(Timestamp::MAX), ROWS_AT_A_TIME)?;
            let Some(last) = rows.last().copied() else { break };
            for row in rows {
                let hot = match self.hot(row.entry) {
                    // One that cannot be decoded has no time.
                    Err(Error::DamagedRecord { .. }) => None,
                    hot => hot?,
                };
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

    /// The newest bucket that has rows and is not later than `last`.
    pub(crate) fn newest_bucket(&self, last: Option<Bucket>) -> Result<Option<Bucket>> {
        let journaled = self.memtable.newest_bucket(last);
        let row = match last.and_then(Bucket::next) {
            Some(end) => self.trees.by_updated_at.get_lt(end.prefix()),
            None => self.trees.by_updated_at.last(),
        };
        let row = row.map_err(|e| engine_error("read", e))?;
        let stored = row.map(|(row, _)| ActivityRow::decode(&row)).transpose();
        Ok(journaled.max(stored.map_err(|e| damaged_row("by_updated_at", e))?.map(|row| row.bucket)))
    }

    /// The entries that have a row in `bucket`.
    pub(crate) fn bucket_entries(&self, bucket: Bucket) -> Result<Vec<Fingerprint>> {
        let mut entries = self.memtable.entries_in(bucket);
        for row in self.trees.by_updated_at.scan_prefix(bucket.prefix()).keys() {
            let row = age_row(row)?;
            if !self.memtable.has_moved(&row) {
                entries.push(row.entry);
            }
        }
        entries.sort_unstable();
        entries.dedup();
        Ok(entries)
    }

    /// Up to `limit` keys after `after` that begin with `prefix`, in key order.
    pub(crate) fn keys(&self, after: Option<&SessionKey>, prefix: &str, limit: usize) -> Result<Vec<SessionKey>> {
        let from = match after {
            Some(key) if key.as_str() >= prefix => Bound::Excluded(key.as_str().as_bytes()),
            _ => Bound::Included(prefix.as_bytes()),
        };
        let mut keys = Vec::new();
        for key in self.trees.sessions.range::<&[u8], _>((from, Bound::Unbounded)).keys().take(limit) {
            let key = key.map_err(|e| engine_error("read", e))?;
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            let text = std::str::from_utf8(&key).map_err(|e| damaged_row("sessions", e.into()))?;
            keys.push(SessionKey::new(text).map_err(|e| damaged_row("sessions", e.into()))?);
        }
        Ok(keys)
    }
}

fn age_row(row: sled::Result<sled::IVec>) -> Result<ActivityRow> {
    let row = row.map_err(|e| engine_error("read", e))?;
    ActivityRow::decode(&row).map_err(|e| damaged_row("by_updated_at", e))
}
