//! What the verbs of [`SessionStore`](crate::SessionStore) answer.

use serde::{Deserialize, Serialize};

use crate::commit::Receipt;
use crate::entry::SessionEntry;
use crate::key::SessionId;
use crate::storage::{Compacted, Opened};
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

/// What [`SessionStore::open`](crate::SessionStore::open) found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenReport {
    /// The store was made just now.
    pub created: bool,
    /// The store had been closed properly.
    pub clean: bool,
    /// What was put right, in words: after a crash, for a count of entries that could not be trusted, or for a part that
    /// could be made again. Also if no space could be kept for a full disk.
    pub repairs: Vec<String>,
    /// Set if the database holds less than had been synced: something damaged its files.
    pub shortfall: Option<Shortfall>,
    /// Entries whose time lies more than a day ahead of the clock. Counted up to half of all.
    pub times_ahead: u64,
    /// They are half of all entries or more, so the clock is taken for wrong. Until it has run for a day without a
    /// jump, over restarts too, no entry ages: nothing is pruned, no policy of idleness or of the hour ends a session,
    /// and no time is set right.
    pub clock_doubted: bool,
    /// What compacting it came to, where [`Options::compact_at_open`](crate::Options::compact_at_open) asked for that and it
    /// was worth it. If it could not be done, `repairs` says why.
    pub compacted: Option<CompactReport>,
}

impl OpenReport {
    /// What opening found, which is logged too.
    pub(crate) fn of(opened: &mut Opened) -> Self {
        let shortfall = opened.expected.map(|expected| Shortfall {
            expected_commit: expected.commit,
            found_commit: opened.mark.commit,
            expected_entries: expected.count,
            found_entries: opened.mark.count,
        });
        if let Some(shortfall) = &shortfall {
            tracing::error!(
                ?shortfall,
                "the store holds less than had been synced; restore a backup or check the disk"
            );
        }
        let repairs = std::mem::take(&mut opened.repairs);
        for repair in &repairs {
            tracing::warn!(repair, "repaired");
        }
        let compacted = opened.compacted.as_ref().map(CompactReport::of);
        Self { created: opened.created, clean: opened.clean, repairs, shortfall, compacted, ..Self::default() }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CompactReport {
    /// Entries of the store.
    pub entries: u64,
    /// Bytes of all files of the store before.
    pub bytes_before: u64,
    /// Bytes of all files of the store after.
    pub bytes_after: u64,
}

impl CompactReport {
    /// What was done, which is logged too.
    pub(crate) fn of(done: &Compacted) -> Self {
        let Compacted { entries, bytes_before, bytes_after } = *done;
        tracing::info!(entries, bytes_before, bytes_after, "compacted");
        Self { entries, bytes_before, bytes_after }
    }
}

/// How far a database is behind what had been synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shortfall {
    /// The newest commit known to have been synced.
    pub expected_commit: u64,
    /// The newest commit in the database.
    pub found_commit: u64,
    /// The entries there were at that commit.
    pub expected_entries: u64,
    /// The entries there are.
    pub found_entries: u64,
}

/// What [`SessionStore::resolve`](crate::SessionStore::resolve) answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Resolved {
    /// The entry to work with.
    pub entry: SessionEntry,
    /// Where it comes from.
    pub resolution: Resolution,
    /// Tells when the touch or the creation is durable.
    pub receipt: Receipt,
}

/// An entry as a verb left it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Written {
    /// The entry, with its new revision.
    pub entry: SessionEntry,
    /// Tells when the change is durable.
    pub receipt: Receipt,
}

/// What [`SessionStore::put`](crate::SessionStore::put) answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Put {
    /// There was no entry; there is one now.
    Created(Written),
    /// The entry took the place of another.
    Replaced(Written),
    /// What is there is not what was expected, and stays: this entry, or none.
    Unexpected(Option<SessionEntry>),
}

/// What [`SessionStore::modify`](crate::SessionStore::modify) answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Modified {
    /// There was no entry; there is one now.
    Created(Written),
    /// The entry was changed.
    Changed(Written),
    /// It stays as it was: this entry, or none.
    Kept(Option<SessionEntry>),
    /// It is gone.
    Removed(Receipt),
}

/// What [`SessionStore::repoint`](crate::SessionStore::repoint) answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Repointed {
    /// The key leads to the new session now.
    Switched(Written),
    /// It led there already; nothing was changed.
    Same(SessionEntry),
    /// It leads to another session than was expected, and still does.
    Unexpected(SessionEntry),
    /// There is no entry.
    Missing,
}

/// Where a resolved entry comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Resolution {
    /// It was there, and was touched.
    Existing,
    /// There was none.
    Created,
    /// There was one, and it was replaced by a fresh one.
    Replaced {
        /// Why.
        reason: ReplaceReason,
        /// The session before.
        previous: SessionId,
        /// Whether that had used any tokens.
        had_activity: bool,
    },
}

/// Why an entry was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReplaceReason {
    /// It was suspended.
    Suspended,
    /// It had been idle for longer than its policy allows.
    Idle,
    /// The hour of the day at which its policy starts afresh has passed since it was used.
    Daily,
    /// The gateway asked for a fresh one.
    Requested,
}

impl ReplaceReason {
    /// The same, unless somebody asked for it.
    pub(crate) fn by_rule(self) -> Option<Self> {
        Some(self).filter(|reason| *reason != Self::Requested)
    }

    /// The word that is kept in `auto_reset_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::Idle => "idle",
            Self::Daily => "daily",
            Self::Requested => "requested",
        }
    }
}

/// What [`SessionStore::remove_if`](crate::SessionStore::remove_if) answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Removal {
    /// The entry is gone.
    Removed(Receipt),
    /// The entry is not the one that was seen, and stays.
    Changed,
    /// There is no entry.
    Missing,
}

/// What comes of a change that was to be made only where the entry has a certain revision.
#[derive(Debug)]
pub(crate) enum IfSeen<T> {
    /// It was made, or there was no entry to make it to.
    Done(T),
    /// The entry has another revision, and stays.
    Differs,
}

impl<T> IfSeen<T> {
    /// The answer of a change that was to be made whatever the revision.
    pub(crate) fn done(self) -> Option<T> {
        match self {
            Self::Done(done) => Some(done),
            Self::Differs => None,
        }
    }
}

/// Figures of a store.
///
/// With the feature `metrics` the library also tells some of these to the recorder of the crate `metrics`, if there is one:
/// [the page on metrics](crate::guide::metrics) lists them. The label `store` is the path of the store. A recorder may use
/// the store, but must not wait for a commit: that of a commit is called by the thread that makes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// How many entries there are.
    pub entries: u64,
    /// Bytes of all files of the store.
    pub bytes_on_disk: u64,
    /// Entries whose changes wait for their commit, or are being written by it. However often an entry was changed, it
    /// counts once.
    pub pending: usize,
    /// The number of the newest commit that changed something.
    pub last_commit: u64,
    /// `updated_at` of the entry idle for longest.
    pub oldest: Option<Timestamp>,
    /// `updated_at` of the entry active last, likewise.
    pub newest: Option<Timestamp>,
    /// Records that were passed over while these two were looked for;
    /// [`verify`](crate::SessionStore::verify) counts all there are.
    pub unreadable: Unreadable,
}
