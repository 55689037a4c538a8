//! The group commit: the one way in.
//!
//! ```text
//! caller ── touch/update/… ──► pending (memory, sharded) ──► committer thread ──► trees ─► flush ─► fdatasync
//!    ▲                             │ read-your-writes                                           │
//!    └────────── get ◄─────────────┴──────────────── Receipt::wait / .await ◄───────────────────┘
//! ```
//!
//! [`Commits`] owns the thread and what it shares with the callers: the engine, the pending changes and the progress.
//! A change is made under its key's shard lock and gets the number of the open commit. The committer closes that
//! commit `commit_interval` after its first change, at once when somebody waits, or when much has piled up. Ten touches
//! of one key between two commits are one write.

mod committer;
mod entry_lock;
mod kept;
mod leases;
mod moving;
mod orders;
mod peek;
mod pending;
mod place;
mod proof;
mod read;
mod receipt;
mod shard;
mod snapshot;
mod take;
mod turns;
mod waiting;
mod wakers;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::{Activity, Fingerprint};
use crate::entry::Revision;
use crate::error::{Error, Result, panic_message};
use crate::fork;
use crate::key::SessionKey;
use crate::meter::Meter;
use crate::storage::{Engine, Writer};
use crate::sync::{Inbox, JoinHandle, Mutex, Sender, answer, spawn};
use crate::time::Clock;
use crate::unreadable::Unreadable;

use committer::{Committer, Order};
pub(crate) use entry_lock::EntryLock;
pub(crate) use leases::{HeldBy, Leases, MAX_LEASES};
pub(crate) use moving::Moved;
use moving::Try;
pub(crate) use peek::Peeked;
use pending::Pending;
pub(crate) use place::Placed;
pub use proof::Receipt;
#[cfg(feature = "valkey")]
pub(crate) use proof::{Polled, Proof};
use receipt::{CommitReceipt, Progress};
pub(crate) use snapshot::{Snapshot, Whole};
pub(crate) use turns::Marker;
use turns::Turns;
#[cfg(feature = "valkey")]
pub(crate) use wakers::Wakers;

/// What the callers and the committer share.
#[derive(Debug)]
struct Core {
    engine: Engine,
    pending: Pending,
    progress: Arc<Progress>,
    clock: Arc<dyn Clock>,
    meter: Meter,
}

/// Settings of the group commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How long a change may wait for its commit.
    pub(crate) interval: Duration,
    /// How many changes may wait; more make their callers wait.
    pub(crate) max_pending: usize,
    /// Entries kept in memory after their commit, or after they were read.
    pub(crate) cached_entries: usize,
    /// The revision to go on from: a random one, so that no opening gives what another gave.
    pub(crate) first_revision: Revision,
}

/// How far the commits had come when an entry was looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The commit that took what was changed then.
    open: u64,
    /// The newest one in the trees.
    applied: u64,
}

/// The pending changes and the thread that commits them.
#[derive(Debug)]
pub(crate) struct Commits {
    core: Arc<Core>,
    orders: Sender<Order>,
    /// `None` once it has ended.
    thread: Mutex<Option<JoinHandle<()>>>,
    max_pending: usize,
}

impl Commits {
    /// Starts the committer.
    pub(crate) fn start(engine: Engine, writer: Writer, clock: Arc<dyn Clock>, settings: Settings) -> Result<Self> {
        let mark = writer.mark();
        let (kick, orders, inbox) = Inbox::new();
        let progress = Arc::new(Progress::new(engine.path().to_path_buf(), mark.commit, kick));
        let mut unreadable = Unreadable::default();
        let mut turns = Vec::new();
        for turn in engine.turns()? {
            turns.extend(unreadable.pass(turn)?);
        }
        if !unreadable.is_empty() {
            tracing::warn!(?unreadable, "turns of the last opening cannot be decoded");
        }
        let turns = Turns::new(turns, mark.commit);
        let leases = engine.leases()?;
        if leases.iter().any(|found| found.lease.is_err()) {
            tracing::warn!("leases cannot be decoded; they hold their entries until the store is repaired");
        }
        let (counts, leases) = ((mark.commit, mark.count), Leases::new(leases));
        let pending = Pending::new(counts, turns, leases, &settings, Arc::clone(&progress));
        let path = engine.path().to_path_buf();
        let state_synced_at = clock.monotonic();
        let meter = Meter::new(engine.path());
        let core = Arc::new(Core { engine, pending, progress, clock, meter });
        let committer = Committer {
            core: Arc::clone(&core),
            writer,
            inbox,
            interval: settings.interval,
            unsynced_since: None,
            tend_at: None,
            state_synced_at,
            committed: 0,
        };
        let thread = spawn("cloakroom-write", move || committer.run())
            .map_err(|e| Error::io("start the committer of", path, e))?;
        Ok(Self { core, orders, thread: Mutex::new(Some(thread)), max_pending: settings.max_pending })
    }

    /// What the threads share. A forked process must not take its locks, and gets an error. All verbs come through here.
    fn core(&self) -> Result<&Core> {
        if fork::is_child() { Err(Error::Forked { path: self.path().to_path_buf() }) } else { Ok(&self.core) }
    }

    /// The trees, for scans. What is pending is not in them: see [`Commits::apply_pending`].
    pub(crate) fn engine(&self) -> Result<&Engine> {
        Ok(&self.core()?.engine)
    }

    /// The store's directory.
    pub(crate) fn path(&self) -> &Path {
        self.core.engine.path()
    }

    /// What counts the work of this store.
    pub(crate) fn meter(&self) -> &Meter {
        &self.core.meter
    }

    /// What stands for a key in the trees and in memory.
    pub(crate) fn fingerprint(&self, key: &SessionKey) -> Fingerprint {
        self.core.engine.fingerprint(key)
    }

    /// How many entries there are.
    pub(crate) fn count(&self) -> u64 {
        self.core.pending.count()
    }

    /// How many changes wait or are in flight.
    pub(crate) fn pending(&self) -> usize {
        self.core.pending.changes()
    }

    /// The number of the newest commit that changed something.
    pub(crate) fn last_change(&self) -> u64 {
        self.core.progress.last_change()
    }

    /// The commit that takes what is changed now.
    pub(crate) fn open_commit(&self) -> u64 {
        self.core.pending.open_commit()
    }

    /// The turns that have begun and not ended.
    pub(crate) fn turns(&self) -> Result<&Turns> {
        Ok(&self.core()?.pending.turns)
    }

    /// What holds entries.
    pub(crate) fn leases(&self) -> Result<&Arc<Leases>> {
        Ok(&self.core()?.pending.leases)
    }

    /// Locks an entry to change it; waits while too many changes are pending, or while the entry that was there is on its
    /// way to another key.
    pub(crate) fn lock(&self, key: &SessionKey) -> Result<EntryLock<'_>> {
        let Core { engine, pending, progress, .. } = self.core()?;
        loop {
            self.wait_for_room()?;
            let entry = pending.lock(engine, key)?;
            // Asked with the shard locked: the last commit takes each shard after this flag is set, so a change is
            // either refused or committed.
            progress.check_writable()?;
            let Some(commit) = entry.moved_away() else { return Ok(entry) };
            drop(entry);
            self.wait_taken(commit)?;
        }
    }

    /// Locks an entry that was seen just now, as [`lock`](Self::lock).
    pub(crate) fn lock_seen(&self, seen: &Activity, seen_at: Seen) -> Result<EntryLock<'_>> {
        let Core { engine, pending, progress, .. } = self.core()?;
        self.wait_for_room()?;
        let entry = pending.lock_seen(engine, seen, seen_at.applied)?;
        progress.check_writable()?;
        match entry.moved_away() {
            None => Ok(entry),
            Some(_) => {
                drop(entry);
                self.lock(&seen.key)
            }
        }
    }

    /// The moment at which something is looked at.
    pub(crate) fn seen_now(&self) -> Seen {
        Seen { open: self.core.pending.open_commit(), applied: self.core.progress.applied() }
    }

    /// Gives an entry another key, as one step. Waits for changes of either that have to be in the trees before.
    pub(crate) fn rename(&self, from: &SessionKey, to: &SessionKey) -> Result<Moved> {
        let Core { engine, pending, .. } = self.core()?;
        loop {
            self.wait_for_room()?;
            match pending.rename(engine, from, to)? {
                Try::Done(moved) => return Ok(moved),
                Try::After(commit) => self.wait_taken(commit)?,
            }
        }
    }

    fn wait_for_room(&self) -> Result<()> {
        let Core { pending, progress, .. } = self.core()?;
        // Before anything is read: after a failure reading may fail too, and the cause is to be told.
        progress.check_writable()?;
        if pending.weight() >= self.max_pending {
            progress.check_not_committer()?;
            progress.kick();
            progress.wait_for_room(|| pending.weight() < self.max_pending)?;
        }
        Ok(())
    }

    /// Applies the changes of `commit` to the trees; does not wait for a sync.
    fn wait_taken(&self, commit: u64) -> Result<()> {
        let Core { progress, .. } = self.core()?;
        progress.check_not_committer()?;
        progress.kick();
        progress.wait_applied(commit)
    }

    /// Whether this is the committer's own thread, on which clocks and recorders of metrics are called too.
    pub(crate) fn is_committer(&self) -> bool {
        self.core.progress.is_committer()
    }

    /// The receipt of a change that `commit` takes. Call it with no entry locked.
    pub(crate) fn receipt(&self, commit: u64) -> Receipt {
        self.kick_if_full();
        Receipt::of_commit(CommitReceipt::new(commit, Arc::clone(&self.core.progress)))
    }

    /// Has a commit begin once half of what may wait does. A change that nobody gets a receipt of calls it, with no entry
    /// locked.
    pub(crate) fn kick_if_full(&self) {
        if self.core.pending.weight() >= self.max_pending / 2 {
            self.core.progress.kick();
        }
    }

    /// The receipt of everything changed so far.
    pub(crate) fn receipt_of_all(&self) -> Result<Receipt> {
        Ok(self.receipt(self.core()?.pending.open_commit()))
    }

    /// All entries as they are now, to be read while others change them.
    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>> {
        let Core { engine, pending, .. } = self.core()?;
        Ok(Snapshot::new(pending, engine, pending.begin_snapshot()))
    }

    /// Applies all pending changes to the trees; does not wait for a sync.
    pub(crate) fn apply_pending(&self) -> Result<()> {
        let Core { pending, progress, .. } = self.core()?;
        if pending.weight() == 0 || progress.is_failed() {
            return Ok(());
        }
        self.wait_taken(pending.open_commit())
    }

    /// Commits what is pending and ends the thread. Changes fail from now on. Every call waits for the end and returns
    /// the outcome.
    pub(crate) fn close(&self) -> Result<()> {
        self.core()?.progress.set_closed();
        if self.is_committer() {
            // A callback of the committer's own, which cannot wait for itself. The next to close it does.
            return self.core.progress.check_writable();
        }
        // Held until the thread has ended, so that other calls wait for that too.
        let mut thread = self.thread.lock();
        if let Some(thread) = thread.take() {
            // After a failure the store is read-only, and every call tells why.
            let _ = self.order(Order::Close);
            if let Err(panic) = thread.join() {
                self.core.progress.set_failed(Error::Panicked { message: panic_message(&*panic) });
            }
        }
        self.core.progress.check_failure()
    }

    /// Why the store is read-only, if it is.
    #[cfg(feature = "live")]
    pub(crate) fn failure(&self) -> Option<Error> {
        self.core.progress.check_failure().err()
    }

    /// Whether it was closed, or is being closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.core.progress.is_closed()
    }

    /// Whether a failure has ended all changes.
    #[cfg(test)]
    pub(crate) fn is_read_only(&self) -> bool {
        self.core.progress.is_failed()
    }

    /// Whether somebody waits for the committer while it is at work.
    #[cfg(test)]
    pub(crate) fn is_asked(&self) -> bool {
        !self.orders.is_empty() || self.core.progress.is_kicked()
    }

    fn order<T>(&self, order: impl FnOnce(Sender<Result<T>>) -> Order) -> Result<T> {
        let (answer, result) = answer();
        let gone = || Error::Closed { path: self.path().to_path_buf() };
        self.core()?;
        self.core.progress.check_not_committer()?;
        self.orders.send(order(answer)).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())?
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        if self.thread.get_mut().is_none() {
            // It was closed before, and that call returned the outcome.
            return;
        }
        if self.is_committer() {
            // A callback dropped the store on the committer's own thread. It closes when it finds nobody left.
            return;
        }
        if let Err(error) = self.close() {
            tracing::error!(error = &error as &dyn std::error::Error, "the last commit failed");
        }
    }
}
