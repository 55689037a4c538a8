//! The committer: one thread that takes what is pending, writes it, syncs, and wakes those that wait.
//!
//! It sleeps until somebody asks, or something is due: the sync of the oldest change, a part of the journal, or the
//! state file. The first change after all others are in the trees wakes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::take::Taken;
use crate::error::{Error, Result, panic_message};
use crate::storage::Writer;
use crate::sync::{Inbox, Sender, Wake};

/// Changes after which their memory is freed, so that writers that wait for room go on soon.
const PIECE: usize = if cfg!(test) { 4 } else { 2048 };
/// How often the state file is synced.
const STATE_INTERVAL: Duration = Duration::from_secs(1);

/// What only the committer may do, since only it writes the trees.
pub(super) enum Order {
    /// Write something else than a commit, and answer.
    Write(Box<dyn FnOnce(&mut Committer) + Send>),
    /// Commit, leave the mark of a clean close, and end.
    Close(Sender<Result<()>>),
}

pub(super) struct Committer {
    pub(super) core: Arc<Core>,
    pub(super) writer: Writer,
    pub(super) inbox: Inbox<Order>,
    pub(super) interval: Duration,
    /// No change that is not synced is older.
    pub(super) unsynced_since: Option<Instant>,
    /// When the journal or the state file is due.
    pub(super) tend_at: Option<Instant>,
    pub(super) state_synced_at: Duration,
    /// Changes of the last commit.
    pub(super) committed: usize,
}

impl Committer {
    /// Commits until an order to close comes, or nobody is left to send one.
    pub(super) fn run(mut self) {
        self.core.progress.begin();
        // The journal of the last opening may be due.
        let _ = self.guarded(Self::tend);
        let mut woken = Instant::now();
        loop {
            if self.writer.is_dirty() || self.core.pending.is_waiting() {
                self.unsynced_since.get_or_insert(woken);
            }
            self.core.meter.waits_since(self.unsynced_since);
            let wake = self.inbox.next(self.next_due());
            woken = Instant::now();
            match wake {
                Wake::Kick if self.core.progress.take_commit_wanted() => {
                    let _ = self.guarded(|this| this.commit_and_tend(false));
                }
                // There is a change, for which nobody waits yet.
                Wake::Kick => {}
                Wake::Due if self.is_sync_due() => {
                    let _ = self.guarded(|this| this.commit_and_tend(true));
                }
                Wake::Due => {
                    let _ = self.guarded(Self::tend);
                }
                Wake::Order(Order::Write(write)) => write(&mut self),
                Wake::Order(Order::Close(answer)) => {
                    let closed = self.guarded(Self::close);
                    // The files are to be free when the caller goes on.
                    drop(self);
                    // The thread that asked may have given up.
                    let _ = answer.send(closed);
                    return;
                }
                Wake::Gone => {
                    // The store was dropped on this very thread, by the caller's clock: nobody waits for the answer.
                    let _ = self.guarded(Self::close);
                    return;
                }
            }
        }
    }

    /// Runs one step. After the first failure or panic the store is read-only, and no step runs.
    pub(super) fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.core.progress.check_failure()?;
        let result = catch_unwind(AssertUnwindSafe(|| step(self)))
            .unwrap_or_else(|panic| Err(Error::Panicked { message: panic_message(&*panic) }));
        result.map_err(|error| {
            self.core.engine.mark_suspect(&error);
            let read_only = self.core.progress.set_failed(error);
            self.core.meter.failed();
            read_only
        })
    }

    /// When there is something to do if nobody asks before. After a failure there never is.
    fn next_due(&self) -> Option<Instant> {
        let due = [self.sync_at(), self.tend_at].into_iter().flatten().min();
        due.filter(|_| !self.core.progress.is_failed())
    }

    fn sync_at(&self) -> Option<Instant> {
        self.unsynced_since?.checked_add(self.interval)
    }

    fn is_sync_due(&self) -> bool {
        self.sync_at().is_some_and(|at| at <= Instant::now())
    }

    fn commit_and_tend(&mut self, sync: bool) -> Result<()> {
        self.commit(sync)?;
        self.tend()
    }

    /// Carries a part of the journal, and syncs the state file, if it is time. Commits nothing.
    fn tend(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.committed);
        let now = self.core.clock.monotonic();
        let state_in = STATE_INTERVAL.saturating_sub(now.saturating_sub(self.state_synced_at));
        if state_in.is_zero() {
            self.state_synced_at = now;
            self.writer.sync_state(&self.core.engine)?;
        }
        self.writer.tend_journal(&self.core.engine, now, changes)?;
        let state_in = self.writer.is_state_due(&self.core.engine).then_some(state_in);
        let next = [state_in, self.writer.journal_due(&self.core.engine, now)].into_iter().flatten().min();
        self.tend_at = next.and_then(|next| Instant::now().checked_add(next));
        Ok(())
    }

    /// One commit: take, write, and sync if `sync` says so, someone waits for it, or it is time.
    fn commit(&mut self, sync: bool) -> Result<()> {
        let core = Arc::clone(&self.core);
        let started = Instant::now();
        let sync = core.progress.take_sync_wanted() || sync || self.is_sync_due();
        let taken = core.pending.take();
        let (commit, changes) = (taken.commit, taken.late.len() + taken.changes.len());
        let is_idle = changes == 0 && !(sync && self.writer.is_dirty());
        let _span = (!is_idle).then(|| tracing::debug_span!("commit", commit, changes, sync).entered());
        self.apply(&taken)?;
        if sync {
            if self.writer.is_dirty() {
                self.writer.sync(&core.engine)?;
            }
            self.unsynced_since = None;
            core.progress.set_durable(commit);
        }
        self.committed = changes;
        if changes > 0 {
            let (entries, pending) = (core.pending.count(), core.pending.changes());
            core.meter.committed(started.elapsed(), changes, entries, pending, core.engine.journal_entries());
            tracing::trace!(commit, changes, sync, micros = started.elapsed().as_micros(), "committed");
        }
        Ok(())
    }

    fn apply(&mut self, taken: &Taken) -> Result<()> {
        let Taken { commit, late, changes, markers, ended_leases } = taken;
        let (core, commit) = (&self.core, *commit);
        self.writer.drop_leases(&core.engine, ended_leases)?;
        for piece in late.chunks(PIECE) {
            self.writer.apply_late(&core.engine, piece.iter().copied())?;
            core.pending.settle_late(piece.len());
            core.progress.notify_applied();
        }
        self.writer.apply(&core.engine, changes, PIECE, |piece| {
            core.pending.settle(piece);
            core.progress.notify_applied();
        })?;
        // After all changes: what ended a turn is to be there before its marker goes, and a session before its turn.
        self.writer.apply_turns(&core.engine, markers)?;
        if !late.is_empty() || !changes.is_empty() {
            self.writer.finish(&core.engine, commit)?;
            core.progress.set_changed(commit);
        }
        core.progress.set_applied(commit);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.commit(true)?;
        // The call of close ended these turns, so their markers need not wait for the clean mark.
        self.core.pending.turns.drop_live();
        self.writer.apply_turns(&self.core.engine, &self.core.pending.take_dropped_markers())?;
        self.writer.end_use(&self.core.engine)?;
        // Nothing can be changed any more, so every receipt is kept, whatever its number.
        self.core.progress.set_durable(u64::MAX);
        Ok(())
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.core.progress.end();
    }
}
