//! What an import did.

use serde::Serialize;

use crate::gateway::Gateway;
use crate::zone::TimeZone;

/// What an import did. Every entry of the file is counted in `read`, and in exactly one of `imported`, `updated`,
/// `kept`, `duplicates` and `quarantined`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ImportReport {
    /// Whose file it was; `None` if it had no entry to tell by.
    #[serde(rename = "format")]
    pub gateway: Option<Gateway>,
    /// Where naive times were taken to be at home.
    pub zone: TimeZone,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Bytes read.
    pub bytes: u64,
    /// Entries met, bad ones included.
    pub read: u64,
    /// Entries that the store did not have.
    pub imported: u64,
    /// Entries that took the place of one in the store.
    pub updated: u64,
    /// Entries left out because the store's stays: it is the same, it was active later, or it was changed, or
    /// [`OnConflict::Keep`](crate::import::OnConflict::Keep) says so.
    pub kept: u64,
    /// Of those kept, entries that are the same in the store.
    pub unchanged: u64,
    /// Of those kept, entries that were active at the same time as the store's and hold something else, where the
    /// store's was not imported, or was changed since.
    pub changed_here: u64,
    /// Entries that the store had before and the file does not have. They stay.
    pub not_in_file: u64,
    /// Entries whose key came before in the file. The newest of a key is in the store.
    pub duplicates: u64,
    /// Bad entries: in the quarantine, and not in the store.
    pub quarantined: u64,
    /// Notes (keys that begin with `_`) met.
    pub notes: u64,
    /// Notes of them that the store does not have: the name is in the file again, or the store's stays.
    pub notes_left_out: u64,
    /// The zone that the store remembers, where it is not `zone`, and entries with naive times were kept. If it was
    /// wrong, [`OnConflict::Replace`](crate::import::OnConflict::Replace) reads them anew.
    pub kept_zone: Option<String>,
    /// Times before 1970, or more than a day in the future. They were moved: to 1970, and to the file's time. An
    /// export writes the time they were moved to.
    pub clamped: u64,
    /// Local times that a change of the clocks skipped. They were moved forward by what was skipped.
    pub skipped_hours: u64,
    /// Local times that a change of the clocks repeated. They were taken for the earlier.
    pub repeated_hours: u64,
    /// Entries that do not say when they were active. They are as old as the file.
    pub without_time: u64,
    /// Times that cannot be parsed. They count as missing: an entry whose activity is one of them is as old as the
    /// file. An export writes them as they were.
    pub unreadable_times: u64,
    /// Other fields that hold what does not belong there, `"suspended": "yes"` or a negative count. The store has false,
    /// zero or nothing; an export writes them as they were.
    pub odd_values: u64,
    /// Fields that came again later in the same entry. The last one of a name is in the store.
    pub repeated_fields: u64,
    /// Of a database: entries that the `sessions.json` beside it, which mirrors it, has otherwise. The database's count.
    pub mirror_differs: u64,
    /// Of a database: entries that only that file has. They are not imported.
    pub mirror_only: u64,
    /// The first bad entries, at most 20, without their keys.
    pub problems: Vec<Problem>,
    /// Set if the file is damaged or cut off: what comes after this place was not read.
    pub damage: Option<Damage>,
}

/// A bad entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// The line on which its key stands, from 1; of a database the row.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Where a file ceases to make sense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Damage {
    /// Line, from 1; of a database the row.
    pub line: u64,
    /// Column in bytes, from 1.
    pub column: u64,
    /// Bytes before it.
    pub byte: u64,
    /// What was found there.
    pub reason: String,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ImportProgress {
    /// Bytes read.
    pub bytes: u64,
    /// Entries read.
    pub read: u64,
    /// Bad ones among them.
    pub quarantined: u64,
}

const MAX_PROBLEMS: usize = 20;

impl ImportReport {
    pub(super) fn new(gateway: Option<Gateway>, zone: TimeZone, dry_run: bool) -> Self {
        Self {
            gateway,
            zone,
            dry_run,
            bytes: 0,
            read: 0,
            imported: 0,
            updated: 0,
            kept: 0,
            unchanged: 0,
            changed_here: 0,
            not_in_file: 0,
            duplicates: 0,
            quarantined: 0,
            notes: 0,
            notes_left_out: 0,
            kept_zone: None,
            clamped: 0,
            skipped_hours: 0,
            repeated_hours: 0,
            without_time: 0,
            unreadable_times: 0,
            odd_values: 0,
            repeated_fields: 0,
            mirror_differs: 0,
            mirror_only: 0,
            problems: Vec::new(),
            damage: None,
        }
    }

    /// Whether all of the file was read: nothing was bad, and nothing damaged. What the store's own entries kept out is
    /// in `kept`.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.quarantined == 0 && self.damage.is_none()
    }

    pub(super) fn add_problem(&mut self, line: u64, reason: String) {
        self.quarantined += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { line, reason });
        }
    }

    pub(super) fn progress(&self) -> ImportProgress {
        ImportProgress { bytes: self.bytes, read: self.read, quarantined: self.quarantined }
    }
}
