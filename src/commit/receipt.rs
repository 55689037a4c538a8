//! How far the committer is, and the receipts that wait for it.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::waiting::Waiting;
use super::wakers::Wakers;
use crate::error::{Error, Result};
use crate::fork;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, Sender, ThreadId, current};

/// How far the committer is. Shared by the store, the committer and all receipts.
#[derive(Debug)]
pub(crate) struct Progress {
    path: PathBuf,
    /// The newest commit that survives a power cut.
    durable: AtomicU64,
    /// The newest commit that is in the trees.
    applied: AtomicU64,
    /// The newest commit that had something to write.
    last_change: AtomicU64,
    /// The committer's thread, once it runs.
    committer: OnceLock<ThreadId>,
    /// The first failure. The store is read-only from then on.
    failure: OnceLock<Arc<Error>>,
    closed: AtomicBool,
    /// Someone waits for a commit.
    commit_wanted: AtomicBool,
    /// Someone waits for durability, not just for the trees.
    sync_wanted: AtomicBool,
    /// Wakes the committer. Holds one message; more would say the same.
    kick: Sender<()>,
    waiting: Mutex<Waiting>,
    /// For those that wait for room, or for the trees. Apart from the next, which would wake for each of these in vain.
    applied_changed: Condvar,
    /// For those that wait for durability.
    durable_changed: Condvar,
    wakers: Arc<Wakers>,
}

impl Progress {
    pub(super) fn new(path: PathBuf, commit: u64, kick: Sender<()>) -> Self {
        Self {
            path,
            durable: AtomicU64::new(commit),
            applied: AtomicU64::new(commit),
            last_change: AtomicU64::new(commit),
            committer: OnceLock::new(),
            failure: OnceLock::new(),
            closed: AtomicBool::new(false),
            commit_wanted: AtomicBool::new(false),
            sync_wanted: AtomicBool::new(false),
            kick,
            waiting: Mutex::default(),
            applied_changed: Condvar::new(),
            durable_changed: Condvar::new(),
            wakers: Arc::default(),
        }
    }

    /// The committer runs on this thread.
    pub(super) fn begin(&self) {
        self.committer.get_or_init(|| current().id());
    }

    /// Whether this is the committer's own thread, on which clocks and recorders of metrics are called too.
    pub(super) fn is_committer(&self) -> bool {
        self.committer.get() == Some(&current().id())
    }

    /// A callback on the committer's own thread would wait for itself.
    pub(super) fn check_not_committer(&self) -> Result<()> {
        let by = "on the committer's own thread, where a clock or a recorder is called: hand it to another thread";
        if self.is_committer() { Err(Error::Unsupported { what: "waiting for a commit", by }) } else { Ok(()) }
    }

    /// The failure that has ended all changes, if there was one.
    pub(super) fn check_failure(&self) -> Result<()> {
        self.failure.get().map_or(Ok(()), |failure| Err(self.read_only(failure)))
    }

    fn read_only(&self, failure: &Arc<Error>) -> Error {
        Error::ReadOnly { path: self.path.clone(), failure: Arc::clone(failure) }
    }

    /// Whether changes are accepted.
    pub(super) fn check_writable(&self) -> Result<()> {
        self.check_failure()?;
        if self.is_closed() {
            return Err(Error::Closed { path: self.path.clone() });
        }
        Ok(())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Tells the committer that there is something to commit by and by.
    pub(super) fn stir(&self) {
        // Full means that it will wake anyway; disconnected, that it has ended.
        let _ = self.kick.try_send(());
    }

    /// Asks the committer for a commit, but not for a sync.
    pub(super) fn kick(&self) {
        self.commit_wanted.store(true, Ordering::Release);
        self.stir();
    }

    pub(super) fn take_commit_wanted(&self) -> bool {
        self.commit_wanted.swap(false, Ordering::AcqRel)
    }

    #[cfg(test)]
    pub(super) fn is_kicked(&self) -> bool {
        self.kick.is_full()
    }

    pub(super) fn want_sync(&self) {
        self.sync_wanted.store(true, Ordering::Release);
        self.kick();
    }

    pub(super) fn take_sync_wanted(&self) -> bool {
        self.sync_wanted.swap(false, Ordering::AcqRel)
    }

    pub(super) fn last_change(&self) -> u64 {
        self.last_change.load(Ordering::Acquire)
    }

    pub(super) fn set_changed(&self, commit: u64) {
        self.last_change.store(commit, Ordering::Release);
    }

    /// The newest commit whose changes are all in the trees: their slots may go.
    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    pub(super) fn set_applied(&self, commit: u64) {
        self.applied.store(commit, Ordering::Release);
        self.notify_applied();
    }

    pub(super) fn set_durable(&self, commit: u64) {
        self.durable.store(commit, Ordering::Release);
        self.notify_all();
    }

    /// Ends all changes. Returns what everybody is told from now on.
    pub(super) fn set_failed(&self, error: Error) -> Error {
        tracing::error!(error = &error as &dyn std::error::Error, "the store is read-only from now on");
        // The first failure is the cause; later ones follow from it.
        let failure = self.failure.get_or_init(|| Arc::new(error));
        self.notify_all();
        self.read_only(failure)
    }

    pub(super) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
        self.notify_all();
    }

    /// The committer has ended: there is nothing left to wait for.
    pub(super) fn end(&self) {
        self.wakers.close();
    }

    /// Wakes the threads that wait for room, or for the trees.
    pub(super) fn notify_applied(&self) {
        let _waiting = self.waiting.lock();
        self.applied_changed.notify_all();
    }

    /// Wakes all waiting threads, and the tasks whose commit is durable.
    fn notify_all(&self) {
        let known = if self.is_failed() { u64::MAX } else { self.durable.load(Ordering::Acquire) };
        let woken = {
            let mut waiting = self.waiting.lock();
            self.applied_changed.notify_all();
            self.durable_changed.notify_all();
            waiting.take_until(known)
        };
        self.wakers.call(woken);
    }

    /// The outcome for `commit`, if there is one yet. Takes no lock.
    fn outcome(&self, commit: u64) -> Option<Result<()>> {
        if fork::is_child() {
            return Some(Err(Error::Forked { path: self.path.clone() }));
        }
        if self.durable.load(Ordering::Acquire) >= commit {
            return Some(Ok(()));
        }
        self.check_failure().err().map(Err)
    }

    /// Waits until `commit` is in the trees.
    pub(super) fn wait_applied(&self, commit: u64) -> Result<()> {
        let applied = || (self.applied() >= commit).then_some(Ok(()));
        self.wait_for(&self.applied_changed, None, || applied().or_else(|| self.outcome(commit))).unwrap_or(Ok(()))
    }

    /// Waits until there is room for more changes.
    pub(super) fn wait_for_room(&self, has_room: impl Fn() -> bool) -> Result<()> {
        self.wait_for(&self.applied_changed, None, || match self.check_writable() {
            Ok(()) => has_room().then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })
        .unwrap_or(Ok(()))
    }

    /// Waits at `changed` until `done` has an answer or the deadline has passed.
    fn wait_for<T>(&self, changed: &Condvar, deadline: Option<Instant>, done: impl Fn() -> Option<T>) -> Option<T> {
        let mut guard = self.waiting.lock();
        loop {
            if let Some(answer) = done() {
                return Some(answer);
            }
            match deadline {
                None => changed.wait(&mut guard),
                Some(deadline) => {
                    if changed.wait_until(&mut guard, deadline).timed_out() {
                        return done();
                    }
                }
            }
        }
    }
}

/// What waits for a commit.
#[derive(Debug)]
pub(crate) struct CommitReceipt {
    commit: u64,
    progress: Arc<Progress>,
    /// The place of its waker among those that wait for the commit.
    place: Option<usize>,
}

impl Clone for CommitReceipt {
    fn clone(&self) -> Self {
        Self::new(self.commit, Arc::clone(&self.progress))
    }
}

impl Drop for CommitReceipt {
    fn drop(&mut self) {
        if let Some(place) = self.place.filter(|_| !fork::is_child()) {
            // Dropped with no lock held: it is the caller's code.
            let waker = self.progress.waiting.lock().leave(self.commit, place);
            drop(waker);
        }
    }
}

impl CommitReceipt {
    pub(super) fn new(commit: u64, progress: Arc<Progress>) -> Self {
        Self { commit, progress, place: None }
    }

    pub(super) fn commit(&self) -> u64 {
        self.commit
    }

    pub(super) fn is_durable(&self) -> Result<bool> {
        self.progress.outcome(self.commit).transpose().map(|outcome| outcome.is_some())
    }

    pub(super) fn wait_until(&self, deadline: Option<Instant>) -> Result<bool> {
        if let Some(outcome) = self.progress.outcome(self.commit) {
            return outcome.map(|()| true);
        }
        self.progress.check_not_committer()?;
        self.progress.want_sync();
        match self.progress.wait_for(&self.progress.durable_changed, deadline, || self.progress.outcome(self.commit)) {
            Some(outcome) => outcome.map(|()| true),
            None => Ok(false),
        }
    }
}

impl Future for CommitReceipt {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { commit, progress, place } = self.get_mut();
        if let Some(outcome) = progress.outcome(*commit) {
            return Poll::Ready(outcome);
        }
        let is_there = |waker: &mut Option<Waker>| waker.as_ref().is_some_and(|w| w.will_wake(context.waker()));
        if place.and_then(|place| progress.waiting.lock().place(*commit, place).map(is_there)) == Some(true) {
            return Poll::Pending;
        }
        // Cloned and dropped with no lock held: it is the caller's code.
        let waker = context.waker().clone();
        let mut waiting = progress.waiting.lock();
        // Looked at under the lock: the thread that sets the outcome takes it before it wakes those that wait.
        if let Some(outcome) = progress.outcome(*commit) {
            return Poll::Ready(outcome);
        }
        let (new, old) = waiting.put(*commit, *place, waker);
        *place = Some(new);
        drop(waiting);
        drop(old);
        progress.want_sync();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
