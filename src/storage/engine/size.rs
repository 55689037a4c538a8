//! How large what is stored is, without looking at all of it.
//!
//! sled never gives space back to the file system: its files stay as large as they have been, and what is free inside
//! is used again. So the size of the files says nothing about what a removal would help. What counts here is live
//! bytes: keys and values of all trees, as they were written, without sled's own overhead.

use super::trees::engine_error;
use super::{Engine, bytes, damaged_at};
use crate::codec::Activity;
use crate::error::Result;
use crate::key::SessionKey;
use crate::unreadable::if_readable;

/// Entries looked at for an estimate. With fewer than twice as many, all are.
const SAMPLE: u64 = 512;
/// Bytes of the hot record, and of the fingerprints and the time in the rows of an entry.
const FIXED: u64 = 22 + 3 * 16 + 8;

impl Engine {
    /// Live bytes of one entry, its extras included; zero if there is none.
    pub(crate) fn entry_bytes(&self, key: &SessionKey) -> Result<u64> {
        let Some(stored) = self.stored_cold(key)? else { return Ok(0) };
        let (cold, _) = stored.decode(key)?;
        let texts = stored.len() + 2 * bytes(key).len() + cold.session_id.as_str().len();
        Ok(FIXED + texts as u64 + cold.extras.map_or(0, |extras| extras.bytes_outside()))
    }

    /// An estimate of the live bytes of `entries` entries, from those next to evenly spaced fingerprints. These are
    /// as good as random, whatever the keys are, and the same each time. Exact where there are few.
    pub(crate) fn live_bytes(&self, entries: u64) -> Result<u64> {
        let (mut sum, mut looked_at) = (0_u64, 0_u64);
        let mut add = |row: Result<(sled::IVec, sled::IVec), sled::Error>| -> Result<()> {
            let (row, value) = row.map_err(|e| engine_error("read a key", e))?;
            let key = Activity::decode(&value).map(|found| found.key).map_err(|e| damaged_at("activity", &row, e));
            // An entry that cannot be decoded cannot be pruned either; `verify` reports it.
            if let Some(bytes) = if_readable(key.and_then(|key| self.entry_bytes(&key)))? {
                sum = sum.saturating_add(bytes);
                looked_at += 1;
            }
            Ok(())
        };
        if entries < 2 * SAMPLE {
            self.trees.activity.iter().try_for_each(add)?;
        } else {
            for n in 0..SAMPLE {
                let start = (n * (u64::MAX / SAMPLE)).to_be_bytes();
                let tree = &self.trees.activity;
                tree.range(start..).next().or_else(|| tree.iter().next()).map_or(Ok(()), &mut add)?;
            }
        }
        let average = u128::from(sum).checked_div(u128::from(looked_at)).unwrap_or(0);
        Ok(if looked_at == entries { sum } else { u64::try_from(average * u128::from(entries)).unwrap_or(u64::MAX) })
    }
}
