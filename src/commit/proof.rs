//! [`Receipt`]: of a commit, or of what an engine of another kind has to prove.

use std::future::Future;
#[cfg(feature = "valkey")]
use std::future::poll_fn;
use std::pin::Pin;
#[cfg(feature = "valkey")]
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::receipt::CommitReceipt;
use crate::error::Result;

/// What another engine knows of a change.
#[cfg(feature = "valkey")]
pub(crate) trait Proof: Send + Sync + std::fmt::Debug {
    fn commit(&self) -> u64;
    fn is_durable(&self) -> Result<bool>;
    /// Blocks until it is proven; `false` after the deadline.
    fn wait_until(&self, deadline: Option<Instant>) -> Result<bool>;
    fn poll(&self, polled: &mut Polled, context: &mut Context<'_>) -> Poll<Result<()>>;
    /// Blocks until the replicas have it in memory.
    fn wait_replicated(&self) -> Result<()>;
    fn poll_replicated(&self, polled: &mut Polled, context: &mut Context<'_>) -> Poll<Result<()>>;
}

/// What a proof had begun to do when a receipt first waited for its parts, as far as that came to them. It is the receipt's own,
/// and a clone begins anew.
#[cfg(feature = "valkey")]
#[derive(Debug, Default)]
pub(crate) struct Polled(pub(crate) Vec<u64>);

#[cfg(feature = "valkey")]
impl Clone for Polled {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Proof that a change was taken, and the way to wait until it survives a power cut.
///
/// A change is visible to every reader as soon as the verb returns. Whoever drops the receipt accepts that a power
/// cut may undo the last `commit_interval` and the commit in flight; on a cluster, that a failover may undo it.
/// [`wait`](Receipt::wait) blocks; `.await` works on any async runtime. Both start a commit at once, or ask the node for its
/// proof, and all that wait share that.
///
/// ```no_run
/// # fn f(store: &cloakroom::SessionStore, key: &cloakroom::SessionKey) -> Result<(), cloakroom::Error> {
/// if let Some(receipt) = store.touch(key)? {
///     receipt.wait()?; // on disk now
/// }
/// # Ok(()) }
/// ```
///
/// Wakers run on threads of the store, and nobody but other wakers waits for one: they may do what they like. One that
/// takes more than a second gets its thread for itself; if 16 of them never return, the others wait too.
#[derive(Debug, Clone)]
pub struct Receipt(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Commit(CommitReceipt),
    #[cfg(feature = "valkey")]
    Other(Arc<dyn Proof>, Polled),
}

impl Receipt {
    pub(super) fn of_commit(receipt: CommitReceipt) -> Self {
        Self(Kind::Commit(receipt))
    }

    #[cfg(feature = "valkey")]
    pub(crate) fn other(proof: Arc<dyn Proof>) -> Self {
        Self(Kind::Other(proof, Polled::default()))
    }

    /// The number of the commit that takes the change. On a cluster it is that of a batch on its way to one node, and puts
    /// changes of different nodes in no order.
    #[must_use]
    pub fn commit(&self) -> u64 {
        match &self.0 {
            Kind::Commit(receipt) => receipt.commit(),
            #[cfg(feature = "valkey")]
            Kind::Other(proof, _) => proof.commit(),
        }
    }

    /// Whether the change survives a power cut by now. Does not start a commit. Of a relaxed store on a cluster it never does.
    ///
    /// # Errors
    /// Those of [`wait`](Receipt::wait) that are known by now.
    pub fn is_durable(&self) -> Result<bool> {
        match &self.0 {
            Kind::Commit(receipt) => receipt.is_durable(),
            #[cfg(feature = "valkey")]
            Kind::Other(proof, _) => proof.is_durable(),
        }
    }

    /// Blocks until the change survives a power cut.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly) if a write or a sync failed: the change may or may not be on disk.
    /// [`Error::Forked`](crate::Error::Forked) in a forked process, which cannot tell. On a cluster, instead of the first:
    /// `NotReplicated` if too few replicas have it so far (it may be waited for again), `Refused` if the node refuses the proof (so
    /// may this), `Uncertain` if the connection broke before the proof, `Relaxed` if nothing of the store is ever durable.
    pub fn wait(&self) -> Result<()> {
        self.wait_until(None).map(|_| ())
    }

    /// Blocks as [`wait`](Receipt::wait) does, but at most for `timeout`. `false` means that the time is over; the
    /// commit goes on.
    ///
    /// # Errors
    /// Those of [`wait`](Receipt::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// Blocks until as many replicas have the change in memory as the options of a cluster say. For a store whose changes
    /// are never durable that is all there is; elsewhere [`wait`](Receipt::wait) says more.
    ///
    /// # Errors
    /// [`Error::NotReplicated`](crate::Error::NotReplicated) and [`Error::Refused`](crate::Error::Refused), and it may be waited
    /// for again;
    /// [`Error::Uncertain`](crate::Error::Uncertain): the change may or may not be there after a failover. Of an embedded store
    /// this is [`wait`](Receipt::wait), with its errors.
    #[cfg(feature = "valkey")]
    pub fn replicated(&self) -> Result<()> {
        match &self.0 {
            Kind::Commit(_) => self.wait(),
            Kind::Other(proof, _) => proof.wait_replicated(),
        }
    }

    /// As [`replicated`](Receipt::replicated), and blocks no thread.
    ///
    /// # Errors
    /// Those of `replicated`.
    #[cfg(feature = "valkey")]
    pub async fn replicated_async(&self) -> Result<()> {
        match &self.0 {
            Kind::Commit(receipt) => receipt.clone().await,
            Kind::Other(proof, _) => {
                let mut polled = Polled::default();
                poll_fn(|context| proof.poll_replicated(&mut polled, context)).await
            }
        }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<bool> {
        match &self.0 {
            Kind::Commit(receipt) => receipt.wait_until(deadline),
            #[cfg(feature = "valkey")]
            Kind::Other(proof, _) => proof.wait_until(deadline),
        }
    }
}

impl Future for Receipt {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Kind::Commit(receipt) => Pin::new(receipt).poll(context),
            #[cfg(feature = "valkey")]
            Kind::Other(proof, polled) => proof.poll(polled, context),
        }
    }
}
