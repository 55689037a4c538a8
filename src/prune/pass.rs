//! One pass: first what is too old, then what a cap wants gone.

mod caps;

use crate::clock_check::{Checked, is_ahead};
use crate::codec::{Activity, ActivityRow, Fingerprint};
use crate::commit::Seen;
use crate::error::Result;
use crate::events::{CHANGES, EventKind, PruneReason, Told};
use crate::key::{SessionId, SessionKey};
use crate::meter::Pruned;
use crate::store::SessionStore;
use crate::time::{Reading, Timestamp};

use super::PrunePolicy;
use super::decide::{Due, Shelf, decide};
use super::guard::ActivityGuard;
use super::plan::Scope;
use super::report::PruneReport;

/// Index rows read at a time. Between two batches a pass can be stopped.
const BATCH: usize = if cfg!(test) { 10 } else { 512 };

pub(super) struct Pass<'a> {
    store: &'a SessionStore,
    policy: &'a PrunePolicy,
    guard: &'a dyn ActivityGuard,
    scope: Scope<'a>,
    now: Reading,
    /// What has ended by then holds nothing.
    leases_at: Timestamp,
    report: PruneReport,
    /// Entries whose time is wrong, and when they count as used; the longest ago first.
    wrong: Vec<(Timestamp, Fingerprint)>,
    /// What there was when the pass began.
    entries: u64,
    live_bytes: Option<u64>,
    freed_bytes: u64,
    /// After age alone the live bytes are above their cap.
    is_too_large: bool,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        store: &'a SessionStore,
        policy: &'a PrunePolicy,
        guard: &'a dyn ActivityGuard,
        checked: Checked,
        (as_of, dry_run): (Option<Timestamp>, bool),
        scope: Scope<'a>,
    ) -> Self {
        let Checked { now, doubted, .. } = checked;
        let leases_at = checked.leases_at();
        let cutoff = policy.cutoff(as_of.unwrap_or(now.wall));
        let report = PruneReport { dry_run, cutoff, clock_doubted: doubted, ..PruneReport::default() };
        let mut wrong = store.clock_check().wrong_entries(now);
        wrong.sort_unstable();
        Self {
            store,
            policy,
            guard,
            scope,
            now,
            leases_at,
            report,
            wrong,
            entries: 0,
            live_bytes: None,
            freed_bytes: 0,
            is_too_large: false,
        }
    }

    pub(super) fn run(mut self, go_on: impl Fn() -> bool) -> Result<PruneReport> {
        if !self.report.dry_run {
            self.store.commits().leases()?.drop_ended(self.leases_at);
        }
        if self.policy.is_disabled() || self.report.clock_doubted {
            return Ok(self.report);
        }
        self.store.commits().apply_pending()?;
        self.entries = self.store.len();
        if self.policy.max_disk_bytes.is_some() {
            self.live_bytes = Some(self.store.commits().engine()?.live_bytes(self.entries)?);
        }
        if let Some(cutoff) = self.report.cutoff {
            self.remove_old(cutoff, &go_on)?;
        }
        if !self.report.stopped {
            self.remove_excess(&go_on)?;
        }
        self.report.kept_unreadable = self.report.unreadable.count;
        self.report.entries_over_cap = self.entries_over();
        self.report.live_bytes = self.live_bytes.map(|bytes| bytes.saturating_sub(self.freed_bytes));
        if self.report.dry_run {
            return Ok(self.report);
        }
        if self.report.removed > 0 {
            self.store.flush()?;
        }
        let at = self.store.now();
        self.store.commits().meter().pruned(&self.counted(at));
        Ok(self.report)
    }

    /// What the figures of the store take from the report.
    fn counted(&self, at: Timestamp) -> Pruned {
        let report = &self.report;
        let (entries, bytes) = (report.removed_over_entries, report.removed_over_bytes);
        let kept = [
            report.kept_suspended,
            report.kept_pinned,
            report.kept_held,
            report.kept_active,
            report.guard_failed,
            report.kept_unreadable,
            report.touched_meanwhile,
        ];
        let removed = [report.removed - entries - bytes, entries, bytes];
        Pruned { at, removed, kept, oldest_protected: report.oldest_protected }
    }

    fn remove_old(&mut self, cutoff: Timestamp, go_on: &impl Fn() -> bool) -> Result<()> {
        let (mut after, end) = (None, ActivityRow::first_at(cutoff));
        loop {
            let engine = self.store.commits().engine()?;
            let rows = engine.oldest_rows(after, Some(end), BATCH, &mut self.report.unreadable)?;
            let Some(last) = rows.last().copied() else { return self.remove_wrong(cutoff, go_on) };
            if !go_on() {
                self.report.stopped = true;
                return Ok(());
            }
            self.batch(rows)?;
            after = Some(last);
        }
    }

    /// The same of those whose time is wrong: the index has them in the future.
    fn remove_wrong(&mut self, cutoff: Timestamp, go_on: &impl Fn() -> bool) -> Result<()> {
        let expired: Vec<_> = self.wrong.iter().copied().take_while(|(used_at, _)| *used_at < cutoff).collect();
        for (n, (_, entry)) in expired.into_iter().enumerate() {
            if n % BATCH == BATCH - 1 && !go_on() {
                self.report.stopped = true;
                return Ok(());
            }
            let seen_at = self.store.commits().seen_now();
            if let Some(seen) = self.look_at_wrong(entry)? {
                self.decide(entry, &seen, seen_at, PruneReason::Age)?;
            }
        }
        Ok(())
    }

    /// An entry whose time was wrong, if it still is.
    fn look_at_wrong(&mut self, entry: Fingerprint) -> Result<Option<Activity>> {
        let seen = self.report.unreadable.pass(self.store.commits().peek_listed(entry))?.flatten();
        Ok(seen.filter(|seen| is_ahead(seen.hot.updated_at, self.now.wall)))
    }

    fn batch(&mut self, rows: Vec<ActivityRow>) -> Result<()> {
        let mut doubtful = Vec::new();
        for row in rows {
            let seen_at = self.store.commits().seen_now();
            // An entry that is gone or has moved on. Whether the row is out of date on disk too, the committer knows.
            match self.report.unreadable.pass(self.look(row))? {
                Some(Some(seen)) => {
                    // With the entry goes what tells that its other rows are out of date.
                    if doubtful.iter().any(|other: &ActivityRow| other.entry == row.entry) {
                        self.recheck(std::mem::take(&mut doubtful))?;
                    }
                    self.decide(row.entry, &seen, seen_at, PruneReason::Age)?;
                }
                Some(None) => doubtful.push(row),
                // Nobody knows.
                None => {}
            }
        }
        self.recheck(doubtful)
    }

    fn recheck(&mut self, doubtful: Vec<ActivityRow>) -> Result<()> {
        if !self.report.dry_run {
            self.report.stale_rows_cleared += self.store.commits().recheck(doubtful)?;
        }
        Ok(())
    }

    /// A row's entry, if the row is the one that it should have.
    fn look(&self, row: ActivityRow) -> Result<Option<Activity>> {
        let seen = self.store.commits().peek_row(&row)?;
        Ok(seen.filter(|seen| seen.hot.updated_at == row.time))
    }

    /// Decides on an entry that is due.
    fn decide(&mut self, entry: Fingerprint, seen: &Activity, seen_at: Seen, reason: PruneReason) -> Result<()> {
        let used_at = self.store.clock_check().used_at(entry, seen.hot.updated_at, self.now);
        let is_held = self.store.commits().leases()?.is_held(entry, self.leases_at);
        let due = Due { seen, idle: self.now.wall.since(used_at), is_held, reason };
        let mut taken = Taken {
            store: self.store,
            seen_at,
            leases_at: self.leases_at,
            // It was kept when the plan was made, or has been used or changed since, if it is not in the plan as it is.
            is_in_scope: match &self.scope {
                Scope::Only(planned) => planned.get(&entry) == Some(&(seen.hot.revision, seen.hot.updated_at)),
                Scope::All | Scope::Note(_) => true,
            },
            counts_bytes: self.live_bytes.is_some(),
            freed_bytes: &mut self.freed_bytes,
        };
        let outcome = decide(&mut self.report, self.policy, self.guard, &due, &mut taken)?;
        if let Scope::Note(planned) = &mut self.scope {
            planned.note(entry, seen, outcome, due.idle);
        }
        Ok(())
    }
}

/// Entries as a pass over the embedded store takes them.
struct Taken<'a> {
    store: &'a SessionStore,
    seen_at: Seen,
    leases_at: Timestamp,
    is_in_scope: bool,
    counts_bytes: bool,
    freed_bytes: &'a mut u64,
}

impl Shelf for Taken<'_> {
    /// Nothing that was seen is read again.
    fn remove(&mut self, seen: &Activity, dry_run: bool, is_overridden: bool) -> Result<Option<SessionId>> {
        let (Activity { key, hot }, seen_at) = (seen, self.seen_at);
        if !self.is_in_scope {
            return Ok(None);
        }
        let bytes = if self.counts_bytes { self.store.commits().engine()?.entry_bytes(key)? } else { 0 };
        let session = if dry_run {
            self.store.peek(key)?.map(|entry| entry.session_id)
        } else {
            let mut locked = self.store.commits().lock_seen(seen, seen_at)?;
            // A touch under a clock that stands still leaves the record as it was, but not the entry unchanged.
            let is_changed = locked.hot() != Some(*hot) || locked.changed_since(seen_at);
            if is_changed || !is_overridden && locked.is_held(self.leases_at) {
                return Ok(None);
            }
            let session = locked.cold()?.map(|cold| cold.session_id.clone());
            locked.remove();
            drop(locked);
            self.store.commits().kick_if_full();
            session
        };
        *self.freed_bytes += bytes;
        Ok(session)
    }

    fn removed(&mut self, key: &SessionKey, reason: PruneReason, session: &SessionId) {
        self.store.tell(key, CHANGES, || Told::gone(EventKind::Pruned { reason }, session));
    }
}
