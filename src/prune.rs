//! Pruning: removing what has been idle for too long, and nothing that is still needed.
//!
//! A pass reads the index of activity from its oldest bucket to the cutoff, so it costs what has expired and what is
//! protected, however large the store. For each entry that is really expired it asks, in this order: is it suspended;
//! does the [`ActivityGuard`] know an active process for its *key*; has it been used meanwhile. Only then it goes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::codec::{ActivityRow, Bucket, Hot, SUSPENDED};
use crate::config::Config;
use crate::error::{Result, panic_message};
use crate::key::SessionKey;
use crate::store::SessionStore;
use crate::time::Timestamp;

/// Index rows read at a time. Between two batches a pass can be stopped.
const BATCH: usize = 512;

/// What to prune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Remove what has been idle for longer. `None` disables pruning.
    pub max_age: Option<Duration>,
}

impl PrunePolicy {
    /// Removes what has been idle for more than `days`. Zero and negative numbers disable pruning.
    #[must_use]
    pub fn max_age_days(days: i64) -> Self {
        let days = u64::try_from(days).ok().filter(|days| *days > 0);
        Self { max_age: days.map(|days| Duration::from_secs(days.saturating_mul(24 * 60 * 60))) }
    }

    /// Entries with an `updated_at` before this are expired at `now`.
    #[must_use]
    pub fn cutoff(&self, now: Timestamp) -> Option<Timestamp> {
        self.max_age.map(|age| now.saturating_sub(age))
    }
}

impl Default for PrunePolicy {
    fn default() -> Self {
        Self::from(&Config::default())
    }
}

impl From<&Config> for PrunePolicy {
    fn from(config: &Config) -> Self {
        Self::max_age_days(config.session_store_max_age_days)
    }
}

/// Knows which conversations have work in progress.
///
/// It is asked with the session **key**. That a guard was asked with a session *id*, which it never knew, is the bug
/// that began this project: live work was orphaned. Here the types forbid it.
///
/// ```compile_fail,E0308
/// use cloakroom::{ActivityGuard, SessionId, Verdict};
/// fn ask(guard: &dyn ActivityGuard, id: &SessionId) -> Verdict {
///     guard.check(id) // expected `&SessionKey`, found `&SessionId`
/// }
/// ```
///
/// Closures that answer `bool` or a `Result<bool, _>` are guards:
///
/// ```no_run
/// # use std::collections::HashSet;
/// # use cloakroom::{PrunePolicy, SessionKey, SessionStore};
/// # fn f(store: &SessionStore, running: &HashSet<SessionKey>) -> cloakroom::Result<()> {
/// let report = store.prune(&PrunePolicy::max_age_days(90), |key: &SessionKey| running.contains(key))?;
/// # Ok(()) }
/// ```
pub trait ActivityGuard: Send + Sync {
    /// Whether the conversation has work in progress. No lock is held meanwhile: the store may be used from here.
    fn check(&self, key: &SessionKey) -> Verdict;
}

/// What a guard answers.
#[derive(Debug)]
pub enum Verdict {
    /// Work is in progress: the entry stays.
    Active,
    /// There is none.
    Idle,
    /// The guard does not know. The entry stays.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl From<bool> for Verdict {
    fn from(active: bool) -> Self {
        if active { Self::Active } else { Self::Idle }
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<Result<bool, E>> for Verdict {
    fn from(answer: Result<bool, E>) -> Self {
        answer.map_or_else(|error| Self::Failed(error.into()), Self::from)
    }
}

impl<F, R> ActivityGuard for F
where
    F: Fn(&SessionKey) -> R + Send + Sync,
    R: Into<Verdict>,
{
    fn check(&self, key: &SessionKey) -> Verdict {
        self(key).into()
    }
}

/// The guard of a gateway without background work: nothing is ever active.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoActivity;

impl ActivityGuard for NoActivity {
    fn check(&self, _: &SessionKey) -> Verdict {
        Verdict::Idle
    }
}

/// What a pass did, or would have done. Every count but `removed` is of entries past the cutoff that were kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PruneReport {
    /// Nothing was removed; `removed` says how many would have been.
    pub dry_run: bool,
    /// Entries with an `updated_at` before this were expired. `None` if pruning is disabled.
    pub cutoff: Option<Timestamp>,
    /// Entries removed.
    pub removed: u64,
    /// Kept because they are suspended.
    pub kept_suspended: u64,
    /// Kept because the guard says that work is in progress.
    pub kept_active: u64,
    /// Kept because the guard failed or panicked.
    pub guard_failed: u64,
    /// Kept because they were used between the look and the removal.
    pub touched_meanwhile: u64,
    /// Out-of-date index rows that were cleared on the way.
    pub stale_rows_cleared: u64,
    /// How long the oldest protected entry has been idle, in seconds.
    #[serde(rename = "oldest_protected_seconds", serialize_with = "seconds")]
    pub oldest_protected: Option<Duration>,
    /// The pass was told to stop before its end.
    pub stopped: bool,
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs()).serialize(serializer)
}

impl SessionStore {
    /// Removes the entries that have been idle for longer than the policy allows, but no protected one, and returns
    /// when that is durable.
    ///
    /// A touch between the look at an entry and its removal always wins. Nothing is committed if nothing was removed.
    /// What is removed is the mapping from key to session: a returning user gets a fresh entry, as after a
    /// [`reset`](SessionStore::reset), but with no previous id to tell. Transcripts are not the store's.
    pub fn prune(&self, policy: &PrunePolicy, guard: impl ActivityGuard) -> Result<PruneReport> {
        self.prune_pass(policy, &guard, false, || true)
    }

    /// Reports what [`prune`](SessionStore::prune) would do. The guard is asked as there.
    pub fn prune_dry_run(&self, policy: &PrunePolicy, guard: impl ActivityGuard) -> Result<PruneReport> {
        self.prune_pass(policy, &guard, true, || true)
    }

    /// Prunes or reports, and stops between two batches once `go_on` says no.
    pub(crate) fn prune_pass(
        &self,
        policy: &PrunePolicy,
        guard: &dyn ActivityGuard,
        dry_run: bool,
        go_on: impl Fn() -> bool,
    ) -> Result<PruneReport> {
        let now = self.now();
        let report = PruneReport { dry_run, cutoff: policy.cutoff(now), ..PruneReport::default() };
        Pass { store: self, guard, now, report }.run(go_on)
    }

    /// How many index rows lie before the policy's cutoff, counted up to `limit`: at least as many as a pass would
    /// remove.
    pub(crate) fn count_expired(&self, policy: &PrunePolicy, limit: u64) -> Result<u64> {
        let Some(cutoff) = policy.cutoff(self.now()) else { return Ok(0) };
        self.commits().apply_pending()?;
        self.commits().engine().count_rows(Bucket::of(cutoff), limit)
    }
}

/// One pass over the expired end of the index.
struct Pass<'a> {
    store: &'a SessionStore,
    guard: &'a dyn ActivityGuard,
    now: Timestamp,
    report: PruneReport,
}

impl Pass<'_> {
    fn run(mut self, go_on: impl Fn() -> bool) -> Result<PruneReport> {
        let Some(cutoff) = self.report.cutoff else { return Ok(self.report) };
        self.store.commits().apply_pending()?;
        let mut after = None;
        loop {
            let rows = self.store.commits().engine().oldest_rows(after.as_ref(), Bucket::of(cutoff), BATCH)?;
            let Some(last) = rows.last().copied() else { break };
            if !go_on() {
                self.report.stopped = true;
                break;
            }
            self.batch(rows, cutoff)?;
            after = Some(last);
        }
        if self.report.removed > 0 && !self.report.dry_run {
            self.store.flush()?;
        }
        Ok(self.report)
    }

    fn batch(&mut self, rows: Vec<ActivityRow>, cutoff: Timestamp) -> Result<()> {
        let mut doubtful = Vec::new();
        for row in rows {
            let seen_at = self.store.commits().open_commit();
            let hot = self.store.commits().peek_hot(row.entry)?.filter(|hot| Bucket::of(hot.updated_at) == row.bucket);
            // An entry that is gone or has moved on. Whether the row is out of date on disk too, the committer knows.
            let Some(hot) = hot else {
                doubtful.push(row);
                continue;
            };
            if hot.updated_at < cutoff
                && let Some(key) = self.store.commits().engine().key_of(row.entry)?
            {
                self.expired(&key, hot, seen_at)?;
            }
        }
        if !self.report.dry_run {
            self.report.stale_rows_cleared += self.store.commits().recheck(doubtful)?;
        }
        Ok(())
    }

    /// Decides on an entry that is past the cutoff.
    fn expired(&mut self, key: &SessionKey, seen: Hot, seen_at: u64) -> Result<()> {
        let kept = if seen.is(SUSPENDED) {
            &mut self.report.kept_suspended
        } else {
            match ask(self.guard, key) {
                Verdict::Active => &mut self.report.kept_active,
                Verdict::Failed(error) => {
                    tracing::debug!(%key, %error, "the activity guard failed; the entry is kept");
                    &mut self.report.guard_failed
                }
                Verdict::Idle => return self.remove(key, &seen, seen_at),
            }
        };
        *kept += 1;
        let idle = self.now.since(seen.updated_at);
        self.report.oldest_protected = self.report.oldest_protected.max(Some(idle));
        Ok(())
    }

    /// Removes the entry, unless it has changed since it was seen.
    fn remove(&mut self, key: &SessionKey, seen: &Hot, seen_at: u64) -> Result<()> {
        if self.report.dry_run {
            self.report.removed += 1;
            return Ok(());
        }
        let mut locked = self.store.commits().lock(key)?;
        // A touch under a clock that stands still leaves the record as it was, but not the entry unchanged.
        if locked.hot() != Some(*seen) || locked.changed_since(seen_at) {
            self.report.touched_meanwhile += 1;
            return Ok(());
        }
        let commit = locked.remove();
        drop(locked);
        self.store.commits().receipt(commit);
        self.report.removed += 1;
        Ok(())
    }
}

/// Asks the guard. A panic in it is a failure.
pub(crate) fn ask(guard: &dyn ActivityGuard, key: &SessionKey) -> Verdict {
    catch_unwind(AssertUnwindSafe(|| guard.check(key)))
        .unwrap_or_else(|panic| Verdict::Failed(panic_message(&*panic).into()))
}
