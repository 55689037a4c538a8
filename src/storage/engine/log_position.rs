//! How far sled's log has come.
//!
//! sled does not tell how much it has written: a change costs its own bytes, now and then a whole leaf, pages moved out
//! of segments that are being cleaned, and the rest of a segment that the next record does not fit into. A record that
//! is reserved and cancelled at once shows the position in the log, for a dozen bytes and a fraction of a microsecond.
//! `Log` is sled's own interface, hidden from its documentation; the version is pinned.

use super::trees::engine_error;
use crate::error::Result;
use crate::storage::directory::Position;

/// A page number that sled gives to no tree. A cancelled record is skipped when the log is read.
const NO_PAGE: sled::PageId = 1 << 40;

/// Where the next record goes.
pub(in crate::storage) fn position(db: &sled::Db) -> Result<Position> {
    let guard = sled::pin();
    let record = db.context.pagecache.log.reserve(sled::LogKind::Link, NO_PAGE, &(), &guard);
    let (position, _) = record.and_then(|record| record.abort()).map_err(|e| engine_error("write", e))?;
    Ok(position)
}
