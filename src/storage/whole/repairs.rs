//! What a repair changed.

use serde::Serialize;

/// What [`SessionStore::repair`](crate::SessionStore::repair) changed. Each field counts rows, or entries where it
/// says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Repairs {
    /// Entries there are now.
    pub entries: u64,
    /// Entries whose own record could not be decoded: they are gone, and their bytes in the quarantine.
    pub entries_lost: u64,
    /// Entries whose extras were not whole: the entry stays, and those of its extras that are whole.
    pub extras_lost: u64,
    /// Entries among those whose platform, names and origin had been kept in the extras, and are lost too.
    pub details_lost: u64,
    /// Hot records made anew, at the time at which the index had the entry. Counters and flags begin at zero.
    pub activity_from_index: u64,
    /// Hot records made anew as the journal had them. Nothing of them is lost.
    pub activity_from_journal: u64,
    /// Hot records made anew at the entry's time of creation, since the index had none. Counters and flags likewise.
    pub activity_from_creation: u64,
    /// Missing rows of `by_updated_at`, written.
    pub age_rows_written: u64,
    /// Missing rows of `by_session_id`, written.
    pub id_rows_written: u64,
    /// Hot records without an entry or that cannot be decoded, removed.
    pub activity_removed: u64,
    /// Rows of `by_updated_at` that were out of date, and pages of them that could not be decoded, removed.
    pub age_rows_removed: u64,
    /// Rows of `by_session_id` that were wrong or could not be decoded, removed.
    pub id_rows_removed: u64,
    /// Pieces of extras that no entry names, removed.
    pub chunks_removed: u64,
    /// Turn markers whose session is gone, removed.
    pub turns_removed: u64,
    /// Leases whose entry is gone, or that could not be decoded, removed.
    pub leases_removed: u64,
    /// Notes of imported files that could not be decoded, removed.
    pub notes_lost: u64,
    /// Whether the time zone of the last import could not be decoded, and was removed.
    pub zone_lost: bool,
    /// Whether the note of the changes under way could not be decoded, and was removed.
    pub intent_removed: bool,
    /// Whether the counter of entries was wrong.
    pub count_corrected: bool,
    /// Rows of the journal of late activity that could not be decoded: what they said is lost, and their bytes are
    /// in the quarantine.
    pub journal_rows_lost: u64,
    /// Rows whose bytes went into the quarantine.
    pub quarantined: u64,
}

impl Repairs {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { entries: self.entries, ..Self::default() }
    }

    /// Whether something is gone from the store that cannot be made anew: see the quarantine.
    #[must_use]
    pub fn has_losses(&self) -> bool {
        self.quarantined > 0 || self.activity_from_index + self.activity_from_creation > 0
    }
}
