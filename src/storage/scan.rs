//! Ordered reads: the index of activity, in both directions, and all keys.

use std::ops::Bound;

use super::{Engine, damaged_row, engine_error};
use crate::codec::{ActivityRow, Bucket, Fingerprint};
use crate::error::Result;
use crate::key::SessionKey;

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
        let from = match after {
            Some(row) => Bound::Excluded(row.encode()),
            None => Bound::Unbounded,
        };
        let mut rows = Vec::new();
        for row in self.trees.by_updated_at.range::<[u8; 20], _>((from, Bound::Unbounded)).keys() {
            let row = row.map_err(|e| engine_error("read", e))?;
            let row = ActivityRow::decode(&row).map_err(|e| damaged_row("by_updated_at", e))?;
            if row.bucket > last || rows.len() >= limit {
                break;
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// How many rows of the activity index are not later than `last`, counted up to `limit`.
    pub(crate) fn count_rows(&self, last: Bucket, limit: u64) -> Result<u64> {
        let end = match last.next() {
            Some(next) => Bound::Excluded(next.prefix()),
            None => Bound::Unbounded,
        };
        let mut rows = 0;
        for row in self.trees.by_updated_at.range::<[u8; 4], _>((Bound::Unbounded, end)).keys() {
            row.map_err(|e| engine_error("read", e))?;
            rows += 1;
            if rows >= limit {
                break;
            }
        }
        Ok(rows)
    }

    /// The newest bucket that has rows and is not later than `last`.
    pub(crate) fn newest_bucket(&self, last: Option<Bucket>) -> Result<Option<Bucket>> {
        let row = match last.and_then(Bucket::next) {
            Some(end) => self.trees.by_updated_at.get_lt(end.prefix()),
            None => self.trees.by_updated_at.last(),
        };
        let row = row.map_err(|e| engine_error("read", e))?;
        let row = row.map(|(row, _)| ActivityRow::decode(&row)).transpose();
        Ok(row.map_err(|e| damaged_row("by_updated_at", e))?.map(|row| row.bucket))
    }

    /// The entries that have a row in `bucket`.
    pub(crate) fn bucket_entries(&self, bucket: Bucket) -> Result<Vec<Fingerprint>> {
        let rows = self.trees.by_updated_at.scan_prefix(bucket.prefix()).keys();
        rows.map(|row| {
            let row = row.map_err(|e| engine_error("read", e))?;
            Ok(ActivityRow::decode(&row).map_err(|e| damaged_row("by_updated_at", e))?.entry)
        })
        .collect()
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
