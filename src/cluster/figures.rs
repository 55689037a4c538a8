//! What this process has done on the cluster, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::Mutex;

use super::late::{Late, Waits};
use super::receipt::Proven;
use crate::commit::{Polled, Proof};
use crate::error::{Error, Result};
use crate::prune::PruneReport;

/// The counters of a process.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Touches, those of messages among them.
    pub(super) touches: AtomicU64,
    /// Requests that were sent again, for the first time gave no answer.
    pub(super) retries: AtomicU64,
    /// Requests that a node sent on to another one.
    pub(super) redirections: AtomicU64,
    /// Changes whose outcome could not be told.
    pub(super) uncertain: AtomicU64,
    /// Touches that were sent again, for a failover may have lost them.
    pub(super) resent: AtomicU64,
    /// Touches that would not have been, for too many were remembered.
    pub(super) forgotten: AtomicU64,
    /// Receipts that are waited for now.
    pub(super) waiting: AtomicU64,
    /// Looks at what other processes want to prune.
    pub(super) reviews: AtomicU64,
    pub(super) passes: AtomicU64,
    pub(super) pruned: AtomicU64,
    pub(super) kept_unreviewed: AtomicU64,
    pub(super) events_dropped: AtomicU64,
    /// Members that keep passes waiting.
    late: Late,
}

impl Figures {
    pub(super) fn add(counter: &AtomicU64) {
        Self::add_all(counter, 1);
    }

    pub(super) fn add_all(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Relaxed);
    }

    /// Counts an error, if it is one that is counted.
    pub(super) fn failed(&self, error: Error) -> Error {
        if matches!(error, Error::Uncertain { .. }) {
            Self::add(&self.uncertain);
        }
        error
    }

    /// Counts a pass of pruning, and tells whom it waits for.
    pub(super) fn pruned(&self, report: &PruneReport, waits: Waits) {
        if report.dry_run {
            return;
        }
        Self::add(&self.passes);
        self.pruned.fetch_add(report.removed, Relaxed);
        self.kept_unreviewed.store(report.kept_unreviewed, Relaxed);
        self.late.tell(waits);
    }
}

/// A receipt's proof, counted while somebody waits for it.
#[derive(Debug)]
pub(super) struct Counted {
    proof: Proven,
    figures: Arc<Figures>,
    /// It was polled and is not ready.
    polled: Mutex<Option<Waiting>>,
}

/// Counts a caller for as long as it waits.
#[derive(Debug)]
struct Waiting(Arc<Figures>);

impl Waiting {
    fn new(figures: &Arc<Figures>) -> Self {
        figures.waiting.fetch_add(1, Relaxed);
        Self(Arc::clone(figures))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Counted {
    pub(super) fn new(proof: Proven, figures: &Arc<Figures>) -> Self {
        Self { proof, figures: Arc::clone(figures), polled: Mutex::default() }
    }

    fn counted(&self, polled: Poll<Result<()>>) -> Poll<Result<()>> {
        let mut waiting = self.polled.lock();
        match &polled {
            Poll::Pending => {
                waiting.get_or_insert_with(|| Waiting::new(&self.figures));
            }
            Poll::Ready(_) => *waiting = None,
        }
        polled.map_err(|error| self.figures.failed(error))
    }
}

impl Proof for Counted {
    fn commit(&self) -> u64 {
        self.proof.commit()
    }

    fn is_durable(&self) -> Result<bool> {
        self.proof.is_durable()
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<bool> {
        let _waiting = Waiting::new(&self.figures);
        self.proof.wait_until(deadline).map_err(|error| self.figures.failed(error))
    }

    fn poll(&self, polled: &mut Polled, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.counted(self.proof.poll(polled, context))
    }

    fn poll_replicated(&self, polled: &mut Polled, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.counted(self.proof.poll_replicated(polled, context))
    }

    fn wait_replicated(&self) -> Result<()> {
        let _waiting = Waiting::new(&self.figures);
        self.proof.wait_replicated().map_err(|error| self.figures.failed(error))
    }
}
