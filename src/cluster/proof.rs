//! What is known of what went over a connection: how far it is durable.
//!
//! `WAIT` and `WAITAOF` speak of the last write of their own connection, and of all that its node had before. So a receipt
//! belongs to a connection, and where that broke before its proof nobody can tell any more: the receipt fails, and never says
//! that it was kept. Where a request found nothing to change, [`pipeline`](super::pipeline) writes something first.

use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use redis::{RedisError, ServerError};

use crate::commit::Wakers;
use crate::fork;

/// How often a proof is asked for that nobody waits for.
const ASIDE: Duration = Duration::from_millis(200);
/// The same after many that failed.
const ASIDE_LATE: Duration = Duration::from_secs(16);

/// What a proof needs: set by the options, and by what the map knows of each primary.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) name: String,
    /// Syncs are asked for; in the relaxed mode they are not.
    pub(super) syncs: bool,
    /// The fewest replicas that have to have a change.
    pub(super) replicas: u64,
    /// How many each primary has, and how many it may have: some do not count as long as others call them failed.
    known: RwLock<Vec<(String, u64, u64)>>,
    /// The connections that are open, and those that broke before a change of theirs was proven.
    links: Mutex<Vec<Arc<Link>>>,
    /// The threads that run wakers, which may do anything: a thread that leads a lane does not.
    wakers: Arc<Wakers>,
}

impl Drop for Needs {
    fn drop(&mut self) {
        // A forked process has none of the threads, and may have the lock for ever.
        if !fork::is_child() {
            self.wakers.close();
        }
    }
}

impl Needs {
    pub(super) fn new(name: String, syncs: bool, replicas: u64) -> Self {
        Self { name, syncs, replicas, known: RwLock::default(), links: Mutex::default(), wakers: Arc::default() }
    }

    pub(super) fn wakers(&self) -> &Arc<Wakers> {
        &self.wakers
    }

    pub(super) fn set(&self, known: Vec<(String, u64, u64)>) {
        *self.known.write() = known;
    }

    /// Notes how many a node has that is not in the map yet.
    pub(super) fn add(&self, node: &str, replicas: u64) {
        let mut known = self.known.write();
        known.retain(|(name, ..)| name != node);
        known.push((node.to_owned(), replicas, replicas));
    }

    /// So many are connected to a node. One that was called failed, and is back, counts from then on; who else reads along, and
    /// is no replica, does not. Answers how many it needs.
    pub(super) fn connected(&self, node: &str, connected: u64) -> u64 {
        if let Some((_, replicas, most)) = self.known.write().iter_mut().find(|(name, ..)| name == node) {
            *replicas = connected.min(*most).max(*replicas);
        }
        self.of(node)
    }

    /// All that the primary has, and no fewer than there have to be.
    pub(super) fn of(&self, node: &str) -> u64 {
        let known = self.known.read();
        let of_node = known.iter().find(|(name, ..)| name == node).map_or(0, |(_, replicas, _)| *replicas);
        of_node.max(self.replicas)
    }
}

/// Whether the node itself has synced, and how many replicas.
pub(super) type Synced = (Option<u64>, Option<u64>);

impl Needs {
    /// Remembers a connection. Of those that broke one is enough: what it is remembered for is told once.
    pub(super) fn watch(&self, link: &Arc<Link>) {
        let mut links = self.links.lock();
        let mut is_known = false;
        links.retain(|link| {
            !link.is_lost() || link.unproven(self.syncs).is_some() && !std::mem::replace(&mut is_known, true)
        });
        links.push(Arc::clone(link));
    }

    /// Changes that were told of and that nothing has proven yet, one of each connection.
    pub(super) fn unproven(&self) -> Vec<Sent> {
        let sent = |link: &Arc<Link>| Some(Sent { link: Arc::clone(link), batch: link.unproven(self.syncs)? });
        self.links.lock().iter().filter_map(sent).collect()
    }
}

/// An attempt to prove all up to a batch.
#[derive(Debug)]
pub(super) struct Attempt {
    number: u64,
    batch: u64,
    pub(super) replicas: u64,
    pub(super) syncs: bool,
    /// Nobody waits for it, so it holds up the rest for a moment only.
    pub(super) is_aside: bool,
    /// What the node said no with.
    pub(super) refused: Option<ServerError>,
}

/// What proves that a change is kept.
pub(super) trait Way: Send + Sync {
    /// Asks for a proof, and waits for nothing.
    fn kick(&self);
    /// Gets one on this thread, unless another thread is at it.
    fn drive(&self);
}

/// Where a request was sent, so that its receipt can be told.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) link: Arc<Link>,
    pub(super) batch: u64,
}

/// A connection.
pub(super) struct Link {
    pub(super) node: String,
    pub(super) way: Weak<dyn Way>,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    wakers: Arc<Wakers>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Somebody waits for syncs, or for replicas.
    pub(super) wants_sync: bool,
    pub(super) wants_replicas: bool,
    /// Nobody waits, but it is wanted some time that replicas have all.
    wants_aside: bool,
    aside: Aside,
    pub(super) attempts: u64,
    /// The last batch that changed something that a caller was told of.
    changed: u64,
    pub(super) durable: u64,
    pub(super) replicated: u64,
    pub(super) failed: Option<Failed>,
    pub(super) lost: Option<Arc<str>>,
    pub(super) waiting: Vec<Waker>,
}

/// When a proof was wanted that nobody waits for, and how long not to want another one.
#[derive(Debug, Default)]
struct Aside {
    at: Option<Instant>,
    pause: Duration,
}

#[derive(Debug)]
pub(super) struct Failed {
    pub(super) attempt: u64,
    pub(super) batch: u64,
    pub(super) wanted: u64,
    pub(super) got: u64,
    /// What the node said no with.
    pub(super) refused: Option<ServerError>,
}

impl Sent {
    /// The replicas have it.
    pub(super) fn is_replicated(&self) -> bool {
        self.link.state.lock().replicated >= self.batch
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(node: String, way: Weak<dyn Way>, needs: &Needs) -> Self {
        let wakers = Arc::clone(&needs.wakers);
        Self { node, way, state: Mutex::default(), changed: Condvar::new(), wakers }
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state.lock().lost.is_some()
    }

    /// Asks the replicas for what was sent, and waits for nothing. Not again at once, and ever more seldom while they do not
    /// acknowledge: each time holds up what else goes over this connection.
    pub(super) fn ask_soon(&self) {
        let mut state = self.state.lock();
        let is_failing = state.failed.as_ref().is_some_and(|failed| failed.attempt == state.attempts);
        let Aside { at, pause } = &mut state.aside;
        if at.is_some_and(|at| at.elapsed() < *pause) {
            return;
        }
        *pause = if is_failing { (*pause * 2).min(ASIDE_LATE) } else { ASIDE };
        *at = Some(Instant::now());
        state.wants_aside = true;
        drop(state);
        if let Some(way) = self.way.upgrade() {
            way.kick();
        }
    }

    /// Begins an attempt, if somebody waits for one.
    pub(super) fn begin_proof(&self, batch: u64, replicas: impl FnOnce() -> u64) -> Option<Attempt> {
        let mut state = self.state.lock();
        let (syncs, is_awaited) = (state.wants_sync, state.wants_sync || state.wants_replicas);
        let is_wanted = is_awaited || state.wants_aside;
        (state.wants_sync, state.wants_replicas, state.wants_aside) = (false, false, false);
        if !is_wanted {
            return None;
        }
        state.attempts += 1;
        let number = state.attempts;
        drop(state);
        Some(Attempt { number, batch, replicas: replicas(), syncs, is_aside: !is_awaited, refused: None })
    }

    /// Ends it: how many replicas have it, and how many have synced it, this node's own sync before. Returns whether that
    /// is enough.
    pub(super) fn end_proof(
        &self,
        attempt: &Attempt,
        node: &str,
        replicated: Option<u64>,
        synced: Option<Synced>,
    ) -> bool {
        let wanted = attempt.replicas;
        let mut state = self.state.lock();
        let has_replicas = replicated.is_some_and(|got| got >= wanted);
        if has_replicas {
            state.replicated = state.replicated.max(attempt.batch);
        }
        let got = match synced {
            None => replicated.unwrap_or(0),
            Some((own, others)) => {
                let others = others.unwrap_or(0).min(replicated.unwrap_or(0));
                if own.is_some_and(|own| own >= 1) && others >= wanted && has_replicas {
                    state.durable = state.durable.max(attempt.batch);
                }
                others
            }
        };
        let is_enough = if attempt.syncs { state.durable >= attempt.batch } else { has_replicas };
        if !is_enough {
            tracing::debug!(node, wanted, got, "a change is not on as many nodes as it has to be");
            let refused = attempt.refused.clone();
            state.failed = Some(Failed { attempt: attempt.number, batch: attempt.batch, wanted, got, refused });
        }
        self.tell(state);
        is_enough
    }

    /// A batch changed something that a caller was told of.
    pub(super) fn note_change(&self, batch: u64) {
        self.state.lock().changed = batch;
    }

    /// The last change that a caller was told of, if it is not proven.
    fn unproven(&self, syncs: bool) -> Option<u64> {
        let state = self.state.lock();
        let reached = if syncs { state.durable } else { state.replicated };
        Some(state.changed).filter(|changed| *changed > reached)
    }

    /// A caller was told that a change may be lost.
    pub(super) fn forget_change(&self, batch: u64) {
        let mut state = self.state.lock();
        if state.changed == batch {
            state.changed = 0;
        }
    }

    /// The connection is gone.
    pub(super) fn lose(&self, error: &RedisError) {
        let mut state = self.state.lock();
        state.lost = Some(error.to_string().into());
        self.tell(state);
    }

    fn tell(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        self.changed.notify_all();
        drop(state);
        if !waiting.is_empty() && !fork::is_child() {
            self.wakers.call(waiting);
        }
    }
}

/// The way of a connection that nobody drives.
#[cfg(test)]
pub(super) struct Nobody;

#[cfg(test)]
impl Way for Nobody {
    fn kick(&self) {}

    fn drive(&self) {}
}
