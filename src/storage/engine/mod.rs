//! The trees and their writer, and the only room beside that of work on a whole store that names `sled`.
//!
//! [`Engine`] owns the open database and answers reads, from its trees and from the journal of late hot records. [`Writer`]
//! is its one writer and belongs to the committer's thread.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `trees.rs` | sled's database and its trees |
//! | `lookup.rs` | what a fingerprint leads to |
//! | `scan.rs`, `size.rs`, `extras.rs`, `live_parts.rs` | reads |
//! | `leases.rs`, `turns.rs`, `meta.rs`, `notes.rs` | the small trees: reads and writes |
//! | `ages.rs`, `gone.rs` | the index by age, in pages, and its rows that do not count any more |
//! | `change.rs` | what one commit changes |
//! | `write.rs` | the writer: order, syncs, and the bound on what is not synced |
//! | `journal.rs`, `append.rs`, `replay.rs`, `memtable.rs`, `runs.rs`, `carry.rs` | late hot records: what makes a touch cost O(1) |
//! | `group.rs`, `structural.rs` | changes of many trees at once |
//! | `waker.rs` | wakes sled's threads |

pub(in crate::storage) mod ages;
mod append;
mod carry;
pub(in crate::storage) mod change;
pub(in crate::storage) mod extras;
pub(in crate::storage) mod gone;
mod group;
pub(in crate::storage) mod journal;
pub(in crate::storage) mod leases;
pub(in crate::storage) mod live_parts;
pub(in crate::storage) mod log_position;
pub(in crate::storage) mod lookup;
pub(in crate::storage) mod memtable;
mod meta;
mod notes;
mod replay;
pub(in crate::storage) mod runs;
pub(in crate::storage) mod scan;
mod size;
pub(in crate::storage) mod structural;
pub(in crate::storage) mod trees;
mod turns;
pub(in crate::storage) mod waker;
pub(in crate::storage) mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::codec::{
    self, Activity, ActivityRow, CodecError, Cold, ExtrasRef, ExtrasRow, Fingerprint, Hot, Seed, whole_fingerprint,
};
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::storage::directory::lock::{self, Hold};
use crate::storage::directory::{Position, files, state};

use extras::PartsOf;
use memtable::Newest;
use trees::{LastHandle, Trees, engine_error};

/// The open database. Reads go to sled; pending changes are not its business.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(in crate::storage) path: PathBuf,
    /// Declared before all else that shares the database, so that it is gone first.
    pub(in crate::storage) waker: waker::FlushWaker,
    pub(in crate::storage) trees: Trees,
    /// What the journal says.
    pub(in crate::storage) memtable: memtable::Memtable,
    /// Rows of the index by age that do not count any more.
    pub(in crate::storage) gone: gone::Gone,
    pub(in crate::storage) seed: Seed,
    /// A second descriptor of sled's file: sled's `flush` does not sync, so we do.
    pub(in crate::storage) file: File,
    /// The file had a name when it was opened: some file systems say of no file that it has.
    pub(in crate::storage) is_linked: bool,
    /// Held while the trees are written, and by readers that must see them stand still. Counts the groups of structural
    /// changes.
    pub(in crate::storage) gate: Mutex<u64>,
    /// Held while a note is written, and while one is read: it is many rows.
    pub(in crate::storage) notes: Mutex<()>,
    /// Declared after the trees, which share the database.
    pub(in crate::storage) last: LastHandle,
    pub(in crate::storage) state: Arc<state::StateFile>,
    /// Declared after the database, so that it is freed last.
    pub(in crate::storage) lock: Arc<lock::Lock>,
    /// Rows that walks over the index by age, and `verify`, have read.
    #[cfg(test)]
    pub(in crate::storage) rows_read: std::sync::atomic::AtomicU64,
}

/// The bytes of a cold record, as they are on disk. While sled has their page in memory too, they are shared with it.
#[derive(Debug, Clone)]
pub(crate) struct StoredCold(pub(in crate::storage) sled::IVec);

impl StoredCold {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The record, and whether its details are in the base of its extras instead.
    pub(in crate::storage) fn decode(&self, key: &SessionKey) -> Result<(Cold, bool)> {
        codec::decode_cold(&self.0).map_err(|e| damaged("sessions", key, e))
    }
}

impl Engine {
    /// Where sled's log has come to.
    pub(in crate::storage) fn log_position(&self) -> Result<Position> {
        self.last.db().map_or(Ok(0), log_position::position)
    }

    /// Rows of the indexes, and of the entries by key, that were walked over so far.
    #[cfg(test)]
    pub(crate) fn rows_read(&self) -> u64 {
        self.rows_read.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(in crate::storage) fn count_row(&self) {
        #[cfg(test)]
        self.rows_read.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// How many entries have late activity in the journal.
    pub(crate) fn journal_entries(&self) -> usize {
        self.memtable.len()
    }

    /// The store's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Which taking of the store's lock this is.
    pub(crate) fn hold(&self) -> Hold {
        self.lock.hold()
    }

    /// Whether its files were removed while it was open. What cannot be told is no.
    pub(crate) fn is_removed(&self) -> bool {
        self.is_linked && self.links().is_ok_and(|links| links == 0)
    }

    /// How many names sled's file has.
    pub(in crate::storage) fn links(&self) -> Result<u64> {
        files::links(&self.file).map_err(|e| Error::io("look at", &self.path, e))
    }

    /// A write or a sync has failed. The next opening must not trust what the page cache holds to be on disk.
    pub(crate) fn mark_suspect(&self, failure: &Error) {
        if let Err(error) = self.state.fail(failure) {
            tracing::error!(error = &error as &dyn std::error::Error, "the failure could not be noted");
        }
    }

    /// An error for extras that cannot be decoded, wherever their bytes came from.
    pub(crate) fn damaged_extras(&self, key: &SessionKey, error: CodecError) -> Error {
        damaged("extras", key, error)
    }

    /// An error for an entry of which one of the two records is missing. They come and go together.
    pub(crate) fn missing_record(&self, tree: &'static str, key: &SessionKey) -> Error {
        damaged(tree, key, CodecError::Missing)
    }

    /// Whether the key has an entry on disk: `sessions` alone decides.
    pub(crate) fn contains(&self, key: &SessionKey) -> Result<bool> {
        self.trees.sessions.contains_key(bytes(key)).map_err(|e| engine_error("read", e))
    }

    /// What stands for a key in the trees and in memory.
    pub(crate) fn fingerprint(&self, key: &SessionKey) -> Fingerprint {
        self.seed.fingerprint(key)
    }

    /// The key that a fingerprint stands for; `None` if there is no such entry.
    pub(crate) fn key_of(&self, entry: Fingerprint) -> Result<Option<SessionKey>> {
        Ok(self.stored_activity(entry)?.map(|found| found.key))
    }

    /// The hot record of an entry: the journal's, or else the one in its tree. `sessions` decides whether there is an
    /// entry, so one without a hot record is damaged.
    pub(crate) fn hot_of(&self, entry: Fingerprint, key: &SessionKey) -> Result<Option<Hot>> {
        let newest = self.memtable.get(entry);
        if let Some(Newest::Hot(hot)) = newest {
            return Ok(Some(hot));
        }
        match self.activity(entry)? {
            Some(value) => {
                let stored = Activity::decode_hot(&value).map_err(|e| damaged("activity", key, e))?;
                Ok(Some(newest.map_or(stored, |newest| newest.over(stored))))
            }
            None if self.contains(key)? => Err(self.missing_record("activity", key)),
            None => Ok(None),
        }
    }

    /// The key and the hot record of an entry that an index leads to; `None` if it is gone by now.
    pub(crate) fn listed(&self, entry: Fingerprint) -> Result<Option<Activity>> {
        let newest = self.memtable.get(entry);
        let stored = self.stored_activity(entry)?;
        Ok(stored.map(|Activity { key, hot }| Activity { key, hot: newest.map_or(hot, |newest| newest.over(hot)) }))
    }

    /// The entry of a row of the index by age, if it has no other row there.
    ///
    /// Where a row is in the tree or in the journal, so is the record of its entry: it comes first and goes last.
    pub(crate) fn of_row(&self, row: &ActivityRow) -> Result<Option<Activity>> {
        match self.listed(row.entry)? {
            Some(found) => Ok(Some(found).filter(|found| found.hot.updated_at == row.time)),
            // One that left it was removed since.
            None if self.gone.noted(row).is_some() => Ok(None),
            None if self.has_age_row(row)? || self.is_late_only(row)? => {
                Err(damaged("activity", &row.entry, CodecError::Missing))
            }
            None => Ok(None),
        }
    }

    /// Whether the journal alone speaks of an entry: its record is lost.
    fn is_late_only(&self, row: &ActivityRow) -> Result<bool> {
        let is_late = || self.memtable.get(row.entry).is_some_and(|newest| newest.updated_at() == row.time);
        if !is_late() {
            return Ok(false);
        }
        // A removal makes the journal forget its entry last, with the gate held.
        let _gate = self.gate.lock();
        Ok(is_late() && self.activity(row.entry)?.is_none())
    }

    /// The hot record in `activity`.
    pub(in crate::storage) fn stored_hot(&self, entry: Fingerprint) -> Result<Option<Hot>> {
        let value = self.activity(entry)?;
        value.map(|value| Activity::decode_hot(&value).map_err(|e| damaged("activity", &entry, e))).transpose()
    }

    pub(in crate::storage) fn activity(&self, entry: Fingerprint) -> Result<Option<sled::IVec>> {
        self.trees.activity.get(entry.as_bytes()).map_err(|e| engine_error("read", e))
    }

    /// The row of an entry in `activity`.
    fn stored_activity(&self, entry: Fingerprint) -> Result<Option<Activity>> {
        let Some(value) = self.activity(entry)? else { return Ok(None) };
        self.decode_activity(entry, &value).map(Some).map_err(|e| damaged("activity", &entry, e))
    }

    fn decode_activity(&self, entry: Fingerprint, value: &[u8]) -> Result<Activity, CodecError> {
        let found = Activity::decode(value)?;
        if self.fingerprint(&found.key) == entry { Ok(found) } else { Err(CodecError::WrongKey) }
    }

    /// A row of `activity`: the entry that it is of, and what it says, if it is the row of the key in it.
    pub(in crate::storage) fn activity_row(
        &self,
        row: &[u8],
        value: &[u8],
    ) -> Result<(Fingerprint, Activity), CodecError> {
        let entry = whole_fingerprint(row)?;
        Ok((entry, self.decode_activity(entry, value)?))
    }

    /// What stands for an entry in messages: its redacted key, where that can be found.
    pub(in crate::storage) fn shown(&self, entry: Fingerprint) -> String {
        self.key_of(entry).ok().flatten().map_or_else(|| entry.to_string(), |key| key.to_string())
    }

    /// For a row that may tell its entry, by which it is named then.
    pub(in crate::storage) fn damaged_row(
        &self,
        tree: &'static str,
        row: &[u8],
        entry: Option<Fingerprint>,
        error: CodecError,
    ) -> Error {
        match entry {
            Some(entry) => damaged(tree, &self.shown(entry), error),
            None => damaged_at(tree, row, error),
        }
    }

    /// The cold record on disk, as its bytes.
    pub(crate) fn stored_cold(&self, key: &SessionKey) -> Result<Option<StoredCold>> {
        let value = self.trees.sessions.get(bytes(key)).map_err(|e| engine_error("read", e))?;
        Ok(value.map(StoredCold))
    }

    /// What the bytes of a cold record say. Details that it had no room for are read from the base of the extras.
    pub(crate) fn decode_cold(&self, key: &SessionKey, stored: &StoredCold) -> Result<Cold> {
        let (mut cold, spilled) = stored.decode(key)?;
        if spilled {
            let base = cold.extras.as_ref().and_then(|extras| extras.base);
            let details = match base {
                Some(at) => PartsOf { engine: self, key, waiting: None }.base(at)?.details,
                None => None,
            };
            cold.details = details.ok_or_else(|| damaged("sessions", key, CodecError::NoDetails))?;
        }
        Ok(cold)
    }

    /// A part of an entry's extras, put together from its chunks.
    pub(crate) fn part(&self, key: &SessionKey, at: ExtrasRef) -> Result<Vec<u8>> {
        let expected = usize::try_from(at.bytes).unwrap_or(usize::MAX);
        let mut whole = Vec::with_capacity(expected.min(codec::MAX_EXTRAS_BYTES));
        let rows = self.trees.extras.scan_prefix(ExtrasRow::prefix(self.fingerprint(key), at.generation));
        for (expected, row) in (0_u32..).zip(rows) {
            let (row, value) = row.map_err(|e| engine_error("read", e))?;
            let part = match ExtrasRow::decode(&row) {
                Ok(row) if row.chunk != expected => Err(CodecError::NoChunk(expected)),
                Ok(_) => codec::chunk(&value),
                Err(error) => Err(error),
            };
            whole.extend_from_slice(part.map_err(|e| damaged("extras", key, e))?);
        }
        if whole.len() != expected {
            return Err(damaged("extras", key, CodecError::ExtrasLength { found: whole.len(), expected }));
        }
        Ok(whole)
    }

    /// Bytes that the store takes on disk.
    pub(crate) fn bytes_on_disk(&self) -> Result<u64> {
        files::bytes_below(&self.path)
    }
}

pub(in crate::storage) fn bytes(key: &SessionKey) -> &[u8] {
    key.as_str().as_bytes()
}

pub(in crate::storage) fn damaged(record: &'static str, key: &impl std::fmt::Display, error: CodecError) -> Error {
    Error::DamagedRecord { record, key: key.to_string(), source: Box::new(error) }
}

/// For a row whose own key cannot be shown.
pub(in crate::storage) fn damaged_at(record: &'static str, row: &[u8], error: CodecError) -> Error {
    damaged(record, &format_args!("row #{:08x}", crc32fast::hash(row)), error)
}
