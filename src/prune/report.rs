//! What a pass did, or would have done.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::SessionKey;
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

/// How many of the oldest protected entries a report names.
const NAMED: usize = 10;

/// What a pass did, or would have done.
///
/// An entry is *due* if it is past the cutoff, or if a cap wants it gone. The counts of what was kept are of entries
/// that were due: without caps, of entries past the cutoff.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PruneReport {
    /// Nothing was removed; `removed` says how many would have been.
    pub dry_run: bool,
    /// Entries with an `updated_at` before this were expired. `None` if pruning by age is disabled.
    pub cutoff: Option<Timestamp>,
    /// Entries removed, for whatever reason.
    pub removed: u64,
    /// How many of them were not too old, and went because of `max_entries`.
    pub removed_over_entries: u64,
    /// How many of them were not too old, and went because of `max_disk_bytes` alone.
    pub removed_over_bytes: u64,
    /// How many of them the guard called active, or a lease held, for longer than `max_active_age` allows.
    pub removed_active: u64,
    /// Kept because they are suspended.
    pub kept_suspended: u64,
    /// Kept because they are pinned.
    pub kept_pinned: u64,
    /// Kept because a lease holds them.
    pub kept_held: u64,
    /// Kept because the guard says that work is in progress.
    pub kept_active: u64,
    /// Kept because the guard failed or panicked.
    pub guard_failed: u64,
    /// Kept because a record of theirs cannot be decoded. Those whose time cannot be told either count if their index row
    /// lies before the cutoff, or among what a cap wants gone.
    pub kept_unreadable: u64,
    /// Kept because not every process of a cluster has said yet whether it is at work on them. The next passes go on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept_unreviewed: u64,
    /// Kept because they were used between the look and the removal.
    pub touched_meanwhile: u64,
    /// Out-of-date index rows that were cleared on the way.
    pub stale_rows_cleared: u64,
    /// How long the oldest protected entry has been idle, in seconds.
    #[serde(rename = "oldest_protected_seconds", serialize_with = "seconds", deserialize_with = "of_some_seconds")]
    pub oldest_protected: Option<Duration>,
    /// The oldest of the protected entries, the oldest first; at most ten.
    pub protected: Vec<Protected>,
    /// The records that cannot be decoded.
    pub unreadable: Unreadable,
    /// By how many entries the store is still above `max_entries`, because the rest are protected or in use. Zero if
    /// the cap is met, or there is none.
    pub entries_over_cap: u64,
    /// The estimate of live bytes after the pass; `None` without `max_disk_bytes`.
    pub live_bytes: Option<u64>,
    /// By how many bytes that is still above the low-water mark, because the rest are protected or in use. Zero if
    /// the cap is met, or there is none.
    pub bytes_over_cap: u64,
    /// The pass was asked to stop before its end.
    pub stopped: bool,
    /// On a cluster: what ended the pass early after it had removed or condemned something, or why what it removed is not known to
    /// be kept. What is counted was done, and the next pass goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Nothing was removed, since the clock is [doubted](crate::report::OpenReport::clock_doubted); on a cluster, since clocks of
    /// two nodes, or that of this host, are more than a minute apart.
    pub clock_doubted: bool,
}

/// An entry that was due and is protected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Protected {
    /// Its key. Printed with `Debug` it is redacted; serialized it is raw, as all data is.
    pub key: SessionKey,
    /// What protects it.
    pub reason: ProtectedBy,
    /// How long it has been idle, in seconds.
    #[serde(rename = "idle_seconds", with = "crate::time::seconds")]
    pub idle: Duration,
}

/// What protects an entry from being pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProtectedBy {
    /// It is suspended.
    Suspended,
    /// It is pinned.
    Pinned,
    /// A lease holds it.
    Held,
    /// The guard says that work is in progress.
    Active,
    /// The guard failed or panicked.
    GuardFailed,
    /// Its record cannot be decoded.
    Unreadable,
}

impl PruneReport {
    /// Counts an entry that is kept.
    pub(crate) fn keep(&mut self, key: &SessionKey, reason: ProtectedBy, idle: Duration) {
        match reason {
            ProtectedBy::Suspended => self.kept_suspended += 1,
            ProtectedBy::Pinned => self.kept_pinned += 1,
            ProtectedBy::Held => self.kept_held += 1,
            ProtectedBy::Active => self.kept_active += 1,
            ProtectedBy::GuardFailed => self.guard_failed += 1,
            // Counted with the others whose records cannot be decoded.
            ProtectedBy::Unreadable => {}
        }
        self.oldest_protected = self.oldest_protected.max(Some(idle));
        let place = self.protected.partition_point(|other| other.idle >= idle);
        if place < NAMED {
            self.protected.insert(place, Protected { key: key.clone(), reason, idle });
            self.protected.truncate(NAMED);
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs()).serialize(serializer)
}

fn of_some_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_secs))
}
