//! What a check of a store found.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::unreadable::{Unreadable, UnreadableRecord};

/// What [`SessionStore::verify`](crate::SessionStore::verify) found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Verification {
    /// Entries that were checked.
    pub entries: u64,
    /// Every broken invariant; empty if the store is sound.
    pub violations: Vec<Violation>,
    /// Index rows that are out of date, as a crash may leave them. They are harmless: the journal has a note of each, and they go
    /// when it is carried, or when a pass meets them.
    pub stale_rows: u64,
    /// Chunks of extras that no entry names, as a crash may leave them. They are swept at the entry's next change.
    pub orphaned_chunks: u64,
    /// Turn markers whose entry is gone or has another session, as a crash may leave them. They are harmless and
    /// cleared at the next recovery.
    pub orphaned_turns: u64,
    /// Leases whose entry is gone, as damage may leave them. They are harmless: they hold nothing, and are cleared when
    /// they end, or when their key gets an entry again.
    pub orphaned_leases: u64,
    /// Entries whose time lies more than a day ahead of the clock, as one that ran ahead may have left them. A few are
    /// set right by their next change, see [`SessionStore::touch`](crate::SessionStore::touch).
    pub times_ahead: u64,
    /// Whether the entry counter was compared; it is not while the store is being written to.
    pub count_checked: bool,
}

/// One broken invariant. Keys are redacted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "violation", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Violation {
    /// A row of a tree does not decode.
    #[error("{tree}: cannot decode {key}: {reason}")]
    Unreadable {
        /// The tree.
        #[serde(deserialize_with = "crate::unreadable::tree")]
        tree: crate::unreadable::TreeName,
        /// The entry, or the row's place.
        key: String,
        /// Why not.
        reason: String,
    },
    /// An entry has no hot record.
    #[error("{key} has no activity record")]
    NoActivity {
        /// The entry.
        key: String,
    },
    /// An entry has no index row that is not later than its `updated_at`, so pruning cannot find it.
    #[error("{key} has no row in by_updated_at at or before its time")]
    NoAgeRow {
        /// The entry.
        key: String,
    },
    /// An entry has no row for its session id.
    #[error("{key} has no row in by_session_id")]
    NoIdRow {
        /// The entry.
        key: String,
    },
    /// A hot record has no entry.
    #[error("activity holds {key}, which has no entry")]
    OrphanedActivity {
        /// The entry.
        key: String,
    },
    /// A row for a session id points to no entry, or to one that has another id.
    #[error("by_session_id points to {key}, which does not have that id")]
    WrongIdRow {
        /// The key.
        key: String,
    },
    /// An entry's extras are missing or incomplete.
    #[error("the extras of {key} are not whole: {reason}")]
    BrokenExtras {
        /// The entry.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The entry counter is off.
    #[error("the counter says {counted} entries, and there are {found}")]
    WrongCount {
        /// The counter.
        counted: u64,
        /// The entries there are.
        found: u64,
    },
}

impl Verification {
    /// A record that cannot be decoded is a violation; another failure ends the check.
    pub(super) fn fault(&mut self, error: Error) -> Result<()> {
        self.report::<()>(Err(error)).map(drop)
    }

    /// What was read; `None`, and a violation, if that is a record that cannot be decoded.
    pub(super) fn report<T>(&mut self, read: Result<T>) -> Result<Option<T>> {
        let read = Unreadable::split(read)?.map_err(|UnreadableRecord { tree, key, reason }| {
            self.violations.push(Violation::Unreadable { tree, key, reason });
        });
        Ok(read.ok())
    }
}
