//! Pruning: removing what has been idle for too long, and nothing that is still needed.
//!
//! A pass reads the index of activity from its oldest row to the cutoff, so it costs what has expired and what is
//! protected, however large the store. For each entry that is really expired it asks, in this order: is it suspended;
//! is it pinned; does a lease hold it; does the [`ActivityGuard`] know an active process for its *key*; has it been used meanwhile. Only then it goes.
//!
//! Caps come after age, in the same pass, and take the oldest unprotected entries that are left. Age never depends on
//! how many entries there are.
//!
//! Nothing goes while the clock is [doubted](crate::report::OpenReport::clock_doubted). An entry whose time is wrong, for it lies ahead of the
//! clock, counts as used when that was found.

mod decide;
mod guard;
mod pass;
mod plan;
mod report;

use std::time::Duration;

use tracing::field::Empty;

use crate::config::Config;
use crate::error::Result;
use crate::store::SessionStore;
use crate::time::Timestamp;

#[cfg(feature = "valkey")]
pub(crate) use decide::{Due, Shelf, decide};
pub use guard::{ActivityGuard, NoActivity, Verdict};
pub(crate) use guard::{Answer, ask};
use pass::Pass;
pub(crate) use plan::Scope;
#[cfg(feature = "live")]
pub(crate) use plan::{Planned, State};
pub use report::{Protected, ProtectedBy, PruneReport};

/// What to prune: what has been idle for too long, and, if there are caps, the oldest of what is too much.
///
/// ```
/// use std::time::Duration;
/// use cloakroom::PrunePolicy;
/// let policy = PrunePolicy::max_age_days(90)
///     .max_entries(100_000)
///     .max_active_age(Duration::from_secs(180 * 24 * 60 * 60));
/// assert_eq!(policy.max_entries, Some(100_000));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunePolicy {
    /// Remove what has been idle for longer. `None` disables pruning by age, and so does zero.
    pub max_age: Option<Duration>,
    /// Remove the oldest while there are more entries than this. Zero means no cap.
    pub max_entries: Option<u64>,
    /// Once live bytes are more than this, remove the oldest until they are at most
    /// [`low_water_bytes`](PrunePolicy::low_water_bytes). Zero means no cap.
    pub max_disk_bytes: Option<u64>,
    /// See [`max_disk_bytes`](PrunePolicy::max_disk_bytes).
    pub low_water_bytes: Option<u64>,
    /// An active entry, or one that a lease holds, is protected no more once it has been idle for longer. With `None`
    /// or zero it always is, as a suspended one.
    pub max_active_age: Option<Duration>,
}

impl PrunePolicy {
    /// Removes what has been idle for more than `days`. Zero and negative numbers disable pruning by age.
    #[must_use]
    pub fn max_age_days(days: i64) -> Self {
        let days = u64::try_from(days).ok().filter(|days| *days > 0);
        let max_age = days.map(|days| Duration::from_secs(days.saturating_mul(24 * 60 * 60)));
        Self { max_age, max_entries: None, max_disk_bytes: None, low_water_bytes: None, max_active_age: None }
    }

    /// Keeps at most `entries`: what is protected, and the youngest of the rest. Zero means no cap.
    #[must_use]
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.max_entries = Some(entries).filter(|entries| *entries > 0);
        self
    }

    /// Once live data is more than `high` bytes, removes the oldest entries until it is at most `low`. Zero means no
    /// cap; `low` is at most `high`. With a `low` of zero all that is not protected goes.
    ///
    /// What is compared is an estimate of *live* bytes: keys, records and extras as they were written, from a sample
    /// of 512 entries. sled never gives space back to the file system, and adds overhead of its own: the files stay
    /// as large as they have been, and what is removed makes room inside them for what comes. So set this well below
    /// the space that the files may take, a half or less, and before they have grown.
    #[must_use]
    pub fn max_disk_bytes(mut self, high: u64, low: u64) -> Self {
        self.max_disk_bytes = Some(high).filter(|high| *high > 0);
        self.low_water_bytes = self.max_disk_bytes.map(|high| low.min(high));
        self
    }

    /// Lets "active", and a lease, protect an entry only until it has been idle for longer than `age`. For guards and
    /// leases that never let go.
    /// Zero means for ever.
    #[must_use]
    pub fn max_active_age(mut self, age: Duration) -> Self {
        self.max_active_age = Some(age);
        self
    }

    /// Whether it removes nothing, whatever the store holds.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        let Self { max_age, max_entries, max_disk_bytes, .. } = self.limits();
        max_age.is_none() && max_entries.is_none() && max_disk_bytes.is_none()
    }

    /// Zero is no limit anywhere: it would take everything, for a slip in a computation.
    pub(crate) fn limits(&self) -> Self {
        Self {
            max_age: self.max_age.filter(|age| !age.is_zero()),
            max_entries: self.max_entries.filter(|entries| *entries > 0),
            max_disk_bytes: self.max_disk_bytes.filter(|bytes| *bytes > 0),
            low_water_bytes: self.low_water_bytes,
            max_active_age: self.max_active_age.filter(|age| !age.is_zero()),
        }
    }

    /// The part of it that depends on the clock.
    pub(crate) fn age_only(&self) -> Self {
        Self { max_entries: None, max_disk_bytes: None, low_water_bytes: None, ..*self }
    }

    /// Entries with an `updated_at` before this are expired at `now`.
    #[must_use]
    pub fn cutoff(&self, now: Timestamp) -> Option<Timestamp> {
        self.limits().max_age.map(|age| now.saturating_sub(age))
    }
}

impl Default for PrunePolicy {
    fn default() -> Self {
        Self::from(&Config::default())
    }
}

impl From<&Config> for PrunePolicy {
    fn from(config: &Config) -> Self {
        let positive = |number: i64| u64::try_from(number).unwrap_or(0);
        let high = positive(config.session_store_max_disk_bytes);
        let low = match positive(config.session_store_low_water_bytes) {
            0 => high / 5 * 4,
            low => low,
        };
        // Days become a duration in the same way.
        let max_active_age = Self::max_age_days(config.session_store_max_active_days).max_age;
        Self { max_active_age, ..Self::max_age_days(config.session_store_max_age_days) }
            .max_entries(positive(config.session_store_max_entries))
            .max_disk_bytes(high, low)
    }
}

impl SessionStore {
    /// Removes the entries that have been idle for longer than the policy allows, then the oldest of what its caps do
    /// not allow, but no protected one, and returns when that is durable.
    ///
    /// A touch between the look at an entry and its removal always wins. Nothing is committed if nothing was removed.
    /// What is removed is the mapping from key to session: a returning user gets a fresh entry, as after a
    /// [`reset`](SessionStore::reset), but with no previous id to tell. Transcripts are not the store's.
    ///
    /// While the clock is [doubted](crate::report::OpenReport::clock_doubted) nothing is removed, and the report says so. A
    /// mass prune is not held, as one of the [`Watcher`](crate::Watcher) is: look at a dry run first.
    pub fn prune(&self, policy: &PrunePolicy, guard: impl ActivityGuard) -> Result<PruneReport> {
        self.prune_pass(policy, &guard, None, false, Scope::All, || true)
    }

    /// Reports what [`prune`](SessionStore::prune) would do. The guard is asked as there.
    pub fn prune_dry_run(&self, policy: &PrunePolicy, guard: impl ActivityGuard) -> Result<PruneReport> {
        self.prune_pass(policy, &guard, None, true, Scope::All, || true)
    }

    /// Prunes or reports, and stops between two batches once `go_on` says no. What had expired by `as_of`, where that is
    /// given, has expired.
    pub(crate) fn prune_pass(
        &self,
        policy: &PrunePolicy,
        guard: &dyn ActivityGuard,
        as_of: Option<Timestamp>,
        dry_run: bool,
        scope: Scope<'_>,
        go_on: impl Fn() -> bool,
    ) -> Result<PruneReport> {
        let span = tracing::debug_span!("prune", dry_run, cutoff = Empty, removed = Empty, stopped = Empty).entered();
        let report =
            Pass::new(self, &policy.limits(), guard, self.check_clock()?, (as_of, dry_run), scope).run(go_on)?;
        if let Some(cutoff) = report.cutoff {
            span.record("cutoff", tracing::field::display(cutoff));
        }
        span.record("removed", report.removed).record("stopped", report.stopped);
        Ok(report)
    }

    /// How many index rows lie before the policy's cutoff at `now`, counted up to `limit`: at least as many as a pass
    /// would remove, but for entries whose time is wrong.
    pub(crate) fn count_expired(&self, policy: &PrunePolicy, now: Timestamp, limit: u64) -> Result<u64> {
        let Some(cutoff) = policy.cutoff(now) else { return Ok(0) };
        self.commits().apply_pending()?;
        self.commits().engine()?.count_rows(cutoff, limit)
    }
}

#[cfg(test)]
mod tests;
